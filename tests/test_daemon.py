"""The process that forks the workers; that it is silent is shown by tests/spark/test_launch.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medspark.phantom import write_png_set

LOOK = """
import pathlib, sys
from medspark import daemon
daemon.preload()
before = set(sys.modules)
print(*(thread.joinpath("comm").read_text().strip() for thread in pathlib.Path("/proc/self/task").iterdir()))
print(*before)
from medspark import Recipe
(outcome,) = Recipe.from_toml("default").run(sys.argv[1])
print(outcome.reason, *{name.partition(".")[0] for name in set(sys.modules) - before})
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts the threads that Linux shows")
def test_what_every_worker_needs_is_loaded_before_the_fork_without_a_thread_that_a_fork_would_lose(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    write_png_set(tmp_path, n=1, size=64)
    command = [sys.executable, "-c", LOOK, str(tmp_path / "000001.png")]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    threads, modules, (reason, *loaded_later) = (line.split() for line in run.stdout.splitlines())
    assert {"numpy", "cv2", "pyarrow", "pandas", "numba", "medspark.spark.extract"} <= set(modules)
    # A child that measures its first image reads plugins of a codec, and nothing of the rest.
    assert reason == "None"
    assert not {"numba", "medspark", "skimage", "scipy"} & set(loaded_later)
    # jemalloc, the allocator of Arrow, ends its thread before a fork and starts it again after.
    assert len([name for name in threads if name != "jemalloc_bg_thd"]) == 1
