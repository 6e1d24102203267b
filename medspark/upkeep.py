"""Upkeep of a warehouse, without Spark: remove what no table needs, erase a patient from all of it."""

import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medspark import bundle
from medspark.containers import split_path
from medspark.errors import ConfigError, ContractError
from medspark.files import real_path
from medspark.warehouse import PENDING, TABLES, Change, Warehouse, new_run_id, write_durably

RETENTION_HOURS = 168  # what Delta tools agree on
_LOG = "_delta_log"
_FORGETTING = "_forget"
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


def vacuum(warehouse: Warehouse, *, retention_hours: float = RETENTION_HOURS, dry_run: bool = False) -> list[Removed]:
    """Remove what killed runs left, and files that a table stopped to use longer ago than the retention.

    Until then, who began to read an older version can read on. Raises ConflictError while another run holds the
    warehouse, ConfigError if there is none.
    """
    if retention_hours < 0:
        raise ConfigError(f"--retention-hours {retention_hours:g}: must be 0 or more")
    _require(warehouse)
    sizes = defaultdict(list)
    # Nothing is recovered first: on a full disk there is no room for it.
    with warehouse.hold("vacuum", recover=False) as is_alone:
        now = datetime.now(UTC)
        litter = _Litter(warehouse, now - timedelta(days=1), now - timedelta(hours=retention_hours), is_alone=is_alone)
        for place, files in litter.places():
            for file in files:
                sizes[place.relative_to(warehouse.uri).parts[0]].append(file.lstat().st_size)
                if not dry_run:
                    file.unlink()
            if not dry_run:
                _remove_hollow([place, *place.rglob("*/")] if is_alone else {file.parent for file in files})
    return [Removed(directory, len(found), sum(found)) for directory, found in sizes.items()]


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
        plan = Path(warehouse.path(_FORGETTING, f"{patient}.json"))
        is_resumed = plan.exists()
        is_known, paths = _paths(warehouse, patient)
        if is_resumed:
            paths |= set(json.loads(plan.read_bytes()))
        elif is_known:
            for model in _models(warehouse):
                bundle.load(model)
        else:
            raise ConfigError(f"--patient: nothing in {warehouse.uri} knows it; see patient_id in the images table")
        his = _His(patient, pa.array(sorted(paths), pa.string()))
        traces = _traces(warehouse, his)
        if not dry_run:
            write_durably(plan, json.dumps(sorted(paths)))  # half-way, it could not be told what of the rest is his
            _erase(warehouse, his, traces, is_resumed=is_resumed)
            for file in plan.parent.glob(f"{patient}.*"):
                file.unlink()
            _remove_hollow([plan.parent])
    return Forgotten(
        {name: sum(files.values()) for name, files in traces.by_name.items()},
        len(traces.old_files),
        len(traces.reports),
        len(paths),
        [path for path in sorted(paths) if _is_there(path)],
    )


def _require(warehouse: Warehouse) -> None:
    if not any(Path(warehouse.path(name, _LOG)).is_dir() for name in TABLES):
        raise ConfigError(f"{warehouse.uri} is no warehouse: none of the tables is there; check --warehouse")


def _tables(warehouse: Warehouse) -> list[str]:
    """Return the names of the directories that are tables, or would be if their first run had not been killed."""
    root = Path(warehouse.uri)
    logs = {log.parent.name for log in root.glob(f"[!._]*/{_LOG}")}
    return sorted(logs | {name for name in TABLES if (root / name).is_dir()})


def _models(warehouse: Warehouse) -> list[Path]:
    return sorted(path.parent for path in Path(warehouse.path("models")).glob("[!.]*/model.json"))


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_symlink() or path.is_file())


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

    def places(self) -> Iterator[tuple[Path, list[Path]]]:
        """Yield directories, each with the files in it that nobody needs."""
        root = Path(self.warehouse.uri)
        for name in _tables(self.warehouse):
            yield root / name, self._of_table(name)
        for scratch in sorted(root.glob("_*/")):
            if scratch.name not in (PENDING, _FORGETTING):
                yield scratch, [file for file in _files(scratch) if self.is_alone or self._is_old(file)]
        for name in (PENDING, _FORGETTING, "recipes"):
            yield root / name, [file for file in _files(root / name) if file.suffix != ".json" and self._is_old(file)]
        for draft in root.glob("models/.*.partial"):
            yield draft, _files(draft) if self._is_old(draft) else []

    def _of_table(self, name: str) -> list[Path]:
        root = Path(self.warehouse.path(name))
        used = {*self.warehouse.files(name), *self.warehouse.pending_files(name)}
        left_at = _removals(root / _LOG)
        needed, rest = set(), []
        for file in _files(root):
            if file.relative_to(root).parts[0] == _LOG:
                if "#" in file.name and self._is_old(file):  # 0...7.json#1, of a commit that was cut short
                    rest.append(file)
            elif str(file) in used or left_at.get(str(file.relative_to(root)), self.expiry) > self.expiry:
                needed |= {file, file.with_name(f".{file.name}.crc")}
            else:
                rest.append(file)
        kept_at = {file.parent for file in needed}
        return [file for file in rest if file not in needed and not self._is_kept(file, root, kept_at)]

    def _is_kept(self, file: Path, root: Path, kept_at: set[Path]) -> bool:
        is_mark = file.name in ("_SUCCESS", "._SUCCESS.crc") and file.parent in kept_at
        may_be_written = (file.parent == root or not self.is_alone) and not self._is_old(file)
        return is_mark or may_be_written

    def _is_old(self, path: Path) -> bool:
        return datetime.fromtimestamp(path.lstat().st_mtime, UTC) < self.a_day_ago


def _removals(log: Path) -> dict[str, datetime]:
    """Return when files left a table, by their paths in it, as far back as its log goes."""
    found = []
    for commit in log.glob("[0-9]*.json"):
        actions = (json.loads(line) for line in commit.read_text("utf-8").splitlines())
        found += [action["remove"] for action in actions if "remove" in action]
    for checkpoint in log.glob("[0-9]*.checkpoint*.parquet"):
        found += [remove for remove in pq.read_table(checkpoint, columns=["remove"])["remove"].to_pylist() if remove]
    times = sorted((remove["deletionTimestamp"] or 0, unquote(remove["path"])) for remove in found)
    return {path: datetime.fromtimestamp(milliseconds / 1000, UTC) for milliseconds, path in times}


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

    tables: dict[str, dict[Path, int]]  # files that tables use now, and how many of their rows are his
    splits: dict[Path, int]  # directories of models
    old_files: list[Path]
    reports: list[Path]

    @property
    def by_name(self) -> dict[str, dict[Path, int]]:
        """The rows that are his, by table or model."""
        return self.tables | {f"models/{model.name}": {model: n} for model, n in self.splits.items() if n}


def _equals(texts: pa.ChunkedArray, text: str) -> pa.ChunkedArray:
    return pc.fill_null(pc.equal(texts.cast(pa.string()), text), False)


def _paths_in(instances: pa.Array) -> pa.Array:
    return pc.struct_field(pc.list_flatten(instances), "path")


def _paths(warehouse: Warehouse, patient: str) -> tuple[bool, set[str]]:
    """Tell whether a patient is known, and return his files, by all that was ever written and is still there."""
    found: set[str] = set()
    is_known = False
    for file in (*_parquet(warehouse), *(model / "split.parquet" for model in _models(warehouse))):
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
    tables: dict[str, dict[Path, int]] = defaultdict(dict)
    old_files = []
    current = {file for name in _tables(warehouse) for file in warehouse.files(name)}
    for file in _parquet(warehouse):
        rows = _who(file)
        if rows is None and str(file) in current:
            raise ContractError(f"{file}: a table uses this file, and it cannot be read; restore it from a backup")
        n_rows = pc.sum(his.among(rows)).as_py() if rows is not None and rows.num_rows else 0
        if n_rows and str(file) in current:
            tables[file.relative_to(warehouse.uri).parts[0]][file] = n_rows
        elif n_rows or rows is None:
            old_files.append(file)
    splits = {model: pc.sum(his.among(_split(model))).as_py() or 0 for model in _models(warehouse)}
    return _Traces(dict(tables), splits, old_files, sorted(Path(warehouse.path("reports")).glob("*")))


def _erase(warehouse: Warehouse, his: _His, traces: _Traces, *, is_resumed: bool) -> None:
    """Write all files of the tables anew that have rows of his, then delete those that had."""
    run_id = new_run_id("forget", datetime.now(UTC))
    changes = []
    for name, files in traces.tables.items():
        schema = warehouse.schema(name)
        for number, file in enumerate(files):
            _copy_others(file, Path(warehouse.path(name, run_id, f"part-{number:05}.parquet")), schema, his)
        changes.append(Change(name, schema, [str(file) for file in files]))
    warehouse.publish_all(run_id, changes)
    for model, n_rows in traces.splits.items():
        if n_rows or is_resumed:  # a kill may have come between the rows and their sha256
            rows = _split(model)
            bundle.replace_split(model, rows.filter(pc.invert(his.among(rows))))
    drafts = Path(warehouse.path("models")).glob(".*.partial")
    for directory in (*drafts, *(report.parent for report in traces.reports[:1])):
        shutil.rmtree(directory)
    for name in _tables(warehouse):
        _cut_log(warehouse, name)
    for file in (*traces.old_files, *(file for files in traces.tables.values() for file in files)):
        file.unlink()


def _copy_others(source: Path, target: Path, schema: pa.Schema, his: _His) -> None:
    """Write the rows that are not his, in the types of the table."""
    file = pq.ParquetFile(source)
    written = pa.schema([field for field in schema if field.name in file.schema_arrow.names])
    target.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(target, written, compression="snappy") as writer:
        for batch in file.iter_batches():
            rows = pa.Table.from_batches([batch])
            writer.write_table(rows.filter(pc.invert(his.among(rows))).select(written.names).cast(written))


def _cut_log(warehouse: Warehouse, name: str) -> None:
    """Let the log of a table begin with its newest version: other tools write the least and greatest values into it."""
    table = warehouse.table(name)
    if table is None or not {field.name for field in table.schema().fields}.intersection(_WHO):
        return
    table.create_checkpoint()
    log = Path(warehouse.path(name, _LOG))
    version = f"{table.version():020}"
    checkpoint = log / f"{version}.checkpoint.parquet"
    checkpoint.stat()  # without it nothing may be deleted
    for file in _files(log):
        if file not in (checkpoint, log / f"{version}.json", log / "_last_checkpoint"):
            file.unlink()


def _parquet(warehouse: Warehouse) -> list[Path]:
    root = Path(warehouse.uri)
    parts = {file: file.relative_to(root).parts for file in _files(root) if file.suffix == ".parquet"}
    return [file for file, names in parts.items() if names[0] != "models" and _LOG not in names]


def _who(file: Path) -> pa.Table | None:
    """Return the columns that tell whose the rows of a file are, or None if it cannot be read."""
    try:
        content = pq.ParquetFile(file)
        return content.read(columns=[name for name in _WHO if name in content.schema_arrow.names])
    except (pa.ArrowInvalid, OSError):
        return None


def _split(model: Path) -> pa.Table:
    return pq.read_table(model / "split.parquet")


def _is_there(path: str) -> bool:
    parts = split_path(path)
    return os.path.lexists(real_path(path if parts is None else parts[0]))
