import io
import json
import re
import time

import pytest

from medspark import log
from medspark.spark import progress
from medspark.spark.progress import Tally, describe, facts


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ((0, 5840, 0, 12.0), "0 / 5,840 files"),
        ((1000, 5840, 3, 10.0), "1,000 / 5,840 files, 100.0 files/s, 3 in quarantine, 48 s left"),
        ((1000, 61_000, 0, 10.0), "1,000 / 61,000 files, 100.0 files/s, 0 in quarantine, 10 min left"),
        ((10, 100_010, 0, 10.0), "10 / 100,010 files, 1.0 files/s, 0 in quarantine, 27.8 h left"),
        ((7, 7, 7, 2.0), "7 / 7 files, 3.5 files/s, 7 in quarantine, 0 s left"),
    ],
)
def test_the_line_gives_pace_and_time_left(counts, line):
    assert describe(*counts) == line


@pytest.mark.parametrize(
    ("counts", "pace"),
    [
        ((0, 5840, 0, 12.0), {}),
        ((1000, 5840, 3, 10.0), {"files_per_second": 100.0, "seconds_left": 48.4}),
        ((3, 10, 0, 9.0), {"files_per_second": 0.333, "seconds_left": 21.0}),
    ],
)
def test_the_facts_are_the_numbers_of_the_line(counts, pace):
    n_done, n_total, n_quarantined, _ = counts
    assert facts(*counts) == {"n_done": n_done, "n_total": n_total, "n_quarantined": n_quarantined, **pace}


def test_a_terminal_sees_the_counts_of_the_executors_in_one_line(spark):
    tally, out = Tally.of(spark), Terminal()
    with progress.progress("extract", tally, 40, out=out):
        spark.sparkContext.parallelize(range(40), 4).foreachPartition(lambda part: tally.add(len(list(part)), 1))
        time.sleep(1.2)
    assert "\n" not in out.getvalue()
    assert re.search(r"extract: 40 / 40 files, [\d.]+ files/s, 4 in quarantine, 0 s left\r\033\[K$", out.getvalue())


def test_a_log_is_left_alone_for_a_minute(spark):
    out = io.StringIO()
    with progress.progress("extract", Tally.of(spark), 40, out=out):
        time.sleep(1.2)
    assert out.getvalue() == ""


def test_a_log_gets_a_line_a_minute(spark, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_IN_A_LOG", 0.1)
    out = io.StringIO()
    with progress.progress("extract", Tally.of(spark), 40, out=out):
        time.sleep(0.5)
    assert set(out.getvalue().splitlines()) == {"extract: 0 / 40 files"}


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_as_json_it_is_a_line_a_minute_even_on_a_terminal(spark, monkeypatch, kind):
    monkeypatch.setattr(progress, "_SECONDS_IN_A_LOG", 0.1)
    tally, out = Tally.of(spark), kind()
    spark.sparkContext.parallelize(range(20), 4).foreachPartition(lambda part: tally.add(len(list(part)), 1))
    log.use("json", "reprocess")
    try:
        with progress.progress("extract", tally, 40, run_id="extract-7", out=out):
            time.sleep(0.5)
    finally:
        log.use("text")
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    assert len(told) > 1
    for entry in told:
        assert (entry["job"], entry["run_id"], entry["event"]) == ("extract", "extract-7", "progress")
        assert (entry["n_done"], entry["n_total"], entry["n_quarantined"]) == (20, 40, 4)
        assert entry["text"].startswith("extract: 20 / 40 files, ")
    # Half is done: what is left takes as long as what was.
    assert 0 < told[0]["seconds_left"] <= told[-1]["seconds_left"] < 10
    assert told[0]["files_per_second"] > told[-1]["files_per_second"] > 1
