"""The process that forks the workers; that it is silent is shown by tests/spark/test_launch.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LOOK = """
import pathlib, sys
from medspark import daemon
daemon.preload()
print(*(thread.joinpath("comm").read_text().strip() for thread in pathlib.Path("/proc/self/task").iterdir()))
print(*sys.modules)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts the threads that Linux shows")
def test_what_every_worker_needs_is_loaded_before_the_fork_without_a_thread_that_a_fork_would_lose():
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    run = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True, env=environment)
    threads, modules = (line.split() for line in run.stdout.splitlines())
    assert {"numpy", "cv2", "pyarrow", "numba", "medspark.spark.extract"} <= set(modules)
    # jemalloc, the allocator of Arrow, ends its thread before a fork and starts it again after.
    assert len([name for name in threads if name != "jemalloc_bg_thd"]) == 1
