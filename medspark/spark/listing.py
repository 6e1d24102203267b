"""Directories into the images table: every file, whatever its name, in parallel."""

import glob
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from medspark import containers, remote
from medspark.errors import ConfigError, ImageError, UnreadableError, VanishedError
from medspark.files import (
    Directory,
    Entry,
    file_entry,
    is_inside,
    open_remote,
    real_path,
    show_path,
    subdirectories,
    walk,
)
from medspark.frame import DEFAULT_LIMITS, Limits
from medspark.privacy.pseudonym import pseudonym
from medspark.readers import headers
from medspark.readers.formats import HEAD_BYTES, sniff
from medspark.spark.guard import Death, guarded
from medspark.spark.tables import IMAGES, LISTING, arrow

_IDS = ("patient_id", "study_uid", "series_uid", "sop_instance_uid", "frame_of_reference_uid")
_BATCH = 10_000
_FEW = 1000  # files that the driver lists sooner than a task begins
_A_WEEK = 7 * 24 * 3600.0


def list_files(spark: SparkSession, inputs: tuple[str, ...]) -> DataFrame:
    """Return a row for each file of the inputs, with status ``listed`` or why not.

    An input is a directory, a file or a glob, or the URI of a prefix or an object in an object store. Raises
    ConfigError for one that is not there; a part of an object store that cannot be listed later on fails the job.
    """
    directories, files = _expand(inputs)
    few = _few(directories)
    listed = spark.createDataFrame(pa.Table.from_batches(_listed([*files, *(few or ())]), arrow(LISTING)))
    if few is not None:
        return listed
    n_tasks = 4 * spark.sparkContext.defaultParallelism
    trees = _spread(directories, wanted=n_tasks)

    def walked(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        # Each task lists whole subtrees, so that nothing but directories is ever held by the driver.
        for number in (number for batch in batches for number in batch.column("id").to_pylist()):
            directory, is_deep = trees[number]
            if remote.is_remote(os.fsdecode(directory.path)):
                yield from _listed_apart(directory, is_deep=is_deep)
            else:
                yield from _walked(directory, is_deep=is_deep)

    numbers = spark.range(0, len(trees), numPartitions=min(n_tasks, len(trees)))  # a task costs as much as 100 files
    return numbers.mapInArrow(walked, LISTING).unionByName(listed)


def index_table(
    spark: SparkSession, inputs: tuple[str, ...], previous: DataFrame, key: bytes, limits: Limits
) -> DataFrame:
    """Return the images table of the inputs: the format by content and, for DICOM, what the header says.

    A file with the size and time of before keeps the facts of before. Identifiers are pseudonyms. Where inputs overlap,
    relative paths begin at the outermost one that does not hide the file.
    """
    same = ["path", "size_bytes", "modified_at"]
    by_rank = F.struct("status", "input", "relative_path", "size_bytes", "modified_at", "reason")  # listed sorts first
    found = list_files(spark, inputs).repartition(2 * spark.sparkContext.defaultParallelism, "path")
    listing = found.groupBy("path").agg(F.min(by_rank).alias("first")).select("path", "first.*")
    known = previous.where("format is not null").drop(*LISTING.names[3:], "gone_at")
    rows = listing.join(known, same, "left").withColumn("gone_at", F.lit(None).cast("timestamp"))
    return rows.select(*IMAGES.names).mapInArrow(
        lambda batches: (part for batch in batches for part in _with_headers(batch, key, limits)), IMAGES
    )


def roots(inputs: tuple[str, ...]) -> list[str]:
    """Return the directories that the inputs lie in, as they are shown.

    For an object that is given by itself, it is the one that it would be as an archive: nothing beside it was listed.
    """
    directories, files = _expand(inputs)
    places = {show_path(directory.root) for directory in directories}
    for entry, root in files:
        shown = show_path(entry.path)
        places.add(f"{shown}{containers.SEPARATOR}" if remote.is_remote(shown) else show_path(root))
    return sorted(places)


def is_listed_by(uri: str, path: str) -> bool:
    """Tell whether a path lies in a directory that an input names."""
    return any(is_inside(path, os.fsdecode(directory.path)) for directory in _expand((uri,))[0])


def _expand(inputs: tuple[str, ...]) -> tuple[list[Directory], list[tuple[Entry, bytes]]]:
    """Return the directories to walk, and single files each with the directory that relative paths begin at."""
    directories: list[Directory] = []
    files: list[tuple[Entry, bytes]] = []
    for text in inputs:
        if remote.is_remote(text):
            _look(text, directories, files)
            continue
        pattern = os.path.abspath(text.removeprefix("file://").encode("utf-8", "surrogateescape"))
        if os.path.lexists(pattern):
            matches, root = [pattern], pattern if os.path.isdir(pattern) else os.path.dirname(pattern)
        else:
            matches, root = sorted(glob.glob(pattern, recursive=True, include_hidden=True)), _fixed_part(pattern)
        if not matches:
            raise ConfigError(f"--input {text}: no such file or directory, and as a glob it matches nothing")
        for match in matches:
            if os.path.isdir(match):
                facts = os.stat(match)
                directories.append(Directory(match, root, ancestors=frozenset({(facts.st_dev, facts.st_ino)})))
            else:
                files.append((file_entry(match), root))
    return directories, files


def _look(uri: str, directories: list[Directory], files: list[tuple[Entry, bytes]]) -> None:
    """Add what a URI names; no part of it is a wildcard, for any character may be in a key."""
    place = os.fsencode(remote.Place.of(uri).uri.removesuffix("/"))
    with _told(f"--input {uri}"):
        found = remote.look(uri)
    if found is None:
        directories.append(Directory(place, place))
    else:
        files.append((Entry(place, found.size_bytes, found.modified_ns), place.rpartition(b"/")[0]))


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn what an object store refuses into an error of the configuration."""
    try:
        yield
    except VanishedError:
        raise ConfigError(f"{what}: no such object, and as a prefix it holds none") from None
    except UnreadableError as error:
        raise ConfigError(
            f"{what}: {error}. Look at the name, the network, AWS_ENDPOINT_URL, AWS_REGION or HADOOP_CONF_DIR,"
            " and the credentials (docs/storage.md)"
        ) from None


def _fixed_part(pattern: bytes) -> bytes:
    """Return the directory of a glob that is before its first wildcard."""
    parts = pattern.split(b"/")
    first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return b"/".join(parts[:first]) or b"/"


def _few(directories: list[Directory]) -> list[tuple[Entry, bytes]] | None:
    """Return what is in the directories, or None if that is for the executors: it is much, or in an object store."""
    if any(remote.is_remote(os.fsdecode(directory.path)) for directory in directories):
        return None
    entries = ((entry, directory.root) for directory in directories for entry in walk(directory, is_deep=True))
    found = list(itertools.islice(entries, _FEW + 1))
    return found if len(found) <= _FEW else None


def _spread(directories: list[Directory], *, wanted: int) -> list[tuple[Directory, bool]]:
    """Split trees until there are enough: (directory, whether its subdirectories belong to it)."""
    shallow: list[Directory] = []
    deep = list(directories)
    while deep and len(deep) < wanted:
        below = [(directory, _below(directory)) for directory in deep]
        if not any(inner for _, inner in below):
            break
        shallow += [directory for directory, inner in below if inner]
        deep = [child for directory, inner in below for child in inner or [directory]]
    return [(directory, False) for directory in shallow] + [(directory, True) for directory in deep]


def _below(directory: Directory) -> list[Directory]:
    with _told(f"--input {show_path(directory.path)}"):
        return subdirectories(directory)


def _walked(directory: Directory, *, is_deep: bool) -> Iterator[pa.RecordBatch]:
    return _listed((entry, directory.root) for entry in walk(directory, is_deep=is_deep))


def _listed_apart(directory: Directory, *, is_deep: bool) -> list[pa.RecordBatch]:
    """Return what ``_walked`` yields, listed in a child: this process could not fork any more.

    Raises UnreadableError.
    """
    (found,) = guarded(_walked_whole, [(directory, is_deep)], seconds=_A_WEEK, memory_mb=DEFAULT_LIMITS.memory_mb)
    if isinstance(found, (Death, str)):
        raise UnreadableError(f"{show_path(directory.path)}: {found if isinstance(found, str) else found.error}")
    return found


def _walked_whole(tree: tuple[Directory, bool]) -> list[pa.RecordBatch] | str:
    """Return the rows of a tree, or why it cannot be listed."""
    try:
        return list(_walked(tree[0], is_deep=tree[1]))
    except UnreadableError as error:
        return str(error)


def _listed(entries: Iterable[tuple[Entry, bytes]]) -> Iterator[pa.RecordBatch]:
    """Yield rows of the listing for entries and the directories that their relative paths begin at."""
    entries = iter(entries)
    schema = arrow(LISTING)
    while rows := [_row(entry, root) for entry, root in itertools.islice(entries, _BATCH)]:
        columns = zip(*rows, strict=True)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _row(entry: Entry, root: bytes) -> tuple[str, int | None, int | None, str, str | None, str, str]:
    """Return the values of LISTING."""
    modified_us = None if entry.modified_ns is None else entry.modified_ns // 1000
    names = show_path(root), show_path(_relative(entry.path, root))
    return show_path(entry.path), entry.size_bytes, modified_us, *_verdict(entry), *names


def _relative(path: bytes, root: bytes) -> bytes:
    inside = path.removeprefix(root.rstrip(b"/") + b"/")
    return os.path.relpath(path, root) if inside == path else inside  # relpath costs as much as all else of a row


def _verdict(entry: Entry) -> tuple[str, str | None]:
    if entry.is_hidden:
        return "skipped", "hidden"
    if entry.is_unreadable_directory:
        return "quarantined", "unreadable"
    return "listed", None


def _with_headers(batch: pa.RecordBatch, key: bytes, limits: Limits) -> Iterator[pa.RecordBatch]:
    """Yield the rows with what the content says, and a row for each member in the place of an archive."""
    is_unknown = pc.and_(pc.equal(batch.column("status"), "listed"), pc.is_null(batch.column("format")))
    yield batch.filter(pc.invert(is_unknown)).cast(arrow(IMAGES))  # its times are in the time zone of the session
    rows = batch.filter(is_unknown).to_pylist()
    for row, facts in zip(rows, _guarded(_Facts(key), [row["path"] for row in rows], limits), strict=True):
        row.update(facts or {})
    archives = [row for row in rows if row["format"] in containers.FORMATS]
    # However long it takes: an archive may hold any number of files.
    members = list(_guarded(_Members(key), archives, replace(limits, seconds_per_file=_A_WEEK)))
    opened = {id(row) for row, found in zip(archives, members, strict=True) if found}
    rows = [row for row in rows if id(row) not in opened] + [member for found in members for member in found or []]
    yield pa.RecordBatch.from_pylist(rows, arrow(IMAGES))


def _guarded(work: Callable[[Any], Any], items: Sequence[Any], limits: Limits) -> Iterator[Any]:
    """Yield what is found out of each item, or None where that took the process down: extract will say so."""
    for found in guarded(work, items, seconds=limits.seconds_per_file, memory_mb=limits.memory_mb):
        yield None if isinstance(found, Death) else found


@dataclass(frozen=True)
class _Facts:
    key: bytes

    def __call__(self, shown: str) -> dict[str, Any]:
        """Return what the content of a file says, nothing if it cannot be read: extract will say why."""
        try:
            with _opened(shown) as file:
                return _facts(file, self.key)
        except (OSError, ImageError):
            return {}


@dataclass(frozen=True)
class _Members:
    key: bytes

    def __call__(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Return a row for each member of an archive; none if it cannot be opened."""
        try:
            with _opened(row["path"]) as file, containers.at_hand(file) as archive:
                return _members(row, archive, self.key)
        except (OSError, ImageError):
            return []


def _opened(shown: str) -> BufferedReader:
    if remote.is_remote(shown):
        return open_remote(shown)
    # Opening a named pipe would wait for a writer that never comes.
    return os.fdopen(os.open(real_path(shown), os.O_RDONLY | os.O_NONBLOCK), "rb")


def _members(row: dict[str, Any], file: IO[bytes], key: bytes) -> list[dict[str, Any]]:
    rows = []
    try:
        archive = containers.Archive.read(file)
    except ImageError:
        return []
    for name in archive.members:
        is_hidden = any(part.startswith(".") for part in name.split("/") if part not in (".", ".."))
        status = {"status": "skipped", "reason": "hidden"} if is_hidden else {}
        here = {field: f"{row[field]}{containers.SEPARATOR}{name}" for field in ("path", "relative_path")}
        try:
            with archive.open(name) as member:
                facts = {} if is_hidden else _facts(member, key)
        except ImageError:
            facts = {}
        rows.append(row | here | {"size_bytes": archive.size(name)} | facts | status)
    archive.close()
    return rows


def _facts(file: IO[bytes], key: bytes) -> dict[str, Any]:
    """Return the format of a file's content and, for DICOM, what its header says; identifiers as pseudonyms."""
    kind = sniff(file.read(HEAD_BYTES))
    if kind != "dicom":
        return {"format": kind}
    file.seek(0)
    facts = headers.header(file)
    ids = {name: pseudonym(key, facts.get(name)) for name in _IDS}
    is_directory = facts.get("sop_class_uid") == headers.DIRECTORY
    status = {"status": "skipped", "reason": "directory_record"} if is_directory else {}
    return {"format": kind, **facts, **ids, **status}
