"""The jobs in the session of the tests, and what they leave behind as any other reader sees it."""

import contextlib
import io
from dataclasses import dataclass, field
from pathlib import Path

from deltalake import DeltaTable

from medspark.config import load, parser
from medspark.phantom import Inventory

RECIPE = ("--set", 'features=[{use="first_order"}, {use="lbp", points=8, radius=1}]')
"""Quick to run, and what it measures can be checked by hand."""


def config(*options):
    """Return the configuration of a command line."""
    return load(parser("test", "").parse_args([str(option) for option in options]))


def run(job, spark, *options):
    """Run a job and return its exit code and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = job.run(spark, config(*options))
    return code, printed.getvalue()


def rows(warehouse, name):
    """Return the rows of a table, by path and frame where it has them, read by delta-rs and not by Spark."""
    found = DeltaTable(f"{warehouse}/{name}").to_pyarrow_table().to_pylist()
    return sorted(found, key=lambda row: (row.get("path") or "", row.get("frame") or 0))


def last_run(warehouse):
    """Return the newest row of the runs table."""
    return max(rows(warehouse, "runs"), key=lambda row: row["finished_at"])


def listing(directory):
    """Return the size and time of every file below, to see whether something was written."""
    files = (path for path in Path(directory).rglob("*") if path.is_file())
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


@dataclass(frozen=True)
class Hospital:
    """A synthetic archive that went through the whole line; shared by many tests, so read it only."""

    archive: Path
    warehouse: Path
    inventory: Inventory
    codes: dict[str, int] = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)
