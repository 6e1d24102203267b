"""The process that forks the workers stays small; that it is silent is shown by tests/spark/test_launch.py."""

import subprocess
import sys


def test_nothing_that_has_threads_is_loaded_before_workers_are_forked():
    code = "import medspark.daemon, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "pyspark.daemon" in loaded
    assert not {"numpy", "cv2", "pyarrow", "pandas", "numba"} & set(loaded)
