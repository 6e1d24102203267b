"""One line that moves while a job works: done, total, pace, quarantine, time left."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from pyspark import Accumulator
from pyspark.sql import SparkSession

from medspark import log

_SECONDS, _SECONDS_IN_A_LOG = 0.5, 60.0


@dataclass(frozen=True)
class Tally:
    """Files counted on the executors; the driver learns of them as their tasks end."""

    n_done: Accumulator[int]
    n_failed: Accumulator[int]

    @classmethod
    def of(cls, spark: SparkSession) -> "Tally":
        """Return a tally that stands at zero."""
        return cls(spark.sparkContext.accumulator(0), spark.sparkContext.accumulator(0))

    def add(self, n_done: int, n_failed: int) -> None:
        """Count files, on an executor."""
        self.n_done.add(n_done)
        self.n_failed.add(n_failed)


@contextmanager
def progress(
    job: str, tally: Tally, n_files: int, *, run_id: str | None = None, out: TextIO | None = None
) -> Iterator[None]:
    """Show how far a job is, as long as the block runs: text on a terminal in place, all else as a line a minute."""
    out = sys.stdout if out is None else out
    is_in_place = out.isatty() and not log.is_json()
    is_over = threading.Event()
    began = time.monotonic()

    def show() -> None:
        while not is_over.wait(_SECONDS if is_in_place else _SECONDS_IN_A_LOG):
            standing = (tally.n_done.value, n_files, tally.n_failed.value, time.monotonic() - began)
            text = f"{job}: {describe(*standing)}"
            said = log.line(text, "progress", job=job, run_id=run_id, **facts(*standing))
            out.write(f"\r\033[K{said}" if is_in_place else f"{said}\n")
            out.flush()
        if is_in_place:
            out.write("\r\033[K")

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def facts(n_done: int, n_files: int, n_failed: int, seconds: float) -> dict[str, Any]:
    """Return counts, pace and time left by name; nothing of the time before the first files are done."""
    counts = {"n_done": n_done, "n_total": n_files, "n_quarantined": n_failed}
    if not n_done:
        return counts
    left = (n_files - n_done) * seconds / n_done
    return {**counts, "files_per_second": round(n_done / seconds, 3), "seconds_left": round(left, 1)}


def describe(n_done: int, n_files: int, n_failed: int, seconds: float) -> str:
    """Return the line; nothing is said of the time before the first files are done."""
    text = f"{n_done:,} / {n_files:,} files"
    if not n_done:
        return text
    pace = n_done / seconds
    return f"{text}, {pace:,.1f} files/s, {n_failed:,} in quarantine, {_time((n_files - n_done) / pace)} left"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
