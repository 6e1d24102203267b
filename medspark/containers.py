"""Archives as directories: ``archive.zip!/inner/path`` names a member, which is read without unpacking to disk."""

import errno
import io
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from typing import IO

from medspark import remote
from medspark.errors import (
    CorruptError,
    EmptyFileError,
    ImageError,
    TooLargeError,
    TruncatedError,
    UnreadableError,
    UnsupportedFormatError,
    VanishedError,
)
from medspark.files import open_remote, read_all, read_bytes, real_path, show_path, size_of, state_of

SEPARATOR = "!/"
FORMATS = frozenset({"zip", "tar", "gzip"})
"""What ``sniff`` calls a file that may be an archive."""

WHOLE_BYTES = 256 << 20
"""An archive in an object store is read whole up to so many bytes: each member of it costs a request or more."""

Info = zipfile.ZipInfo | tarfile.TarInfo


@dataclass
class Archive:
    """An open archive and its members by their names as they are shown; of several with one name, the last."""

    file: IO[bytes]
    handle: zipfile.ZipFile | tarfile.TarFile
    members: dict[str, Info]

    @classmethod
    def read(cls, file: IO[bytes]) -> "Archive":
        """Return the archive in an open file.

        Raises TruncatedError, CorruptError or UnsupportedFormatError (a gzip file that is no tar).
        """
        with _reasons():
            if file.read(4) == b"PK\x03\x04":
                bundle = zipfile.ZipFile(file)
                return cls(
                    file, bundle, {_shown(info.filename): info for info in bundle.infolist() if not info.is_dir()}
                )
            file.seek(0)
            tape = tarfile.open(fileobj=file)  # noqa: SIM115 - it stays open with its archive
            members: dict[str, Info] = {_shown(info.name): info for info in tape.getmembers() if info.isfile()}
            if tape.fileobj is not file:  # compressed: the only checksum is that of the whole stream
                while tape.fileobj.read(1 << 20):
                    pass
            return cls(file, tape, members)

    def size(self, name: str) -> int:
        """Return how many bytes a member says it has."""
        info = self.members[name]
        return info.file_size if isinstance(info, zipfile.ZipInfo) else info.size

    def open(self, name: str) -> IO[bytes]:
        """Return the content of a member, as a file to be read from its beginning."""
        if name not in self.members:
            raise VanishedError("the archive has no such member any more")
        info = self.members[name]
        with _reasons():
            if isinstance(self.handle, zipfile.ZipFile):
                return self.handle.open(info)  # type: ignore[arg-type]
            found = self.handle.extractfile(info)  # type: ignore[arg-type]
        if found is None:
            raise UnreadableError("not a regular file")
        return found

    def close(self) -> None:
        """Close the archive and its file."""
        self.handle.close()
        self.file.close()


def split_path(shown: str) -> tuple[str, str] | None:
    """Return the archive and the member that a path names, or None if it names a file."""
    archive, separator, name = shown.partition(SEPARATOR)
    if not separator or (not _is_object(archive) if remote.is_remote(shown) else os.path.lexists(real_path(shown))):
        return None
    return archive, name


def read_source(shown: str, *, max_bytes: int) -> bytes:
    """Return the content of what a path names: a file, or a member of an archive.

    Raises a subclass of ImageError: those of ``read_bytes``, and for an archive TruncatedError, CorruptError or
    UnsupportedFormatError (encrypted, or packed in a way that is not known here).
    """
    parts = split_path(shown)
    if parts is None:
        return read_bytes(shown, max_bytes=max_bytes)
    path, name = parts
    archive = _opened(path)
    with archive.open(name) as member, _reasons():
        content = member.read(max_bytes + 1)  # what a member says of its size may be a lie
    if len(content) > max_bytes:
        raise TooLargeError(f"more than {max_bytes} bytes when unpacked (limits.memory_mb)")
    if not content:
        raise EmptyFileError("the member has no bytes")
    return content


def why_not(content: bytes) -> ImageError:
    """Return why the content of an archive is not an image: it is broken, empty, or lies where no archive is opened."""
    try:
        archive = Archive.read(io.BytesIO(content))
    except ImageError as error:
        return error
    archive.close()
    return UnsupportedFormatError(
        "an archive inside an archive is not opened" if archive.members else "an archive without members"
    )


class _Cache:
    """The archive that was read last: its members come in a row."""

    identity: tuple[str, int, int | str] | None = None
    archive: Archive | None = None
    object: str | None = None  # the path that was last found to be one in an object store


def _is_object(shown: str) -> bool:
    """Tell whether a name before the separator is that of an object, and not of a prefix that looks like it."""
    if shown != _Cache.object:
        try:
            if remote.look(os.fsdecode(real_path(shown))) is None:
                return False
        except VanishedError:
            return False
        except UnreadableError:  # to open it will tell
            return True
        _Cache.object = shown
    return True


def at_hand(file: BufferedReader) -> IO[bytes]:
    """Return an archive's file; of a small one in an object store the content, for there each seek is a request.

    Raises UnreadableError.
    """
    if not isinstance(file.raw, remote.Object) or size_of(file) > WHOLE_BYTES:
        return file
    with file:
        return io.BytesIO(read_all(file, max_bytes=WHOLE_BYTES))


def _open(shown: str) -> BufferedReader:
    if remote.is_remote(shown):
        return open_remote(shown)
    try:
        return os.fdopen(os.open(real_path(shown), os.O_RDONLY | os.O_CLOEXEC), "rb")
    except (FileNotFoundError, NotADirectoryError):
        raise VanishedError("the archive is gone") from None
    except OSError as error:
        raise UnreadableError(f"the archive cannot be opened: {os.strerror(error.errno or 0)}") from None


def _opened(shown: str) -> Archive:
    file = _open(shown)
    identity = (shown, *state_of(file))
    if _Cache.archive is not None and _Cache.identity == identity:
        file.close()
        return _Cache.archive
    try:
        archive = Archive.read(at_hand(file))
    except ImageError:
        file.close()
        raise
    if _Cache.archive is not None:
        _Cache.archive.close()
    _Cache.identity, _Cache.archive = identity, archive
    return archive


def _shown(name: str) -> str:
    return show_path(name.encode("utf-8", "surrogateescape"))


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn what the libraries raise into reasons."""
    try:
        yield
    except EOFError:
        raise TruncatedError("the archive ends before its end") from None
    except zipfile.BadZipFile as error:
        is_cut = "not a zip file" in str(error)  # the directory of members, which is at the end, is missing
        raise (TruncatedError if is_cut else CorruptError)("the archive cannot be read to its end") from None
    except tarfile.ReadError as error:
        if "unexpected end" in str(error):
            raise TruncatedError("the archive ends before its end") from None
        raise UnsupportedFormatError("a compressed file that is no tar archive") from None
    except (RuntimeError, NotImplementedError):
        raise UnsupportedFormatError("the archive is encrypted, or packed in a way that is not known here") from None
    except (zlib.error, tarfile.TarError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.EIO:
            raise UnreadableError(f"the archive cannot be read: {os.strerror(errno.EIO)}") from None
        raise CorruptError(f"the archive cannot be unpacked ({type(error).__name__})") from None
