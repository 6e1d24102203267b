"""Parquet that the executors write and read by themselves.

On a disk, where the way of numbers through the JVM costs more than it is worth; in an object store always, for Spark
reaches that only with packages that we do not ask for.

A task that is tried twice writes twice, under two names: only those files count that its result names. They lie where
no reader looks until a commit names them, as those do that Spark has staged.
"""

import errno
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import TaskContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StringType, StructField, StructType

from medspark import storage
from medspark.frame import DEFAULT_LIMITS
from medspark.remote import is_remote
from medspark.spark.guard import Death, guarded
from medspark.warehouse import Part, rows_of

Make = Callable[[Iterable[pa.RecordBatch]], Iterator[tuple[str, pa.RecordBatch]]]

_GROUP_BYTES = 8 << 20  # of rows that wait to be written together: some thousand with a hundred features
_STORE_SECONDS = 600.0  # for an object to be fetched or stored
_FOUND = pa.schema([("target", pa.string()), ("path", pa.string()), ("n_rows", pa.int64()), ("n_bytes", pa.int64())])


class Target(NamedTuple):
    """Where rows go, and what they are."""

    directory: str
    schema: pa.Schema


def written(source: DataFrame, make: Make, targets: Mapping[str, Target]) -> dict[str, list[Part]]:
    """Write what ``make`` yields on the executors, rows by the name of their target, and return the files by name.

    A task writes at most one file for each target, and none without rows. The directories must be on a disk that the
    executors share with whoever commits the files.
    """

    def write(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        files = {name: _File(target) for name, target in targets.items()}
        for name, rows in make(batches):
            files[name].add(rows)
        made = [(name, *file.close()) for name, file in files.items() if file.n_rows]
        yield pa.RecordBatch.from_pylist([dict(zip(_FOUND.names, facts, strict=True)) for facts in made], _FOUND)

    parts: dict[str, list[Part]] = {name: [] for name in targets}
    found = source.mapInArrow(write, "target string, path string, n_rows long, n_bytes long")
    for target, *facts in found.collect():
        parts[target].append(Part(*facts))
    return parts


def fetched(spark: SparkSession, files: Sequence[str], schema: StructType, *, file_column: str = "") -> DataFrame:
    """Return the rows of Parquet files that the executors read, wherever they lie; columns that one lacks are null.

    ``file_column`` gets the path of each row's file, if it has a name.
    """
    wanted = to_arrow_schema(schema, timezone="UTC")
    # As where Spark reads files: any column may be null in one of them.
    shown = StructType([StructField(field.name, field.dataType) for field in schema])
    if file_column:
        shown.add(file_column, StringType())

    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for path in (files[number] for batch in batches for number in batch.column("id").to_pylist()):
            with opened(path) as file:
                for rows in rows_of(file, wanted):
                    yield rows.append_column(file_column, pa.repeat(path, len(rows))) if file_column else rows

    n_tasks = min(len(files), 4 * spark.sparkContext.defaultParallelism)
    return spark.range(0, len(files), 1, n_tasks).mapInArrow(read, shown)


@contextmanager
def opened(path: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file on an executor: mapped from a disk, or fetched whole from an object store."""
    if not is_remote(path):
        with pq.ParquetFile(path, memory_map=True) as file:
            yield file
        return
    (content,) = guarded(_fetch, [path], seconds=_STORE_SECONDS, memory_mb=DEFAULT_LIMITS.memory_mb)
    yield pq.ParquetFile(pa.BufferReader(_worked(content, path)))


def _fetch(path: str) -> bytes | str:
    """Return an object or why it cannot be read, in a child: a client of a store does not bear the fork of another."""
    try:
        return storage.read(path)
    except OSError as error:
        return str(error.strerror)


def _store(item: tuple[str, bytes]) -> bytes | str:
    """Write an object in a child, and return why it could not be if it is a text."""
    path, content = item
    try:
        storage.write(path, content)
    except OSError as error:
        return str(error.strerror)
    return b""


def _worked(found: bytes | str | Death, path: str) -> bytes:
    if isinstance(found, bytes):
        return found
    raise OSError(errno.EIO, found.error if isinstance(found, Death) else found, path)


class _File:
    """A Parquet file that begins with its first rows; one that is not closed has no end and cannot be read."""

    def __init__(self, target: Target) -> None:
        task = TaskContext.get()
        number = 0 if task is None else task.partitionId()
        self.path = f"{target.directory}/part-{number:05}-{secrets.token_hex(8)}.parquet"
        self.content = pa.BufferOutputStream() if is_remote(self.path) else None
        self.schema = target.schema
        self.writer: pq.ParquetWriter | None = None
        self.waiting: list[pa.RecordBatch] = []
        self.n_rows = self.n_waiting = 0

    def add(self, rows: pa.RecordBatch) -> None:
        """Take rows, and write those that wait if they are many."""
        self.waiting.append(rows)
        self.n_rows += len(rows)
        self.n_waiting += rows.nbytes
        if self.n_waiting >= _GROUP_BYTES:
            self._write()

    def close(self) -> Part:
        """Write the rest, and return what can be read from now on."""
        self._write().close()
        if self.content is None:
            return Part(self.path, self.n_rows, Path(self.path).stat().st_size)
        content = self.content.getvalue().to_pybytes()
        (done,) = guarded(_store, [(self.path, content)], seconds=_STORE_SECONDS, memory_mb=DEFAULT_LIMITS.memory_mb)
        _worked(done, self.path)
        return Part(self.path, self.n_rows, len(content))

    def _write(self) -> pq.ParquetWriter:
        if self.writer is None:
            if self.content is None:
                Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            self.writer = pq.ParquetWriter(self.content or self.path, self.schema, compression="snappy")
        self.writer.write_table(pa.Table.from_batches(self.waiting, self.schema))
        self.waiting, self.n_waiting = [], 0
        return self.writer
