"""The Delta tables: what Spark staged becomes visible in one step, or not at all.

Spark writes Parquet into TABLE/CHUNK_ID/, where no reader looks; one commit of delta-rs publishes those files, and
takes away the ones they replace. A run that dies before its commit leaves files that nobody sees.

Where several tables change together, what is to be committed is first written down in _pending/CHUNK_ID.json. Whoever
holds the warehouse next completes what a killed run had begun.
"""

import fcntl
import functools
import io
import json
import os
import random
import re
import secrets
import shutil
import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

from medspark import remote, storage
from medspark.errors import ConfigError, ConflictError

TABLES = ("images", "series", "features", "quarantine", "predictions", "evaluations", "leaks", "drift", "runs")
PENDING = "_pending"
_BATCH_ROWS = 8192
_ATTEMPTS = 100  # each that fails is one by which another run got on
_HELD: dict[str, bool] = {}  # warehouses that this process holds, and whether the file system saw to it


def new_run_id(job: str, now: datetime) -> str:
    """Return an id that sorts by time and is not given twice."""
    return f"{job}-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def chunk_id(run_id: str, number: int) -> str:
    """Return the id of a part of a run that is published on its own."""
    return f"{run_id}-{number:05}"


def _run_of(chunk: str) -> str:
    return re.sub(r"-\d{5}$", "", chunk)


class Part(NamedTuple):
    """A Parquet file that somebody has written for a table."""

    path: str
    n_rows: int
    n_bytes: int


@dataclass(frozen=True)
class Change:
    """What becomes of one table: the files that were staged for it come in, the replaced ones leave.

    ``replaced`` are paths as ``Warehouse.files`` gives them. New columns of ``schema`` are added to the table. If
    ``based_on`` is given, no other run may have changed the table since that version. ``parts`` are the files that come
    in, where tasks tried twice may have left others beside them; without it, all that lie there.
    """

    name: str
    schema: pa.Schema
    replaced: Collection[str] | Literal["all"] = ()
    based_on: int | None = None
    parts: Sequence[Part] | None = None


@dataclass(frozen=True)
class _Step:
    """A change as it is committed: the files by their paths inside the table, facts included."""

    name: str
    schema: Schema
    added: list[AddAction]
    replaced: list[str] | Literal["all"]
    based_on: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "schema": json.loads(self.schema.to_json()), "added": [asdict(a) for a in self.added]}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "_Step":
        schema, added = Schema.from_json(json.dumps(value["schema"])), [AddAction(**a) for a in value["added"]]
        return cls(**{**value, "schema": schema, "added": added})


@dataclass(frozen=True)
class Warehouse:
    """Where tables, models and reports live: an absolute path, or a URI."""

    uri: str

    @classmethod
    def at(cls, uri: str) -> "Warehouse":
        """Return the warehouse at a path or URI, made absolute."""
        if not uri:
            raise ConfigError("warehouse is missing: give --warehouse or warehouse = ... in the configuration")
        if remote.is_remote(uri):
            return cls(_in_a_store(uri))
        parts = urlsplit(uri)
        if parts.scheme not in ("", "file"):
            raise ConfigError(f"warehouse {uri}: give a path, or the s3:// URI of a prefix")
        path = os.path.abspath(unquote(parts.path) if parts.scheme else uri)
        if re.search(r"%[0-9A-Fa-f]{2}|\\", path):  # it would read another directory, whose name is the decoded one
            raise ConfigError(f"warehouse {uri}: delta-rs misreads a path with a backslash or an escape such as %20")
        return cls(path)

    @property
    def is_remote(self) -> bool:
        """Whether it lies in an object store, which the executors reach and Spark does not."""
        return remote.is_remote(self.uri)

    @functools.cached_property
    def _options(self) -> dict[str, str]:
        return remote.delta_options(self.uri)

    def path(self, *parts: str) -> str:
        """Return a path inside the warehouse."""
        return "/".join((self.uri, *parts))

    def table(self, name: str) -> DeltaTable | None:
        """Return the newest version of a table, or None before its first commit."""
        try:
            return DeltaTable(self.path(name), storage_options=self._options)
        except TableNotFoundError:
            return None

    def version(self, name: str) -> int:
        """Return the number of a table's newest version, -1 before its first commit."""
        table = self.table(name)
        return -1 if table is None else table.version()

    def files(self, name: str) -> list[str]:
        """Return the paths of the Parquet files that make up a table now."""
        table = self.table(name)
        return [] if table is None else [self.path(name, part) for part in _parts(table)]

    def schema(self, name: str) -> pa.Schema:
        """Return the columns of a table; none before its first commit."""
        table = self.table(name)
        return pa.schema([] if table is None else table.schema().to_arrow())

    @contextmanager
    def hold(self, job: str, *, recover: bool = True) -> Iterator[bool]:
        """Keep other runs from this warehouse, after completing what a killed one had begun.

        Gives whether that is certain: a file system without locks leaves it to ``Change.based_on``. Within a process,
        who holds it may hold it again. The lock ends with the process. Raises ConflictError if another run has it, and
        ConfigError where nothing can be written.
        """
        place = self.uri if self.is_remote else os.path.realpath(self.uri)
        if place in _HELD:
            yield _HELD[place]
            return
        if self.is_remote:
            if recover:
                self.recover()
            yield False
            return
        try:
            os.makedirs(self.uri, exist_ok=True)
            lock = open(self.path(".lock"), "a+", encoding="utf-8")  # noqa: SIM115 - closed where it is held
        except (NotADirectoryError, FileExistsError, PermissionError) as error:
            raise ConfigError(f"warehouse {self.uri} cannot be written: {error.strerror}") from None
        with lock as file:
            _HELD[place] = self._lock(file, job)
            try:
                if recover:
                    self.recover()
                yield _HELD[place]
            finally:
                if _HELD.pop(place):
                    fcntl.flock(file, fcntl.LOCK_UN)  # a forked child may have the file open for longer

    def publish(
        self,
        name: str,
        schema: pa.Schema,
        run_id: str,
        *,
        replaced: Collection[str] | Literal["all"] = (),
        based_on: int | None = None,
    ) -> None:
        """Make the Parquet files under NAME/RUN_ID part of a table, and the replaced ones no longer, in one commit.

        The parameters are those of ``Change``; so are the errors of ``publish_all``.
        """
        self.publish_all(run_id, [Change(name, schema, replaced, based_on)])

    def publish_all(self, chunk: str, changes: Sequence[Change]) -> None:
        """Publish what was staged under NAME/CHUNK for several tables: all of it, even if killed in between.

        Publishing the same chunk again changes nothing. Raises ConflictError, with all tables as they were, if another
        run has replaced some of the same files, or has changed a table since the version that a change is based on.
        """
        steps = [
            _Step(
                change.name,
                Schema.from_arrow(change.schema),
                self._staged(change.name, self.parts(change.name, chunk) if change.parts is None else change.parts),
                "all" if change.replaced == "all" else [self._part(change.name, path) for path in change.replaced],
                change.based_on,
            )
            for change in changes
        ]
        if len(steps) < 2:
            self._roll_forward(chunk, steps)
            return
        plan = self.path(PENDING, f"{chunk}.json")
        storage.write(plan, json.dumps([step.to_dict() for step in steps]).encode())
        try:
            self._roll_forward(chunk, steps)
        except ConflictError:
            storage.remove(plan)
            raise
        storage.remove(plan)

    def recover(self) -> int:
        """Complete what killed runs had begun to publish, and return how many chunks that were.

        What is in conflict with a run that came in between is given up; none of it had become visible.
        """
        n_done = 0
        for chunk, steps in self._pending():
            with suppress(ConflictError):
                self._roll_forward(chunk, steps)
                n_done += 1
            storage.remove(self.path(PENDING, f"{chunk}.json"))
        return n_done

    def parts(self, name: str, chunk: str) -> list[Part]:
        """Return the files that were staged for a table."""
        staged = storage.files(self.path(name, chunk), is_deep=False)
        return [Part(each.path, _n_rows(each.path), each.n_bytes) for each in staged if each.path.endswith(".parquet")]

    def pending_files(self, name: str) -> set[str]:
        """Return the paths of files that a killed run was about to publish in a table."""
        steps = (step for _, found in self._pending() for step in found if step.name == name)
        return {self.path(name, add.path) for step in steps for add in step.added}

    def keep_recipe(self, recipe_id: str, recipe: Mapping[str, Any]) -> None:
        """Write a recipe beside the tables that it made."""
        target = self.path("recipes", f"{recipe_id}.json")
        try:
            storage.read(target)
        except FileNotFoundError:
            storage.write(target, json.dumps(recipe, indent=2).encode())

    def discard(self, run_id: str) -> None:
        """Remove what a run and its chunks wrote for themselves, into places whose names begin with an underscore."""
        if self.is_remote:
            scratch = [place for place in storage.directories(self.uri) if place.startswith(self.path("_"))]
            for each in (each for place in scratch for each in storage.files(place)):
                if run_id in map(_run_of, each.path.split("/")):
                    storage.remove(each.path)
            return
        for directory in Path(self.uri).glob(f"_*/{run_id}*"):
            if directory.is_dir() and _run_of(directory.name) == run_id:
                shutil.rmtree(directory)

    def append_rows(self, name: str, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
        """Add a few rows to a table, from the driver."""
        row_id = f"row-{secrets.token_hex(8)}"
        file, content = self.path(name, f"{row_id}.parquet"), io.BytesIO()
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), content, compression="snappy")
        storage.write(file, content.getvalue())
        added = self._staged(name, [Part(file, len(rows), content.tell())])
        self._commit(_Step(name, Schema.from_arrow(schema), added, []), row_id, is_certain=True)

    def _lock(self, file: IO[str], job: str) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = f" ({text})" if (text := file.read()) else ""  # empty for the moment after it was taken
            raise ConflictError(f"another run{who} holds the warehouse {self.uri}; run again when it is done") from None
        except OSError:  # a network file system without locks
            return False
        holder = f"{job}, process {os.getpid()} on {socket.gethostname()}, since {datetime.now(UTC):%F %T} UTC"
        with suppress(OSError):  # a full disk must not keep vacuum from making room
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), holder.encode())
        return True

    def _pending(self) -> list[tuple[str, list[_Step]]]:
        found = []
        for plan, _, _ in storage.files(self.path(PENDING), is_deep=False):
            chunk, end = os.path.splitext(os.path.basename(plan))
            if end == ".json":
                with suppress(FileNotFoundError):  # its run is alive and has just completed it
                    found.append((chunk, [_Step.from_dict(step) for step in json.loads(storage.read(plan))]))
        return found

    def _roll_forward(self, chunk: str, steps: Sequence[_Step]) -> None:
        """Commit each step that is not yet; once one is, the others follow in any case."""
        tables = [self.table(step.name) for step in steps]
        is_begun = any(table is not None and table.transaction_version(chunk) is not None for table in tables)
        if not is_begun:
            for table, step in zip(tables, steps, strict=True):
                if table is not None:
                    self._check(table, step, chunk)
        for step in steps:
            is_begun |= self._commit(step, chunk, is_certain=is_begun)

    def _commit(self, step: _Step, chunk: str, *, is_certain: bool) -> bool:
        """Commit a step, and return whether there is such a commit now; there is none where nothing changes."""
        for _ in range(_ATTEMPTS):
            try:
                return self._try_to_commit(step, chunk, is_certain=is_certain)
            except _OvertakenError:
                time.sleep(random.uniform(0, 0.05))
        raise ConflictError(f"other runs keep changing {self.path(step.name)}; run again when they are done")

    def _try_to_commit(self, step: _Step, chunk: str, *, is_certain: bool) -> bool:
        author = {"run_id": chunk}
        # No retries inside of delta-rs: they would commit on top of a version that nobody here has checked.
        properties = CommitProperties(
            app_transactions=[Transaction(chunk, 1)], custom_metadata=author, max_commit_retries=0
        )
        table = self.table(step.name)
        if table is None:
            self._begin(step, properties)
            return True
        if table.transaction_version(chunk) is not None:
            return True
        if not is_certain:
            self._check(table, step, chunk)
        parts = set(_parts(table))
        leaving = parts if step.replaced == "all" else parts.intersection(step.replaced)
        now = _milliseconds(datetime.now(UTC))
        gone = [RemoveAction(part, data_change=True, deletion_timestamp=now) for part in sorted(leaving)]
        known = {field.name for field in table.schema().fields}
        missing = [field for field in step.schema.fields if field.name not in known]
        if missing:
            with self._commit_errors(step.name):
                table.alter.add_columns(
                    missing, commit_properties=CommitProperties(custom_metadata=author, max_commit_retries=0)
                )
            return self._try_to_commit(step, chunk, is_certain=is_certain)
        if not step.added and not gone:
            return False
        with self._commit_errors(step.name):
            table.create_write_transaction(
                [*step.added, *gone], mode="append", schema=table.schema(), commit_properties=properties
            )
        return True

    def _begin(self, step: _Step, properties: CommitProperties) -> None:
        try:
            with self._commit_errors(step.name):
                create_table_with_add_actions(
                    self.path(step.name),
                    step.schema,
                    step.added,
                    commit_properties=properties,
                    storage_options=self._options,
                )
        except DeltaError:
            if self.table(step.name) is None:
                raise
            raise _OvertakenError from None  # it was not there a moment ago

    @contextmanager
    def _commit_errors(self, name: str) -> Iterator[None]:
        """Tell a commit that came second from one that failed, and let the latter say why in one line."""
        try:
            yield
        except CommitFailedError:
            raise _OvertakenError from None
        except OSError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), self.path(name)) from None

    def _check(self, table: DeltaTable, step: _Step, chunk: str) -> None:
        """Raise ConflictError if what the chunk was made from is not in the table any more, or is not all of it."""
        is_gone = step.replaced != "all" and not set(_parts(table)).issuperset(step.replaced)
        is_changed = step.based_on is not None and any(
            self._author(step.name, version) != _run_of(chunk)
            for version in range(step.based_on + 1, table.version() + 1)
        )
        if is_gone or is_changed:  # what this run kept of the rows there was kept by another one, too
            raise ConflictError(f"another run has changed {self.path(step.name)} in the meantime; run again")

    def _author(self, name: str, version: int) -> str:
        """Return the run that made a version of a table, or nothing if it was not one of ours."""
        try:  # DeltaTable.history() is empty where the path has a #
            text = storage.read(self.path(name, "_delta_log", f"{version:020}.json")).decode()
        except FileNotFoundError:  # the log begins later
            return ""
        facts = [json.loads(line).get("commitInfo", {}) for line in text.splitlines()]
        return _run_of(next((str(fact["run_id"]) for fact in facts if "run_id" in fact), ""))

    def _staged(self, name: str, parts: Sequence[Part]) -> list[AddAction]:
        now = _milliseconds(datetime.now(UTC))
        missing = [] if self.is_remote else [part.path for part in parts if not os.path.exists(part.path)]
        if missing:
            raise ConfigError(
                f"warehouse {self.uri}: what executors wrote is not there; put it on a disk that all machines share"
            )
        return [
            AddAction(
                self._part(name, part.path),
                part.n_bytes,
                {},
                now,
                data_change=True,
                stats=json.dumps({"numRecords": part.n_rows}),  # no least and greatest values: they would name patients
            )
            for part in parts
            if part.n_rows  # Spark writes a file for an empty table, so that its schema can be read
        ]

    def _part(self, name: str, path: str) -> str:
        return path.removeprefix(f"{self.path(name)}/")


class _OvertakenError(Exception):
    """The table is not the one that was looked at."""


def _in_a_store(uri: str) -> str:
    """Return the URI of a warehouse in an object store; ConfigError for one that delta-rs would misread."""
    place = remote.Place.of(uri.rstrip("/"))
    if place.scheme != "s3":
        raise ConfigError(f"warehouse {uri}: of object stores, only s3:// can hold a warehouse")
    if not re.fullmatch(r"[\w.=-]+(/[\w.=-]+)*", place.key, re.ASCII):
        raise ConfigError(f"warehouse {uri}: a prefix is needed, of letters, digits and _ . = - between its slashes")
    return place.uri


def _n_rows(path: str) -> int:
    source = io.BytesIO(storage.read(path)) if remote.is_remote(path) else path
    return int(pq.read_metadata(source).num_rows)


def rows_of(file: pq.ParquetFile, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file of a table, some thousand at a time, in the types of a schema; what it lacks is null."""
    there = [name for name in schema.names if name in file.schema_arrow.names]
    for rows in file.iter_batches(_BATCH_ROWS, columns=there, use_threads=False):
        columns = [
            rows.column(name).cast(kind) if name in there else pa.nulls(len(rows), kind)
            for name, kind in zip(schema.names, schema.types, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _parts(table: DeltaTable) -> list[str]:
    return [str(path) for path in pa.table(table.get_add_actions()).column("path").to_pylist()]


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
