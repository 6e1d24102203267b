"""pyspark's worker daemon with our imports done before it forks, and silent where Spark stops under a worker.

A worker that waits for its next task when the session ends tries to report the end of its input to a JVM that is gone,
and pyspark prints the traceback: noise at the end of a run that went well. ``spark.python.daemon.module`` names this
module in conf/spark/local.conf; its standard input and arguments are those of ``pyspark.daemon``.
"""

import gc
import importlib
import os
import socket

from medspark.unzipped import leave_out_zips

leave_out_zips()

from pyspark import daemon  # noqa: E402

_worker = daemon.worker
# pyspark imports pandas before the first function of a worker that takes Arrow.
_NEEDED = ("pandas", *(f"medspark.spark.{name}" for name in ("gone", "listing", "scoring", "series")))


def worker(sock: socket.socket, authenticated: bool) -> int:  # noqa: FBT001 - as pyspark calls it
    """Serve tasks as pyspark does; return 1, for a worker that is not used again, when nobody listens any more."""
    try:
        return int(_worker(sock, authenticated))
    except BrokenPipeError:
        return 1


def preload() -> None:
    """Do once what every worker and every child of one would spend a second of its own on."""
    # A thread does not survive a fork, and OpenBLAS starts some as it is imported; Spark uses the cores by itself.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for name in _NEEDED:
        importlib.import_module(name)
    from medspark.recipe import Recipe

    # The first call of a compiled kernel has numba read the rest of itself and the kernel.
    Recipe.from_toml("default").warm_up()
    gc.freeze()  # pyspark collects garbage after each task: to look at all that was imported takes 60 ms


if __name__ == "__main__":
    preload()
    daemon.worker = worker
    daemon.manager()
