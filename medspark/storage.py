"""Files that are read and written whole, by their path: on a disk, or in an object store."""

import errno
import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from medspark import remote
from medspark.errors import UnreadableError, VanishedError


class Stored(NamedTuple):
    """A file below a directory."""

    path: str
    n_bytes: int
    modified_at: datetime


def read(path: str) -> bytes:
    """Return the content of a file; raises FileNotFoundError, or OSError with what a store said."""
    if not remote.is_remote(path):
        return Path(path).read_bytes()
    with _as_os_errors(path), remote.open_object(path) as file:
        return file.read()


def opened(path: str) -> io.BufferedReader:
    """Return an open file, of which only parts may be read; raises as ``read`` does."""
    if not remote.is_remote(path):
        return Path(path).open("rb")
    with _as_os_errors(path):
        return remote.open_object(path)


def write(path: str, content: bytes) -> None:
    """Write a file that is there whole or not at all, also after a loss of power; raises OSError."""
    if remote.is_remote(path):
        with _as_os_errors(path):
            remote.put_object(path, content)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(f".{secrets.token_hex(3)}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except OSError:  # no room for it: then not for a part of it either
        draft.unlink(missing_ok=True)
        raise


def remove(path: str) -> None:
    """Remove a file; one that is not there is no error."""
    if remote.is_remote(path):
        with _as_os_errors(path):
            remote.delete_object(path)
    else:
        Path(path).unlink(missing_ok=True)


def files(directory: str, *, is_deep: bool = True) -> list[Stored]:
    """Return the files in a directory and, if deep, below it, in the order of their paths; none if there is none."""
    if remote.is_remote(directory):
        with _as_os_errors(directory):
            found = remote.objects(directory, is_deep=is_deep)
        return sorted(Stored(each.uri, each.size_bytes, _moment((each.modified_ns or 0) / 1e9)) for each in found)
    paths = Path(directory).rglob("*") if is_deep else Path(directory).glob("*")
    facts = ((path, path.lstat()) for path in sorted(paths) if path.is_symlink() or path.is_file())
    return [Stored(str(path), fact.st_size, _moment(fact.st_mtime)) for path, fact in facts]


def directories(directory: str) -> list[str]:
    """Return the paths of the directories, or prefixes, right below one; none if there is no such directory."""
    if remote.is_remote(directory):
        with _as_os_errors(directory):
            return sorted(remote.prefixes(directory))
    return sorted(str(path) for path in Path(directory).glob("*/"))


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@contextmanager
def _as_os_errors(path: str) -> Iterator[None]:
    try:
        yield
    except VanishedError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
    except UnreadableError as error:
        raise OSError(errno.EIO, str(error), path) from None
