"""An archive over its life: measured, looked at again, changed, damaged, measured in another way."""

import hashlib
import io
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from builders import make_dicom, make_pixels, make_png
from line import RECIPE, last_run, listing, rows, run

from medspark.errors import ConfigError
from medspark.jobs import extract, index
from medspark.recipe import Recipe

OTHER_RECIPE = ("--set", 'features=[{use="hu_moments"}]')
N_BINS = 10  # of uniform LBP with 8 points


def with_bad_page():
    """The second of three pages holds numbers that no feature can be made of."""
    pages = np.stack([make_pixels(seed=seed).astype(np.float32) for seed in range(3)])
    pages[1, 4, 5] = np.nan
    file = io.BytesIO()
    tifffile.imwrite(file, pages, photometric="minisblack")
    return file.getvalue()


FRAMES = np.stack([make_pixels(seed=seed, dtype=np.uint16) // (64 * (seed + 1)) for seed in range(3)])
FILES = {
    "good.png": make_png(),
    "changes.png": make_png(make_pixels(seed=1)),
    "frames.dcm": make_dicom(FRAMES),
    "page.tif": with_bad_page(),
    "cut.png": make_png()[:500],
    "empty.png": b"",
    "notes.txt": b"no image",
    "gone.png": make_png(make_pixels(seed=2)),
    "wide.png": make_png(np.tile(np.arange(100, dtype=np.uint8), (100, 1))),
    ".hidden.png": make_png(),
}
SMALL = ("--set", "limits.max_pixels=5000")
REASONS = {
    "page.tif": "step_failed",
    "cut.png": "truncated",
    "empty.png": "empty_file",
    "notes.txt": "not_an_image",
    "gone.png": "vanished",
    "pipe.png": "unreadable",
    "wide.png": "too_large",
}


@dataclass
class Snapshot:
    """What there was after a run."""

    code: int
    printed: str
    images: dict[str, dict]
    features: list[dict]
    quarantine: list[dict]
    counts: dict[str, int]

    def of(self, name):
        """Return the features of a file."""
        return [row for row in self.features if row["path"].endswith(f"/{name}")]

    @property
    def reasons(self):
        return {name: row["reason"] for name, row in self.images.items() if row["status"] == "quarantined"}

    @property
    def statuses(self):
        return {name: row["status"] for name, row in self.images.items()}


@pytest.fixture(scope="module")
def life(spark, tmp_path_factory):
    """Every run there was, by name."""
    home = tmp_path_factory.mktemp("life")
    archive, warehouse = home / "archive", home / "warehouse"
    archive.mkdir()
    for name, content in FILES.items():
        (archive / name).write_bytes(content)
    os.mkfifo(archive / "pipe.png")
    gone = archive / "gone.png"
    time_of_gone = gone.stat().st_mtime_ns
    runs = {}

    def extract_again(name, *options, recipe=RECIPE):
        code, printed = run(extract, spark, "--warehouse", warehouse, *recipe, *options)
        last = last_run(warehouse)
        runs[name] = Snapshot(
            code,
            printed,
            {row["relative_path"]: row for row in rows(warehouse, "images")},
            rows(warehouse, "features"),
            rows(warehouse, "quarantine"),
            {key: value for key, value in last.items() if key.startswith("n_")},
        )

    zone = spark.conf.get("spark.sql.session.timeZone")
    spark.conf.set("spark.sql.session.timeZone", "Asia/Kathmandu")  # 5:45 from UTC; the rest runs in UTC
    try:
        run(index, spark, "--input", archive, "--warehouse", warehouse)
        gone.unlink()
        before = listing(warehouse)
        runs["dry"] = (
            run(extract, spark, "--warehouse", warehouse, *RECIPE, *SMALL, "--dry-run"),
            before,
            listing(warehouse),
        )
        extract_again("first", *SMALL)
    finally:
        spark.conf.set("spark.sql.session.timeZone", zone)
    gone.write_bytes(FILES["gone.png"])
    os.utime(gone, ns=(time_of_gone, time_of_gone))
    extract_again("again", *SMALL)
    extract_again("retried", "--retry", "too_large", "--set", "run.max_failed=0.4")
    _flip_a_pixel(archive / "changes.png")
    extract_again("changed", "--input", archive)
    extract_again("other recipe", recipe=OTHER_RECIPE)
    return runs


def _flip_a_pixel(path):
    facts = path.stat()
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    pixels[0, 0] ^= 1
    path.write_bytes(make_png(pixels))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1_000_000))  # a clock may be coarse


def test_a_dry_run_says_what_it_would_do_and_does_nothing(life):
    (code, printed), before, after = life["dry"]
    assert code == 0
    n_bytes = sum(len(content) for name, content in FILES.items() if name != ".hidden.png")
    assert f"extract would process {len(FILES)} files of {n_bytes:,} bytes" in printed  # the pipe, but not the hidden
    assert f"({len(FILES)} new, 0 changed or to be tried again)" in printed
    assert before == after


def test_a_dry_run_looks_at_the_input_as_it_is_now_and_needs_no_listing(spark, tmp_path):
    archive, warehouse = tmp_path / "archive", tmp_path / "warehouse"
    archive.mkdir()
    (archive / "one.png").write_bytes(make_png())
    options = ("--input", archive, "--warehouse", warehouse, *RECIPE)
    assert "would process 1 files of" in run(extract, spark, *options, "--dry-run")[1]
    assert not warehouse.exists()
    run(index, spark, *options)
    before = listing(warehouse)
    (archive / "two.png").write_bytes(make_png())
    (archive / "three.png").write_bytes(make_png())
    (archive / "one.png").unlink()
    told = run(extract, spark, *options, "--dry-run")[1]
    assert "would process 2 files of" in told
    assert "1 gone" in told
    assert listing(warehouse) == before


def test_every_file_has_the_status_and_the_reason_it_deserves(life):
    good = dict.fromkeys(("good.png", "changes.png", "frames.dcm"), "processed")
    assert life["first"].statuses == {**good, **dict.fromkeys(REASONS, "quarantined"), ".hidden.png": "skipped"}
    assert life["first"].reasons == REASONS
    assert life["first"].images[".hidden.png"]["reason"] == "hidden"


def test_the_counts_add_up_and_stand_in_the_runs_table(life):
    assert life["first"].counts == {
        "n_listed": 11, "n_processed": 3, "n_unchanged": 0, "n_skipped": 1, "n_quarantined": 7,
    }  # fmt: skip
    assert "11 listed = 3 processed + 0 unchanged + 1 skipped + 7 quarantined" in life["first"].printed


def test_each_frame_of_a_file_is_a_row_with_its_own_numbers(life):
    found = life["first"].of("frames.dcm")
    assert [row["frame"] for row in found] == [0, 1, 2]
    np.testing.assert_allclose([row["first_order_mean"] for row in found], FRAMES.mean(axis=(1, 2)), rtol=1e-12)
    assert {(row["rows"], row["columns"], row["modality"]) for row in found} == {(48, 64, "CT")}


def test_one_bad_frame_leaves_the_others_and_names_itself(life):
    assert [row["frame"] for row in life["first"].of("page.tif")] == [0, 2]
    (row,) = [row for row in life["first"].quarantine if row["path"].endswith("page.tif")]
    assert (row["frame"], row["failed_stage"], row["reason"]) == (1, "first_order", "step_failed")
    assert row["content_sha256"] == hashlib.sha256(FILES["page.tif"]).hexdigest()


def test_files_that_gave_nothing_say_where_they_stopped(life):
    stages = {Path(row["path"]).name: row["failed_stage"] for row in life["first"].quarantine}
    read = dict.fromkeys(("empty.png", "gone.png", "pipe.png"), "read")
    assert stages == {
        **read,
        "cut.png": "decode",
        "notes.txt": "decode",
        "wide.png": "decode",
        "page.tif": "first_order",
    }


def test_the_time_of_a_file_is_its_own_whatever_the_time_zone_of_the_session(life):
    (row,) = life["again"].of("good.png")
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=Path(row["path"]).stat().st_mtime_ns // 1000)
    assert row["modified_at"] == moment
    assert life["first"].of("good.png")[0]["modified_at"] == moment


def test_a_second_run_processes_nothing_but_what_was_missing_and_changes_no_row(life):
    again, first = life["again"], life["first"]
    assert again.counts == {**first.counts, "n_processed": 1, "n_unchanged": 3, "n_quarantined": 6}
    unchanged = {name: "unchanged" if status == "processed" else status for name, status in first.statuses.items()}
    assert again.statuses == {**unchanged, "gone.png": "processed"}  # it vanished, and is back
    assert len(again.of("gone.png")) == 1
    assert [row for row in again.features if not row["path"].endswith("gone.png")] == first.features
    assert again.quarantine == [row for row in first.quarantine if row["reason"] != "vanished"]


def test_a_reason_is_tried_again_only_when_asked_for(life):
    assert life["again"].reasons["wide.png"] == "too_large"
    retried = life["retried"]
    assert retried.statuses["wide.png"] == "processed"
    assert len(retried.of("wide.png")) == 1
    assert retried.counts["n_processed"] == 1
    assert retried.quarantine == [row for row in life["again"].quarantine if row["reason"] != "too_large"]


def test_too_many_in_quarantine_make_the_exit_code_1_after_everything_was_written(life):
    assert life["first"].code == 0  # 7 of 11, and by default any number is
    assert life["retried"].code == 1  # 5 of 11, and 0.4 are allowed
    assert "more than run.max_failed = 0.4" in life["retried"].printed
    assert life["retried"].counts["n_quarantined"] == 5


def test_a_changed_byte_is_measured_anew_and_nothing_else(life):
    before, after = life["retried"], life["changed"]
    assert after.counts["n_processed"] == 1
    assert after.statuses["changes.png"] == "processed"
    (old,), (new,) = before.of("changes.png"), after.of("changes.png")
    assert old["content_sha256"] != new["content_sha256"]
    assert old["first_order_energy"] != new["first_order_energy"]
    untouched = [row for row in before.features if row != old]
    assert [row for row in after.features if row != new] == untouched
    assert after.quarantine == before.quarantine


def test_another_recipe_adds_its_columns_and_leaves_the_rows_of_the_first_alone(life):
    before, after = life["changed"], life["other recipe"]
    other = Recipe.from_dict({"features": [{"use": "hu_moments"}]})
    first = [row for row in after.features if row["recipe_id"] != other.recipe_id]
    second = [row for row in after.features if row["recipe_id"] == other.recipe_id]
    assert first == [{**row, **dict.fromkeys(other.feature_names)} for row in before.features]
    assert [(row["path"], row["frame"]) for row in second] == [(row["path"], row["frame"]) for row in before.features]
    for row in second:
        assert row["first_order_mean"] is None
        assert None not in [row[name] for name in other.feature_names]
    assert after.counts["n_processed"] == before.counts["n_processed"] + before.counts["n_unchanged"] == 5


def test_without_a_listing_there_is_nothing_to_extract(spark, tmp_path):
    with pytest.raises(ConfigError, match="has no images table: run index first, or give --input"):
        run(extract, spark, "--warehouse", tmp_path / "warehouse", *RECIPE)
