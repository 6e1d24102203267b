"""What is to be done follows from what was done, and a file that a run loses does not go unnoticed."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    ]
    names = ["path", "size_bytes", "modified_at", "status", "reason"]
    whole = [dict(zip(names, row, strict=True)) for row in rows]
    return spark.createDataFrame(pa.Table.from_pylist(whole, tables.arrow(tables.IMAGES))).cache()


@pytest.fixture(scope="module")
def planned(spark, images):
    def with_retry(*retry):
        same = "path string, size_bytes long, modified_at timestamp"
        done = [("done", 10, NOW), ("another time", 10, BEFORE), ("another size", 9, NOW), ("half", 10, NOW)]
        failed = [
            ("failed", 10, NOW, "truncated"),
            ("half", 10, NOW, "step_failed"),
            ("nowhere", None, None, "vanished"),
        ]
        return plan.with_plan(
            images,
            spark.createDataFrame(done, same),
            spark.createDataFrame(failed, f"{same}, reason string"),
            retry=retry,
        )

    return with_retry


def verdicts(images):
    return {row["path"]: (row["status"], row["reason"]) for row in images.collect()}


FIRST = {
    "new": ("todo", None),
    "done": ("unchanged", None),
    "another time": ("todo", None),
    "another size": ("todo", None),
    "failed": ("quarantined", "truncated"),
    "half": ("quarantined", "step_failed"),
    "nowhere": ("quarantined", "vanished"),
    "hidden": ("skipped", "hidden"),
}


def test_a_file_is_known_by_its_path_size_and_time(planned):
    assert verdicts(planned()) == FIRST


def test_what_is_to_be_tried_again_is(planned):
    todo = ("todo", None)
    assert verdicts(planned("truncated", "timeout")) == {**FIRST, "failed": todo}
    assert verdicts(planned("step_failed", "vanished")) == {**FIRST, "half": todo, "nowhere": todo}


OUTCOMES = [
    ("new", None, None), ("new", None, None),
    ("another time", None, None), ("another time", "lbp", "step_failed"),
    ("another size", "read", "vanished"),
]  # fmt: skip


def settled(spark, planned, outcomes):
    rows = spark.createDataFrame(outcomes, "path string, failed_stage string, reason string")
    return plan.settled(planned(), rows)


def test_a_file_is_processed_when_all_its_frames_were_measured(spark, planned):
    after = settled(spark, planned, OUTCOMES)
    assert verdicts(after) == {
        **FIRST,
        "new": ("processed", None),
        "another time": ("quarantined", "step_failed"),
        "another size": ("quarantined", "vanished"),
    }
    assert plan.count(after) == Counts(8, n_processed=1, n_unchanged=1, n_skipped=1, n_quarantined=5)
    assert plan.reasons(after) == [
        ("quarantined, step_failed", 2), ("quarantined, vanished", 2),
        ("skipped, hidden", 1), ("quarantined, truncated", 1),
    ]  # fmt: skip


def test_a_file_that_was_lost_on_the_way_stops_the_run(spark, planned):
    with pytest.raises(RuntimeError, match="the accounting does not add up"):
        plan.count(settled(spark, planned, OUTCOMES[2:]))


def test_a_listing_counts_what_was_listed_before_as_unchanged(spark, images):
    before = spark.createDataFrame([("done", 10, NOW), ("new", 10, BEFORE), ("nowhere", None, None)],
                                   "path string, size_bytes long, modified_at timestamp")  # fmt: skip
    assert plan.count_listing(images, before) == Counts(8, n_processed=5, n_unchanged=2, n_skipped=1)


@given(st.lists(st.integers(0, 10**12), min_size=4, max_size=4), st.integers(-3, 3))
def test_counts_are_made_only_if_they_add_up(parts, more):
    if more == 0:
        assert f"{sum(parts):,} listed = {parts[0]:,} processed" in str(Counts(sum(parts), *parts))
    else:
        with pytest.raises(RuntimeError, match="does not add up"):
            Counts(sum(parts) + more, *parts)
