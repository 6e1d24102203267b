"""What every task needs: a value in each Python worker; a matrix once on each machine, mapped by all of its workers."""

import atexit
import functools
import pickle
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from pyspark import SparkFiles
from pyspark.core.broadcast import Broadcast
from pyspark.sql import SparkSession

T = TypeVar("T")


class Sent(Generic[T]):
    """A value that tasks get by calling this; each worker unpickles it once.

    Spark's own pickling of a broadcast fails for large arrays where ``spark.io.encryption.enabled`` is set.
    """

    def __init__(self, spark: SparkSession, value: T) -> None:
        self._pickled = spark.sparkContext.broadcast(pickle.dumps(value))

    def __call__(self) -> T:
        """Return the value, on an executor."""
        if self._pickled not in _values:
            _values[self._pickled] = pickle.loads(self._pickled.value)  # noqa: S301 - from our own driver
        value: T = _values[self._pickled]
        return value

    def destroy(self) -> None:
        """Take the value from all executors."""
        self._pickled.destroy()


_values: WeakKeyDictionary[Broadcast[bytes], Any] = WeakKeyDictionary()


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
