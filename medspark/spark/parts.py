"""Parquet that the executors write by themselves, where the way through the JVM costs more than it is worth.

A task that is tried twice writes twice, under two names: only those files count that its result names. They lie where
no reader looks until a commit names them, as those do that Spark has staged.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import TaskContext
from pyspark.sql import DataFrame

from medspark.warehouse import Part

Make = Callable[[Iterable[pa.RecordBatch]], Iterator[tuple[str, pa.RecordBatch]]]

_GROUP_BYTES = 64 << 20  # of rows that wait to be written together
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


class _File:
    """A Parquet file that begins with its first rows; one that is not closed has no end and cannot be read."""

    def __init__(self, target: Target) -> None:
        task = TaskContext.get()
        number = 0 if task is None else task.partitionId()
        self.path = Path(target.directory, f"part-{number:05}-{secrets.token_hex(4)}.parquet")
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
        return Part(str(self.path), self.n_rows, self.path.stat().st_size)

    def _write(self) -> pq.ParquetWriter:
        if self.writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.writer = pq.ParquetWriter(self.path, self.schema, compression="snappy")
        self.writer.write_table(pa.Table.from_batches(self.waiting, self.schema))
        self.waiting, self.n_waiting = [], 0
        return self.writer
