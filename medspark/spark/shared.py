"""A matrix on every machine of the cluster, once: its Python workers map the same file into memory."""

import atexit
import functools
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark import SparkFiles
from pyspark.sql import SparkSession


def share(spark: SparkSession, matrix: npt.NDArray[Any]) -> Callable[[], npt.NDArray[Any]]:
    """Return a function that gives the matrix, read-only, to a task wherever it runs.

    A broadcast variable would be unpickled by each worker into memory of its own.
    """
    # Spark hands the file to every executor that starts as long as the session lives, so it stays as long as we do.
    path = Path(_home(), f"{uuid.uuid4().hex}.npy")
    np.save(path, matrix)
    spark.sparkContext.addFile(str(path))
    return functools.partial(_mapped, path.name)


@functools.cache
def _home() -> str:
    home = tempfile.mkdtemp(prefix="medspark-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


def _mapped(name: str) -> npt.NDArray[Any]:
    # As a plain array: scikit-learn and numba take it for what it is.
    return np.asarray(np.load(SparkFiles.get(name), mmap_mode="r"))
