"""Files that leave the archive and come back: nothing is lost on the way, and nothing is measured twice."""

import os
import shutil
import zipfile

import pytest
from builders import make_png
from line import RECIPE, last_run, rows, run

from medspark.jobs import extract


@pytest.fixture
def archive(tmp_path):
    root = tmp_path / "archive"
    (root / "ward").mkdir(parents=True)
    for name in ("stays.png", "leaves.png", "ward/inner.png"):
        (root / name).write_bytes(make_png())
    (root / "damaged.png").write_bytes(make_png()[:300])
    with zipfile.ZipFile(root / "study.zip", "w") as bundle:
        bundle.writestr("one.png", make_png())
        bundle.writestr("two.png", make_png())
    return root


@pytest.fixture
def night(spark, archive, tmp_path):
    """Index and extract, as every night."""

    def go(*inputs):
        given = [option for path in inputs or [archive] for option in ("--input", path)]
        code, printed = run(extract, spark, *given, "--warehouse", tmp_path / "warehouse", *RECIPE)
        assert code == 0, printed
        return {
            name: {row["path"].removeprefix(f"{archive}/"): row for row in rows(tmp_path / "warehouse", name)}
            for name in ("images", "features", "quarantine")
        } | {"counts": {key: value for key, value in last_run(tmp_path / "warehouse").items() if key[:2] == "n_"}}

    return go


def gone(tables, name):
    return {path for path, row in tables[name].items() if row["gone_at"] is not None}


def test_what_left_is_marked_and_what_came_back_is_not_measured_again(archive, night, tmp_path):
    first = night()
    assert first["counts"]["n_listed"] == first["counts"]["n_processed"] + 1 == 6
    assert not gone(first, "images") | gone(first, "features") | gone(first, "quarantine")

    times = {path: path.stat().st_mtime_ns for path in (archive / "leaves.png", archive / "damaged.png")}
    for path in times:
        shutil.move(path, tmp_path)
    second = night()
    assert second["counts"] == {
        "n_listed": 4, "n_processed": 0, "n_unchanged": 4, "n_skipped": 0, "n_quarantined": 0,
    }  # fmt: skip
    assert gone(second, "images") == {"leaves.png", "damaged.png"}
    assert {row["status"] for row in second["images"].values() if row["gone_at"]} == {"gone"}
    assert gone(second, "features") == {"leaves.png"}
    assert gone(second, "quarantine") == {"damaged.png"}
    unmarked = {**second["features"], "leaves.png": {**second["features"]["leaves.png"], "gone_at": None}}
    assert unmarked == first["features"]

    third = night()  # the moment it was noticed stays
    assert third["images"] == second["images"]
    assert third["features"] == second["features"]

    for path in times:
        shutil.move(tmp_path / path.name, path)
    back = night()
    assert back["counts"] == {
        "n_listed": 6, "n_processed": 0, "n_unchanged": 5, "n_skipped": 0, "n_quarantined": 1,
    }  # fmt: skip
    assert back["features"] == first["features"]
    assert back["quarantine"] == first["quarantine"]


def test_a_touched_file_is_not_measured_again_and_is_read_for_it_only_once(archive, night):
    first = night()
    os.utime(archive / "stays.png", (1, 1))
    second = night()
    assert second["counts"]["n_processed"] == 0
    assert second["features"] == first["features"]
    assert second["images"]["stays.png"]["content_sha256"] == first["features"]["stays.png"]["content_sha256"]
    assert second["images"]["stays.png"]["modified_at"] != first["images"]["stays.png"]["modified_at"]
    (archive / "stays.png").chmod(0)  # whoever would read it again would fail
    try:
        assert night()["images"]["stays.png"]["status"] == "unchanged"
    finally:
        (archive / "stays.png").chmod(0o644)


def test_a_member_that_left_its_archive_is_gone_and_the_others_stay(archive, night):
    night()
    with zipfile.ZipFile(archive / "study.zip", "w") as bundle:
        bundle.writestr("two.png", make_png())
    after = night()
    assert gone(after, "images") == gone(after, "features") == {"study.zip!/one.png"}
    assert after["images"]["study.zip!/two.png"]["status"] == "unchanged"


def test_what_cannot_be_looked_at_is_not_gone(archive, night):
    first = night()
    (archive / "ward").rename(archive.parent / "ward")
    (archive / "ward").symlink_to("ward")  # a link to itself: nobody can tell what is in it
    after = night()
    assert not gone(after, "images") | gone(after, "features")
    assert after["features"] == first["features"]
    assert "ward/inner.png" not in after["images"]


def test_files_of_another_input_are_not_gone(archive, night, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.png").write_bytes(make_png())
    night(archive, other)
    assert not gone(night(archive), "features")
    assert not gone(night(archive / "st*.png"), "features")
    assert gone(night(archive, other), "features") == set()


def test_a_listing_that_was_lost_with_everything_measured_is_made_again_as_it_was(archive, night, tmp_path):
    (archive / "copy.png").write_bytes((archive / "stays.png").read_bytes())
    first = night()
    assert "same_content" in first["images"]["copy.png"]["flags"]
    shutil.rmtree(tmp_path / "warehouse" / "images")  # as if killed after the last commit but one
    again = night()
    assert again["counts"]["n_processed"] == 0
    for row in again["images"].values():
        row["status"] = {"unchanged": "processed"}.get(row["status"], row["status"])
    assert again["images"] == first["images"]
