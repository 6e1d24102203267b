"""An archive behind Hadoop's client: the same rows as from the directory that it is."""

import os

import pytest
import wards
from accounting import faults
from builders import make_png
from line import RECIPE, last_run, rows
from nights import Nights
from wards import WARDS, zipped

ROOT = "viewfs:///archive/wards"


FILES = WARDS | {"gone.png": make_png()}
REASONS = wards.REASONS | {"gone.png": "vanished"}


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """What there was after each night, from the directory and from the mount table that leads to it."""
    home = tmp_path_factory.mktemp("nights")
    archive = home / "archive" / "wards"
    link = f"<name>fs.viewfs.mounttable.default.link./archive</name><value>{archive.parent.as_uri()}</value>"
    (home / "core-site.xml").write_text(f"<configuration><property>{link}</property></configuration>")
    places = {"directory": str(archive), "hadoop": ROOT}
    session = Nights(os.environ | {"HADOOP_CONF_DIR": str(home)})
    found = {"told": {}}

    def run(night, job, *options):
        for place, root in places.items():
            inputs = ("--input", root) if job == "index" else ()
            found["told"][night, job, place] = session.run(job, *inputs, "--warehouse", home / place, *options)
            found[night, job, place] = {name: by_name(home / place, name, root) for name in ("images", "features")}

    for name, content in FILES.items():
        (archive / name).parent.mkdir(parents=True, exist_ok=True)
        (archive / name).write_bytes(content)
    run("first", "index")
    (archive / "gone.png").unlink()
    run("first", "extract", *RECIPE)
    found["counts"] = {place: last_run(home / place) for place in places}
    found["faults"] = [fault for place, root in places.items() for fault in faults(home / place, shown(root))]
    (archive / "plain.png").unlink()
    (archive / "study.zip").write_bytes(zipped(5))
    run("second", "index")
    found["told"]["nothing"] = session.run("index", "--input", f"{ROOT}/nothing", "--warehouse", home / "nothing")
    found["told"]["silent"] = session.run("index", "--input", "hdfs://127.0.0.1:1/x", "--warehouse", home / "nothing")
    found["end"] = session.end()
    return found


def shown(root):
    """Return the paths of the files; what stands before the separator is an archive to those who add up."""
    return {f"{root}/{name.partition('!/')[0]}" for name in FILES}


def by_name(warehouse, table, root):
    """Return the rows of a table by name and frame, without what tells where the archive lies and when it was read."""
    own = ("path", "input", "run_id", "recipe_id", "gone_at", "created_at", "extracted_at", "indexed_at")
    if not (warehouse / table).exists():
        return {}
    return {
        (row["path"].removeprefix(f"{root}/"), row.get("frame")): {
            **{key: value for key, value in row.items() if key not in own}, "is_gone": row["gone_at"] is not None,
        }
        for row in rows(warehouse, table)
    }  # fmt: skip


def in_ms(table):
    """Return rows with the times that Hadoop knows, which are whole milliseconds."""
    return {place: row | {"modified_at": whole_ms(row["modified_at"])} for place, row in table.items()}


def whole_ms(moment):
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def test_every_job_did_its_work_and_the_session_ended_without_a_word(nights):
    done = {key: value for key, value in nights["told"].items() if isinstance(key, tuple)}
    assert len(done) == 6
    assert done == dict.fromkeys(done, 0)
    assert nights["end"] == (0, [])


@pytest.mark.parametrize("step", [("first", "index"), ("first", "extract"), ("second", "index")])
@pytest.mark.parametrize("table", ["images", "features"])
def test_the_rows_are_those_of_the_directory_bit_for_bit(nights, step, table):
    expected = in_ms(nights[*step, "directory"][table])
    assert in_ms(nights[*step, "hadoop"][table]) == expected
    assert expected or (step, table) == (("first", "index"), "features")


def test_every_file_has_the_status_and_reason_it_deserves_and_the_sums_are_right(nights):
    assert nights["faults"] == []
    images = nights["first", "extract", "hadoop"]["images"]
    assert {name: row["reason"] for (name, _), row in images.items() if row["status"] == "quarantined"} == REASONS
    assert {name for (name, _), row in images.items() if row["status"] == "skipped"} == {".hidden/x.png"}
    assert len(nights["first", "extract", "hadoop"]["features"]) == 9
    for place in ("directory", "hadoop"):
        counts = {key: value for key, value in nights["counts"][place].items() if key.startswith("n_")}
        assert counts == {"n_listed": 12, "n_processed": 7, "n_unchanged": 0, "n_skipped": 1, "n_quarantined": 4}


def test_what_left_is_gone(nights):
    images = nights["second", "index", "hadoop"]["images"]
    gone = {name for (name, _), row in images.items() if row["is_gone"]}
    assert gone == {"gone.png", "plain.png", "study.zip!/in side/6.png"}


def test_what_is_not_there_and_who_does_not_answer_stop_the_job(nights):
    assert nights["told"]["nothing"] == (
        f"ConfigError: --input {ROOT}/nothing: no such object, and as a prefix it holds none"
    )
    assert nights["told"]["silent"].startswith(
        "ConfigError: --input hdfs://127.0.0.1:1/x: cannot be looked at: network connection. "
    )
