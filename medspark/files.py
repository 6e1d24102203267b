"""Files as the archive has them: every name the file system can hold, and bytes or a reason why not.

What begins with the scheme of an object store is opened and listed there (``medspark/remote.py``).
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BufferedReader

from medspark import remote
from medspark.errors import EmptyFileError, TooLargeError, UnreadableError, VanishedError

_ODD_BYTE = re.compile(r"\\x([89a-f][0-9a-f])")
_SHOWN_BACKSLASH = re.compile(r"\\x5c(?=x(?:5c|[89a-f][0-9a-f]))")
_LOOKS_SHOWN = re.compile(r"\\(?=x(?:5c|[89a-f][0-9a-f]))")


def show_path(path: bytes) -> str:
    r"""Return a path as text: the real name, with a byte that is not UTF-8 as ``\xNN``.

    A name that holds such a text itself has its backslash shown as ``\x5c``, so that ``real_path`` can tell.
    """
    text = path.decode("utf-8", "surrogateescape")
    text = _LOOKS_SHOWN.sub(lambda _: r"\x5c", text)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def real_path(shown: str) -> bytes:
    """Return the bytes that the file system knows; the inverse of ``show_path``."""
    parts = _ODD_BYTE.split(shown)  # text, hex, text, hex, ... text
    raw = [
        _SHOWN_BACKSLASH.sub(r"\\", part).encode() if i % 2 == 0 else bytes.fromhex(part)
        for i, part in enumerate(parts)
    ]
    return b"".join(raw)


def open_file(shown: str) -> BufferedReader:
    """Return an open file, named as ``show_path`` shows it.

    Raises VanishedError, UnreadableError (permission, not a regular file) or EmptyFileError.
    """
    if remote.is_remote(shown):
        file = open_remote(shown)
        if size_of(file):
            return file
        file.close()
        raise EmptyFileError("the object has no bytes")
    try:
        # Opening a named pipe would wait for a writer that never comes.
        handle = os.open(real_path(shown), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise VanishedError("the file is gone, or a link leads nowhere") from None
    except OSError as error:
        raise UnreadableError(f"cannot be opened: {os.strerror(error.errno or 0)}") from None
    facts = os.fstat(handle)
    if stat.S_ISREG(facts.st_mode) and facts.st_size:
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISREG(facts.st_mode):
        raise EmptyFileError("the file has no bytes")
    raise UnreadableError("not a regular file")


def open_remote(shown: str) -> BufferedReader:
    """Return an open object of an object store, empty or not. Raises VanishedError or UnreadableError."""
    return remote.open_object(os.fsdecode(real_path(shown)))


def state_of(file: BufferedReader) -> tuple[int, int | str]:
    """Return the size of an open file, and its time or what its object store has in the place of one."""
    if isinstance(file.raw, remote.Object):
        return file.raw.size, file.raw.version
    facts = os.fstat(file.fileno())
    return facts.st_size, facts.st_mtime_ns


def size_of(file: BufferedReader) -> int:
    """Return how many bytes an open file has."""
    return state_of(file)[0]


def read_all(file: BufferedReader, *, max_bytes: int) -> bytes:
    """Return the content of an open file. Raises TooLargeError or UnreadableError (I/O error)."""
    size = size_of(file)
    if size > max_bytes:
        raise TooLargeError(f"{size} bytes, the limit is {max_bytes} (limits.memory_mb)")
    try:
        return file.read()
    except OSError as error:
        raise UnreadableError(f"cannot be read: {os.strerror(error.errno or 0)}") from None


def read_bytes(shown: str, *, max_bytes: int) -> bytes:
    """Return the content of a file. Raises what ``open_file`` and ``read_all`` raise."""
    with open_file(shown) as file:
        return read_all(file, max_bytes=max_bytes)


@dataclass(frozen=True)
class Entry:
    """A name found in the archive."""

    path: bytes
    size_bytes: int | None  # None: not even that much could be learned
    modified_ns: int | None
    is_hidden: bool = False
    is_unreadable_directory: bool = False


@dataclass(frozen=True)
class Directory:
    """A directory to be listed, with what its place in the archive says about it."""

    path: bytes
    root: bytes  # the input it was found under
    is_hidden: bool = False
    ancestors: frozenset[tuple[int, int]] = frozenset()  # device and inode of what it lies in and of itself


def walk(directory: Directory, *, is_deep: bool = True) -> Iterator[Entry]:
    """Yield every file in a directory and, if deep, below it.

    A link to a directory is followed only if it leads out of the root: what lies inside is listed under its own name,
    and a loop ends. Whatever is no directory is a file, dangling links and pipes too; what begins with a dot, or lies
    in a directory that does, is hidden. Raises UnreadableError where an object store cannot be listed.
    """
    if remote.is_remote(os.fsdecode(directory.path)):
        yield from _objects(directory, is_deep=is_deep)
        return
    todo = [directory]
    while todo:
        here = todo.pop()
        below: list[Directory] = []
        try:
            with os.scandir(here.path) as children:  # one by one: a directory may hold millions
                for child in children:
                    if not _is_directory(child):
                        yield _file(child, is_hidden=here.is_hidden or child.name.startswith(b"."))
                    elif is_deep:
                        below += _entered(here, child)
        except OSError:
            yield Entry(here.path, None, None, here.is_hidden, is_unreadable_directory=True)
        todo += sorted(below, key=lambda directory: directory.path, reverse=True)


def subdirectories(directory: Directory) -> list[Directory]:
    """Return the directories that ``walk`` would enter from this one, as far as it can be read.

    Raises UnreadableError where an object store cannot be listed.
    """
    if remote.is_remote(os.fsdecode(directory.path)):
        prefixes = sorted(os.fsencode(prefix) for prefix in remote.prefixes(os.fsdecode(directory.path)))
        return [replace(directory, path=prefix) for prefix in prefixes]
    below: list[Directory] = []
    try:
        with os.scandir(directory.path) as children:
            for child in children:
                if _is_directory(child):
                    below += _entered(directory, child)
    except OSError:  # to walk it will tell
        pass
    return sorted(below, key=lambda directory: directory.path)


def _entered(here: Directory, child: os.DirEntry[bytes]) -> list[Directory]:
    """Return a directory in another one, or none if it leads back."""
    leads_back = child.is_symlink() and _lies_in(os.path.realpath(child.path), os.path.realpath(here.root))
    identity = _identity(child.path)
    if leads_back or not here.ancestors.isdisjoint(identity):
        return []
    hidden = here.is_hidden or child.name.startswith(b".")
    return [Directory(child.path, here.root, hidden, here.ancestors | identity)]


def _objects(directory: Directory, *, is_deep: bool) -> Iterator[Entry]:
    for found in remote.objects(os.fsdecode(directory.path), is_deep=is_deep):
        names = found.uri.removeprefix(os.fsdecode(directory.root) + "/").split("/")
        is_hidden = any(name.startswith(".") for name in names if name not in (".", ".."))
        yield Entry(os.fsencode(found.uri), found.size_bytes, found.modified_ns, is_hidden)


def file_entry(path: bytes) -> Entry:
    """Return the entry of a path that is no directory."""
    try:
        facts = os.stat(path)
    except OSError:
        return Entry(path, None, None)
    return Entry(path, facts.st_size, facts.st_mtime_ns)


def _file(child: os.DirEntry[bytes], *, is_hidden: bool) -> Entry:
    return replace(file_entry(child.path), is_hidden=is_hidden)


def _is_directory(child: os.DirEntry[bytes]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # a link to itself, or to a place that is closed to us
        return False


def _identity(path: bytes) -> frozenset[tuple[int, int]]:
    """Return device and inode of a directory; nothing where it is gone or its path too long: listing it will tell."""
    try:
        facts = os.stat(path)
    except OSError:
        return frozenset()
    return frozenset({(facts.st_dev, facts.st_ino)})


def _lies_in(path: bytes, directory: bytes) -> bool:
    return path == directory or path.startswith(directory.rstrip(b"/") + b"/")


def is_inside(path: str, directory: str) -> bool:
    """Tell whether a path lies in a directory, links resolved; either may be in an object store."""
    if remote.is_remote(path) or remote.is_remote(directory):
        return _lies_in(os.fsencode(_canonical(path)), os.fsencode(_canonical(directory)))
    return _lies_in(os.path.realpath(os.fsencode(path)), os.path.realpath(os.fsencode(directory)))


def _canonical(path: str) -> str:
    return remote.Place.of(path).uri if remote.is_remote(path) else os.path.realpath(path)
