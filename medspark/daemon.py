"""pyspark's worker daemon, silent where Spark stops, or cancels a task, under a worker.

A worker that waits for its next task when the session ends tries to report the end of its input to a JVM that is gone,
and pyspark prints the traceback: noise at the end of a run that went well. ``spark.python.daemon.module`` names this
module in conf/spark/local.conf; its standard input and arguments are those of ``pyspark.daemon``. It is not in
``medspark.spark``, which would bring Arrow and OpenBLAS with their threads into a process that forks.
"""

import socket

from pyspark import daemon

_worker = daemon.worker


def worker(sock: socket.socket, authenticated: bool) -> int:  # noqa: FBT001 - as pyspark calls it
    """Serve tasks as pyspark does; return 1, for a worker that is not used again, when nobody listens any more."""
    try:
        return int(_worker(sock, authenticated))
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    daemon.worker = worker
    daemon.manager()
