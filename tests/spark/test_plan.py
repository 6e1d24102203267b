"""What is to be done follows from what was done, and a file that a run loses does not go unnoticed."""

import hashlib
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import functions as F

from medspark.frame import Limits
from medspark.spark import plan, tables
from medspark.spark.runs import Counts

BEFORE, NOW = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def images(spark):
    rows = [
        ("new", 10, NOW, "listed", None),
        ("done", 10, NOW, "listed", None),
        ("another time", 10, NOW, "listed", None),
        ("another size", 10, NOW, "listed", None),
        ("failed", 10, NOW, "listed", None),
        ("half", 10, NOW, "listed", None),  # one frame measured, one failed
        ("nowhere", None, None, "listed", None),
        ("hidden", 10, NOW, "skipped", "hidden"),
        ("touched", 10, NOW, "listed", None, "t"),
        ("touched, failed", 10, NOW, "listed", None, "g"),
        ("too large", 10, NOW, "listed", None),
        ("left", 10, NOW, "gone", None, "l", NOW),
    ]
    names = ["path", "size_bytes", "modified_at", "status", "reason", "content_sha256", "gone_at"]
    whole = [dict(zip(names, row, strict=False)) for row in rows]
    return spark.createDataFrame(pa.Table.from_pylist(whole, tables.arrow(tables.IMAGES))).cache()


@pytest.fixture(scope="module")
def planned(spark, images):
    def with_retry(*retry, decoders="pillow 12"):
        same = "path string, content_sha256 string, size_bytes long, modified_at timestamp"
        done = [
            ("done", "d", 10, NOW),
            ("touched", "t", 10, BEFORE),
            ("another time", "a", 10, BEFORE),
            ("another size", "b", 9, NOW),
            ("half", "h", 10, NOW),
        ]
        failed = [
            ("failed", "f", 10, NOW, "truncated", "pillow 12"),
            ("touched, failed", "g", 10, BEFORE, "corrupt", "pillow 12"),
            ("half", "h", 10, NOW, "step_failed", "pillow 12"),
            ("half", "h", 10, NOW, "truncated", "pillow 12"),
            ("too large", None, 10, NOW, "too_large", "pillow 12"),
            ("nowhere", None, None, None, "vanished", "pillow 12"),
        ]
        known = plan.with_known(
            images,
            spark.createDataFrame(done, same),
            spark.createDataFrame(failed, f"{same}, reason string, decoders string"),
        )
        return plan.with_plan(known, decoders=decoders, retry=retry)

    return with_retry


def verdicts(images):
    return {row["path"]: (row["status"], row["reason"]) for row in images.collect()}


FIRST = {
    "new": ("todo", None),
    "done": ("unchanged", None),
    "touched": ("unchanged", None),
    "another time": ("todo", None),
    "another size": ("todo", None),
    "failed": ("quarantined", "truncated"),
    "touched, failed": ("quarantined", "corrupt"),
    "half": ("quarantined", "step_failed"),
    "too large": ("quarantined", "too_large"),
    "nowhere": ("todo", None),  # to look again costs nothing
    "hidden": ("skipped", "hidden"),
    "left": ("gone", None),
}


def test_a_file_is_known_by_its_path_size_and_time_or_by_its_content(planned):
    assert verdicts(planned()) == FIRST


def test_what_is_to_be_tried_again_is(planned):
    todo = ("todo", None)
    assert verdicts(planned("truncated", "timeout")) == {**FIRST, "failed": todo}
    assert verdicts(planned("step_failed", "too_large")) == {**FIRST, "half": todo, "too large": todo}


def test_what_failed_is_tried_again_with_other_decoders(planned):
    failed = dict.fromkeys(("failed", "touched, failed", "half", "too large"), ("todo", None))
    assert verdicts(planned(decoders="pillow 13")) == {**FIRST, **failed}


def test_only_rows_that_are_there_are_to_be_replaced(planned):
    known = {row["path"] for row in plan.only_todo(planned()).where("is_known").collect()}
    assert known == {"another time", "another size", "nowhere"}


def test_the_content_is_known_from_the_rows_of_the_same_file(planned):
    contents = {row["path"]: row["content_sha256"] for row in planned().collect()}
    assert {path for path, content in contents.items() if content} == {
        "done", "touched", "touched, failed", "failed", "half", "left",
    }  # fmt: skip
    assert contents["done"] == "d"


def test_a_plan_is_told_in_words(planned):
    assert plan.describe(planned(), 0.5) == (
        "process 4 files of 30 bytes (1 new, 3 changed or to be tried again), and leave 2 unchanged, 1 skipped,"
        " 4 in quarantine, 1 gone; about 2 s at the last run's pace"
    )
    assert plan.describe(planned(), None).endswith("1 gone")


@pytest.mark.parametrize("n_chunks", [1, 2, 5, 15])
def test_every_file_is_in_one_chunk_and_an_archive_is_not_split(spark, n_chunks):
    paths = [f"{directory}/{name}" for directory in ("a", "b.zip!", "c") for name in range(5)]
    parts = [
        [row["path"] for row in part.collect()]
        for part in plan.chunks(spark.createDataFrame([(path,) for path in paths], "path string"), n_chunks)
    ]
    assert len(parts) == n_chunks
    assert sorted(path for part in parts for path in part) == sorted(paths)
    assert sum(any("b.zip!" in path for path in part) for part in parts) == 1


def test_files_of_the_known_size_are_hashed_and_no_others(spark, tmp_path):
    content = b"the same as before"
    for name in ("touched", "other bytes", "another size", "new"):
        (tmp_path / name).write_bytes(content if name != "another size" else b"longer than it was before")
    listed = [
        {
            "path": str(tmp_path / name),
            "size_bytes": (tmp_path / name).stat().st_size,
            "modified_at": NOW,
            "status": "listed",
        }
        for name in ("touched", "other bytes", "another size", "new")
    ]
    images = spark.createDataFrame(pa.Table.from_pylist(listed, tables.arrow(tables.IMAGES)))
    shas = {"touched": hashlib.sha256(content).hexdigest(), "other bytes": "0" * 64, "another size": "1" * 64}
    before = [(str(tmp_path / name), sha, len(content), BEFORE) for name, sha in shas.items()]
    known = plan.with_known(
        images,
        spark.createDataFrame(before, "path string, content_sha256 string, size_bytes long, modified_at timestamp"),
        spark.createDataFrame([], tables.QUARANTINE),
    )
    hashed = plan.with_hashes(known, Limits())
    names = {row["path"].rsplit("/")[-1]: row["content_sha256"] for row in hashed.collect()}
    assert names == {"touched": shas["touched"], "other bytes": shas["touched"], "another size": None, "new": None}
    todo = plan.only_todo(plan.with_plan(hashed, decoders=""))
    assert {row["path"].rsplit("/")[-1] for row in todo.collect()} == {"other bytes", "another size", "new"}


OUTCOMES = [
    ("new", None, None, "n"), ("new", None, None, "n"),
    ("another time", None, None, "x"), ("another time", "lbp", "step_failed", "x"),
    ("another size", "read", "vanished", None),
    ("nowhere", "read", "vanished", None),
]  # fmt: skip


def settled(spark, planned, outcomes):
    rows = spark.createDataFrame(outcomes, "path string, failed_stage string, reason string, content_sha256 string")
    return plan.settled(planned(), rows)


def test_a_file_is_processed_when_all_its_frames_were_measured(spark, planned):
    after = settled(spark, planned, OUTCOMES)
    assert verdicts(after) == {
        **FIRST,
        "new": ("processed", None),
        "another time": ("quarantined", "step_failed"),
        "another size": ("quarantined", "vanished"),
        "nowhere": ("quarantined", "vanished"),
    }
    contents = {row["path"]: row["content_sha256"] for row in after.collect()}
    assert (contents["new"], contents["another time"], contents["nowhere"]) == ("n", "x", None)
    assert plan.count(after) == Counts(11, n_processed=1, n_unchanged=2, n_skipped=1, n_quarantined=7)
    assert plan.reasons(after) == [
        ("quarantined, step_failed", 2), ("quarantined, vanished", 2),
        ("quarantined, corrupt", 1), ("skipped, hidden", 1),
        ("quarantined, too_large", 1), ("quarantined, truncated", 1),
    ]  # fmt: skip


def test_the_same_bytes_twice_and_two_objects_with_one_uid_are_flagged(spark):
    rows = [
        ("copy 1", "same", "1.2", None), ("copy 2", "same", "1.2", None), ("other", "other", "1.2", None),
        ("alone", "unique", "1.3", None), ("no dicom", "png", None, None), ("its copy", "png", None, None),
        ("unread 1", None, "1.4", None), ("unread 2", None, "1.4", None), ("gone copy", "unique", "1.3", NOW),
    ]  # fmt: skip
    names = ["path", "content_sha256", "sop_instance_uid", "gone_at"]
    whole = [dict(zip(names, row, strict=True)) for row in rows]
    images = spark.createDataFrame(pa.Table.from_pylist(whole, tables.arrow(tables.IMAGES)))
    flags = {row["path"]: row["flags"] for row in plan.with_flags(images).collect()}
    assert flags == {
        "copy 1": ["same_content", "shared_sop_instance_uid"],
        "copy 2": ["same_content", "shared_sop_instance_uid"],
        "other": ["shared_sop_instance_uid"],
        "alone": [],
        "no dicom": ["same_content"],
        "its copy": ["same_content"],
        "unread 1": ["shared_sop_instance_uid"],
        "unread 2": ["shared_sop_instance_uid"],
        "gone copy": [],
    }


def test_a_file_that_was_lost_on_the_way_stops_the_run(spark, planned):
    with pytest.raises(RuntimeError, match="the accounting does not add up"):
        plan.count(settled(spark, planned, OUTCOMES[2:]))


def test_a_listing_counts_what_was_listed_before_as_unchanged_and_what_has_a_series(spark, images):
    seen = [("done", 10, NOW, None), ("new", 10, BEFORE, None), ("nowhere", None, None, None), ("half", 10, NOW, NOW)]
    before = spark.createDataFrame(seen, "path string, size_bytes long, modified_at timestamp, gone_at timestamp")
    images = images.withColumn("series_uid", F.when(F.col("path").isin("done", "new"), "1.2"))
    assert plan.count_listing(images, before) == (Counts(11, n_processed=8, n_unchanged=2, n_skipped=1), 2)


@given(st.lists(st.integers(0, 10**12), min_size=4, max_size=4), st.integers(-3, 3))
def test_counts_are_made_only_if_they_add_up(parts, more):
    if more == 0:
        assert f"{sum(parts):,} listed = {parts[0]:,} processed" in str(Counts(sum(parts), *parts))
    else:
        with pytest.raises(RuntimeError, match="does not add up"):
            Counts(sum(parts) + more, *parts)
