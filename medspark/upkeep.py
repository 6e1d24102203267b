"""Upkeep of a warehouse, without Spark: remove what no table needs, merge small files, erase a patient from all."""

import errno
import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from medspark import bundle, remote, storage
from medspark.containers import split_path
from medspark.errors import ConfigError, ContractError, UnreadableError, VanishedError
from medspark.files import real_path
from medspark.storage import Stored
from medspark.warehouse import PENDING, TABLES, Change, Part, Warehouse, chunk_id, new_run_id, rows_of

RETENTION_HOURS = 168  # what Delta tools agree on
SMALL_BYTES = 8 << 20  # a file that costs as much to be opened, from far away, as to be read
MERGED_BYTES = 64 << 20  # half of what Spark gives a task: two fill one, and an executor holds several
FEWEST = 8  # fewer are not worth a second copy of their rows for as long as the retention
_GROWING = ("features", "quarantine", "predictions")  # each night adds files to them
_GROUP_BYTES = 32 << 20  # of rows in memory that become a row group
_MANY_BATCHES = 512  # of so many, small as they may be, the arrays weigh more than what they hold
_LOG = "_delta_log"
_FORGETTING = "_forget"
_DRAFT = re.compile(r"\.[0-9a-f]{6}$")  # the end of a name that a killed ``storage.write`` leaves
_PATHS = ("path", "path_a", "path_b")
_WHO = ("patient_id", *_PATHS, "instances")  # columns that tell whose a row is


@dataclass(frozen=True)
class Removed:
    """What left, or would leave, a directory of the warehouse."""

    directory: str
    n_files: int
    n_bytes: int

    def __str__(self) -> str:
        return f"{self.directory}: {self.n_files:,} files, {self.n_bytes:,} bytes"


def vacuum(
    warehouse: Warehouse,
    *,
    retention_hours: float = RETENTION_HOURS,
    dry_run: bool = False,
    now: datetime | None = None,
) -> list[Removed]:
    """Remove what killed runs left, and files that a table stopped to use longer ago than the retention.

    Until then, who began to read an older version can read on. Ages count from ``now``, by default the clock. Raises
    ConflictError while another run holds the warehouse, ConfigError if there is none.
    """
    if retention_hours < 0:
        raise ConfigError(f"--retention-hours {retention_hours:g}: must be 0 or more")
    _require(warehouse)
    sizes = defaultdict(list)
    # Nothing is recovered first: on a full disk there is no room for it.
    with warehouse.hold("vacuum", recover=False) as is_alone:
        now = now or datetime.now(UTC)
        litter = _Litter(warehouse, now - timedelta(days=1), now - timedelta(hours=retention_hours), is_alone=is_alone)
        for place, files in litter.places():
            for file in files:
                sizes[_inside(warehouse.uri, place).split("/")[0]].append(file.n_bytes)
                if not dry_run:
                    storage.remove(file.path)
            if not dry_run and not warehouse.is_remote:  # an object store has no directories
                _remove_hollow(_tree(place) if is_alone else {Path(file.path).parent for file in files})
    return [Removed(directory, len(found), sum(found)) for directory, found in sizes.items()]


@dataclass(frozen=True)
class Merged:
    """The small files of a table that were, or would be, merged into larger ones."""

    table: str
    n_files: int
    n_bytes: int

    def __str__(self) -> str:
        return f"{self.table}: {self.n_files:,} small files merged, {self.n_bytes:,} bytes"


def merge(warehouse: Warehouse, *, dry_run: bool = False) -> list[Merged]:
    """Write the small files of the tables that grow each night together, and return which tables had many.

    The rows stay as they are. The small files leave their table and stay where they are, for those who read an older
    version, until ``vacuum`` removes them. Raises ConflictError if another run holds the warehouse or has changed a
    table in the meantime, ConfigError if there is no warehouse, ContractError for a damaged file, and OSError if there
    is no room; what was merged until then stays merged.
    """
    _require(warehouse)
    merged = []
    # What is pending names the files that it replaces: they must not be merged before it is completed.
    with warehouse.hold("vacuum", recover=not dry_run):
        run_id = new_run_id("vacuum", datetime.now(UTC))
        for name in _GROWING:
            table = warehouse.table(name)
            sizes = _small_files(table) if table else {}
            if table and len(sizes) >= FEWEST:
                merged.append(Merged(name, len(sizes), sum(sizes.values())))
                if not dry_run:
                    _merge(warehouse, name, [warehouse.path(name, part) for part in sizes], table.version(), run_id)
    return merged


@dataclass(frozen=True)
class Forgotten:
    """What was, or would be, erased of a patient."""

    n_rows: dict[str, int]  # by table, and by model
    n_old_files: int  # of older versions, and of killed runs
    n_reports: int
    n_paths: int  # files of the archive that were his
    present: list[str]  # those that are still there: the next run would bring them back

    def __str__(self) -> str:
        lines = [
            *(f"{name}: {n_rows:,} rows" for name, n_rows in self.n_rows.items()),
            f"files of older versions and of killed runs: {self.n_old_files:,}",
            f"reports: {self.n_reports:,} (all of them: their pages may show images of the patient)",
            f"in the archive there are still {len(self.present):,} of the patient's {self.n_paths:,} files",
        ]
        if self.present:
            lines += ["delete them there, or the next run brings them back:", *self.present]
        return "\n".join(lines)


def forget(warehouse: Warehouse, patient: str, *, dry_run: bool = False) -> Forgotten:
    """Erase the rows of a patient, and of every file of his, from the tables, their history and the models.

    ``patient`` is the pseudonym that the tables have. All reports are deleted, for their pages may show his images. The
    same call completes it after a kill. Raises ConfigError for a patient that no file knows, and ContractError for a
    model or table that is damaged, before anything is changed; ConflictError while another run holds the warehouse.
    """
    if not re.fullmatch("[0-9a-f]{64}", patient):  # it is not repeated: it may be a real identifier
        raise ConfigError("--patient is no pseudonym: patient_id of the images table has 64 hexadecimal digits")
    _require(warehouse)
    with warehouse.hold("forget"):
        plan = warehouse.path(_FORGETTING, f"{patient}.json")
        begun = _planned(plan)
        is_known, paths = _paths(warehouse, patient)
        if begun is not None:
            paths |= begun
        elif is_known:
            for model in _models(warehouse):
                bundle.load(model)
        else:
            raise ConfigError(f"--patient: nothing in {warehouse.uri} knows it; see patient_id in the images table")
        his = _His(patient, pa.array(sorted(paths), pa.string()))
        traces = _traces(warehouse, his)
        if not dry_run:
            # Half-way, it could not be told what of the rest is his.
            storage.write(plan, json.dumps(sorted(paths)).encode())
            _erase(warehouse, his, traces, is_resumed=begun is not None)
            for file in storage.files(warehouse.path(_FORGETTING), is_deep=False):
                if file.path.startswith(warehouse.path(_FORGETTING, f"{patient}.")):
                    storage.remove(file.path)
            if not warehouse.is_remote:
                _remove_hollow([Path(plan).parent])
    return Forgotten(
        {name: sum(files.values()) for name, files in traces.by_name.items()},
        len(traces.old_files),
        len(traces.reports),
        len(paths),
        [path for path in sorted(paths) if _is_there(path)],
    )


def _require(warehouse: Warehouse) -> None:
    if not any(_has_log(warehouse, name) for name in TABLES):
        raise ConfigError(f"{warehouse.uri} is no warehouse: none of the tables is there; check --warehouse")


def _has_log(warehouse: Warehouse, name: str) -> bool:
    return warehouse.path(name, _LOG) in storage.directories(warehouse.path(name))


def _inside(directory: str, path: str) -> str:
    return path.removeprefix(f"{directory}/")


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _tables(warehouse: Warehouse) -> list[str]:
    """Return the names of the directories that are tables, or would be if their first run had not been killed."""
    names = [_name(directory) for directory in storage.directories(warehouse.uri)]
    return [name for name in names if name in TABLES or (name[0] not in "._" and _has_log(warehouse, name))]


def _models(warehouse: Warehouse) -> list[str]:
    found = [model for model in storage.directories(warehouse.path("models")) if not _name(model).startswith(".")]
    return [model for model in found if f"{model}/model.json" in _paths_below(model)]


def _unfinished_models(warehouse: Warehouse) -> list[str]:
    """Return the directories that a killed training left: on a disk a model has another name until it is complete."""
    models = storage.directories(warehouse.path("models"))
    if warehouse.is_remote:
        return [model for model in models if f"{model}/model.json" not in _paths_below(model)]
    return [model for model in models if re.fullmatch(r"\..*\.partial", _name(model))]


def _paths_below(directory: str) -> set[str]:
    return {file.path for file in storage.files(directory)}


def _tree(directory: str) -> list[Path]:
    return [Path(directory), *Path(directory).rglob("*/")]


def _remove_hollow(directories: Iterable[Path]) -> None:
    for directory in sorted(directories, reverse=True):  # what lies in another comes before it
        with suppress(OSError):  # it is not empty
            directory.rmdir()


# What no table needs


@dataclass(frozen=True)
class _Litter:
    """Files that nobody needs; what may still be at work keeps its files for a day."""

    warehouse: Warehouse
    a_day_ago: datetime
    expiry: datetime  # what left its table before this moment is read by nobody any more
    is_alone: bool

    def places(self) -> Iterator[tuple[str, list[Stored]]]:
        """Yield directories, each with the files in it that nobody needs."""
        root = self.warehouse.path
        for name in _tables(self.warehouse):
            yield root(name), self._of_table(name)
        for scratch in storage.directories(self.warehouse.uri):
            if _name(scratch).startswith("_") and _name(scratch) not in (PENDING, _FORGETTING):
                yield scratch, [file for file in storage.files(scratch) if self.is_alone or self._is_old(file)]
        for place in (root(PENDING), root(_FORGETTING), root("recipes")):
            files = [file for file in storage.files(place) if not file.path.endswith(".json")]
            yield place, [file for file in files if self._is_old(file)]
        for draft in (draft for model in _models(self.warehouse) for draft in _drafts(model) if self._is_old(draft)):
            yield draft.path.rpartition("/")[0], [draft]
        for model in _unfinished_models(self.warehouse):
            files = storage.files(model)
            yield model, files if all(map(self._is_old, files)) else []

    def _of_table(self, name: str) -> list[Stored]:
        root = self.warehouse.path(name)
        used = {*self.warehouse.files(name), *self.warehouse.pending_files(name)}
        left_at = _removals(f"{root}/{_LOG}")
        needed, rest = set(), []
        for file in storage.files(root):
            inside = _inside(root, file.path)
            if inside.startswith(f"{_LOG}/"):
                if "#" in _name(file.path) and self._is_old(file):  # 0...7.json#1, of a commit that was cut short
                    rest.append(file)
            elif file.path in used or left_at.get(inside, self.expiry) > self.expiry:
                directory, _, end = file.path.rpartition("/")
                needed |= {file.path, f"{directory}/.{end}.crc"}
            else:
                rest.append(file)
        kept_at = {path.rpartition("/")[0] for path in needed}
        return [file for file in rest if file.path not in needed and not self._is_kept(file, root, kept_at)]

    def _is_kept(self, file: Stored, root: str, kept_at: set[str]) -> bool:
        directory, _, end = file.path.rpartition("/")
        is_mark = end in ("_SUCCESS", "._SUCCESS.crc") and directory in kept_at
        may_be_written = (directory == root or not self.is_alone) and not self._is_old(file)
        return is_mark or may_be_written

    def _is_old(self, file: Stored) -> bool:
        return file.modified_at < self.a_day_ago


def _drafts(directory: str) -> list[Stored]:
    """Return what killed writers of whole files left in a directory."""
    return [file for file in storage.files(directory) if _DRAFT.search(file.path)]


def _removals(log: str) -> dict[str, datetime]:
    """Return when files left a table, by their paths in it, as far back as its log goes."""
    found = []
    for path in (file.path for file in storage.files(log, is_deep=False) if _name(file.path)[0].isdigit()):
        if path.endswith(".json"):
            actions = (json.loads(line) for line in storage.read(path).splitlines())
            found += [action["remove"] for action in actions if "remove" in action]
        elif ".checkpoint" in _name(path) and path.endswith(".parquet"):
            removes = pq.read_table(pa.BufferReader(storage.read(path)), columns=["remove"])["remove"]
            found += [remove for remove in removes.to_pylist() if remove]
    times = sorted((remove["deletionTimestamp"] or 0, unquote(remove["path"])) for remove in found)
    return {path: datetime.fromtimestamp(milliseconds / 1000, UTC) for milliseconds, path in times}


# Small files


class _Joined(NamedTuple):
    """Some files as one."""

    paths: list[str]
    n_rows: int
    content: bytes


def _small_files(table: DeltaTable) -> dict[str, int]:
    """Return the sizes of the small files of a table, by their paths in it, those of a run side by side."""
    actions = pa.table(table.get_add_actions()).select(["path", "size_bytes"]).to_pylist()
    return {each["path"]: each["size_bytes"] for each in sorted(actions, key=str) if each["size_bytes"] < SMALL_BYTES}


def _merge(warehouse: Warehouse, name: str, files: list[str], version: int, run_id: str) -> None:
    """Publish files as few, a large one at a time."""
    schema, number = warehouse.schema(name), 0
    while len(files) > 1:
        chunk = chunk_id(run_id, number)
        joined = _joined(files, schema)
        part = Part(warehouse.path(name, chunk, "part-00000.parquet"), joined.n_rows, len(joined.content))
        storage.write(part.path, joined.content)
        warehouse.publish_all(chunk, [Change(name, schema, joined.paths, version, [part])])
        files, number = files[len(joined.paths) :], number + 1


def _joined(files: Iterable[str], schema: pa.Schema) -> _Joined:
    """Read files, until they make a large one, and write their rows together."""
    paths, content, n_rows = [], io.BytesIO(), 0
    with pq.ParquetWriter(content, schema, compression="snappy") as writer:
        group = _Group(schema)
        for path in files:
            paths.append(path)
            for rows in _batches(path, schema):
                n_rows += len(rows)
                group.add(rows)
                if group.n_bytes >= _GROUP_BYTES:
                    writer.write_table(group.taken())
            if content.tell() >= MERGED_BYTES:
                break
        writer.write_table(group.taken())
    return _Joined(paths, n_rows, content.getvalue())


class _Group:
    """Rows that wait to become a row group."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.batches: list[pa.RecordBatch] = []
        self.n_bytes = 0

    def add(self, rows: pa.RecordBatch) -> None:
        """Take rows."""
        self.batches.append(rows)
        self.n_bytes += rows.nbytes
        if len(self.batches) >= _MANY_BATCHES:
            self.batches = pa.Table.from_batches(self.batches, self.schema).combine_chunks().to_batches()

    def taken(self) -> pa.Table:
        """Give the rows away."""
        rows = pa.Table.from_batches(self.batches, self.schema)
        self.batches, self.n_bytes = [], 0
        return rows


def _batches(path: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a small file in the types of a table, null where the file is older than a column."""
    try:
        yield from rows_of(pq.ParquetFile(pa.BufferReader(storage.read(path))), schema)
    except pa.ArrowInvalid:
        raise _damaged(path) from None


def _damaged(path: str) -> ContractError:
    return ContractError(f"{path}: a table uses this file, and it cannot be read; restore it from a backup")


# A patient


@dataclass(frozen=True)
class _His:
    """Tells the rows of a patient and of his files."""

    patient: str
    paths: pa.Array

    def among(self, rows: pa.Table) -> pa.ChunkedArray:
        """Return for each row whether it is his."""
        are_his = pa.chunked_array([pa.repeat(False, rows.num_rows)])
        if "patient_id" in rows.column_names:
            are_his = pc.or_(are_his, _equals(rows["patient_id"], self.patient))
        for name in _PATHS:
            if name in rows.column_names:
                are_his = pc.or_(are_his, self._are_paths(rows[name]))
        if "instances" in rows.column_names:  # of a series
            instances = rows["instances"].combine_chunks()
            series = pc.list_parent_indices(instances).filter(self._are_paths(_paths_in(instances)))
            are_his = pc.or_(are_his, pc.is_in(pa.array(range(rows.num_rows), series.type), value_set=series))
        return are_his

    def _are_paths(self, texts: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
        return pc.is_in(texts.cast(pa.string()), value_set=self.paths)  # delta-rs writes views of strings


@dataclass(frozen=True)
class _Traces:
    """Where a patient is found."""

    tables: dict[str, dict[str, int]]  # files that tables use now, and how many of their rows are his
    splits: dict[str, int]  # directories of models
    old_files: list[str]
    reports: list[str]

    @property
    def by_name(self) -> dict[str, dict[str, int]]:
        """The rows that are his, by table or model."""
        return self.tables | {f"models/{_name(model)}": {model: n} for model, n in self.splits.items() if n}


def _equals(texts: pa.ChunkedArray, text: str) -> pa.ChunkedArray:
    return pc.fill_null(pc.equal(texts.cast(pa.string()), text), False)


def _paths_in(instances: pa.Array) -> pa.Array:
    return pc.struct_field(pc.list_flatten(instances), "path")


def _planned(plan: str) -> set[str] | None:
    """Return the paths that a killed run had written down, or None if there was none."""
    try:
        return set(json.loads(storage.read(plan)))
    except FileNotFoundError:
        return None


def _paths(warehouse: Warehouse, patient: str) -> tuple[bool, set[str]]:
    """Tell whether a patient is known, and return his files, by all that was ever written and is still there."""
    found: set[str] = set()
    is_known = False
    for file in (*_parquet(warehouse), *(f"{model}/split.parquet" for model in _models(warehouse))):
        rows = _who(file)
        if rows is not None and "patient_id" in rows.column_names:
            rows = rows.filter(_equals(rows["patient_id"], patient))
            is_known |= rows.num_rows > 0
            if "path" in rows.column_names:
                found.update(rows["path"].drop_null().to_pylist())
            if "instances" in rows.column_names:
                found.update(_paths_in(rows["instances"].combine_chunks()).drop_null().to_pylist())
    return is_known, found


def _traces(warehouse: Warehouse, his: _His) -> _Traces:
    tables: dict[str, dict[str, int]] = defaultdict(dict)
    old_files = []
    current = {file for name in _tables(warehouse) for file in warehouse.files(name)}
    for file in _parquet(warehouse):
        rows = _who(file)
        if rows is None and file in current:
            raise _damaged(file)
        n_rows = pc.sum(his.among(rows)).as_py() if rows is not None and rows.num_rows else 0
        if n_rows and file in current:
            tables[_inside(warehouse.uri, file).split("/")[0]][file] = n_rows
        elif n_rows or rows is None:
            old_files.append(file)
    splits = {model: pc.sum(his.among(_split(model))).as_py() or 0 for model in _models(warehouse)}
    pages = warehouse.path("reports")
    reports = {_inside(pages, path).split("/")[0] for path in _paths_below(pages)}
    return _Traces(dict(tables), splits, old_files, sorted(reports))


def _erase(warehouse: Warehouse, his: _His, traces: _Traces, *, is_resumed: bool) -> None:
    """Write all files of the tables anew that have rows of his, then delete those that had."""
    run_id = new_run_id("forget", datetime.now(UTC))
    changes = []
    for name, files in traces.tables.items():
        schema = warehouse.schema(name)
        parts = [
            _copy_others(file, warehouse.path(name, run_id, f"part-{number:05}.parquet"), schema, his)
            for number, file in enumerate(files)
        ]
        changes.append(Change(name, schema, list(files), parts=parts))
    warehouse.publish_all(run_id, changes)
    for model, n_rows in traces.splits.items():
        if n_rows or is_resumed:  # a kill may have come between the rows and their sha256
            rows = _split(model)
            bundle.replace_split(model, rows.filter(pc.invert(his.among(rows))))
        for draft in _drafts(model):
            storage.remove(draft.path)
    for directory in (*_unfinished_models(warehouse), warehouse.path("reports")):
        for path in _paths_below(directory):
            storage.remove(path)
        if not warehouse.is_remote:
            _remove_hollow(_tree(directory))
    for name in _tables(warehouse):
        _cut_log(warehouse, name)
    for path in (*traces.old_files, *(path for files in traces.tables.values() for path in files)):
        storage.remove(path)


def _copy_others(source: str, target: str, schema: pa.Schema, his: _His) -> Part:
    """Write the rows that are not his, in the types of the table."""
    content, n_rows = io.BytesIO(), 0
    with storage.opened(source) as opened, pq.ParquetFile(opened) as file:
        written = pa.schema([field for field in schema if field.name in file.schema_arrow.names])
        with pq.ParquetWriter(content, written, compression="snappy") as writer:
            for batch in file.iter_batches():
                rows = pa.Table.from_batches([batch])
                others = rows.filter(pc.invert(his.among(rows)))
                writer.write_table(others.select(written.names).cast(written))
                n_rows += others.num_rows
    storage.write(target, content.getvalue())
    return Part(target, n_rows, content.tell())


def _cut_log(warehouse: Warehouse, name: str) -> None:
    """Let the log of a table begin with its newest version: other tools write the least and greatest values into it."""
    table = warehouse.table(name)
    if table is None or not {field.name for field in table.schema().fields}.intersection(_WHO):
        return
    table.create_checkpoint()
    log = warehouse.path(name, _LOG)
    version = f"{table.version():020}"
    checkpoint = f"{log}/{version}.checkpoint.parquet"
    paths = _paths_below(log)
    if checkpoint not in paths:  # without it nothing may be deleted
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), checkpoint)
    for path in sorted(paths - {checkpoint, f"{log}/{version}.json", f"{log}/_last_checkpoint"}):
        storage.remove(path)


def _parquet(warehouse: Warehouse) -> list[str]:
    """Return the paths of all files that hold, or may hold, rows of a table."""
    files = [file.path for file in storage.files(warehouse.uri)]
    parts = {path: _inside(warehouse.uri, path).split("/") for path in files}
    others = ("models", "recipes", PENDING, _FORGETTING)
    return [
        path
        for path, names in parts.items()
        if (path.endswith(".parquet") or _DRAFT.search(path)) and names[0] not in others and _LOG not in names
    ]


def _who(path: str) -> pa.Table | None:
    """Return the columns that tell whose the rows of a file are, or None if it cannot be read."""
    try:
        with storage.opened(path) as opened, pq.ParquetFile(opened) as content:
            return content.read(columns=[name for name in _WHO if name in content.schema_arrow.names])
    except pa.ArrowInvalid:
        return None
    except OSError as error:
        if remote.is_remote(path) and error.errno:  # a store that does not answer says nothing about the file
            raise
        return None


def _split(model: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(storage.read(f"{model}/split.parquet")))


def _is_there(path: str) -> bool:
    parts = split_path(path)
    shown = path if parts is None else parts[0]
    if not remote.is_remote(shown):
        return os.path.lexists(real_path(shown))
    try:
        remote.look(os.fsdecode(real_path(shown)))
    except VanishedError:
        return False
    except UnreadableError:  # who cannot look must not call it gone
        return True
    return True
