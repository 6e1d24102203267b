"""pyspark's daemon, silent about workers that outlive those they worked for.

When a task is cancelled (``show()`` has its rows) or a session ends, an idle worker finds its socket closed. pyspark then
prints the trace of a BrokenPipeError on stderr, where it looks like a job that failed. Every other trace is printed.
Spark starts this module by the setting ``spark.python.daemon.module``.
"""

import sys
import traceback
from types import SimpleNamespace

from pyspark import daemon


def _print_exc() -> None:
    if not isinstance(sys.exception(), BrokenPipeError):
        traceback.print_exc()


if __name__ == "__main__":
    daemon.traceback = SimpleNamespace(print_exc=_print_exc, format_exc=traceback.format_exc)  # type: ignore[assignment]
    daemon.manager()
