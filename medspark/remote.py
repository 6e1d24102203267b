"""Object stores by URI, ``s3://bucket/key``: what lies there, and an object as an open file.

The clients are those of ``pyarrow.fs`` and, for file systems that only Java reaches, of ``medspark/hadoop.py``.

A key is taken as it is: nothing in it is ever decoded, and no query or fragment is cut off. The clients of the stores
have threads, so a process that has used one must not fork: the child would crash in its first request. It is refused
instead. The executors come here in the children of ``medspark/spark/guard.py`` only.
"""

import configparser
import errno
import io
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from medspark import hadoop
from medspark.errors import ConfigError, UnreadableError, VanishedError

# A closed list: what else stands before :// may be a name on a disk, and one that is mistyped is told at once.
_OF_HADOOP = {
    "hdfs", "webhdfs", "swebhdfs", "viewfs", "ofs", "o3fs", "wasb", "wasbs", "adl", "oss", "cosn", "obs", "bos", "tos",
    "alluxio", "jfs", "maprfs",
}  # fmt: skip
_SCHEMES = {"s3": "s3", "s3a": "s3", "s3n": "s3", "gs": "gs", "abfs": "abfs", "abfss": "abfss"}
_SCHEMES |= {scheme: scheme for scheme in _OF_HADOOP}
_BUCKET = re.compile(r"[\w.-]+")
_HOST = re.compile(r"(?:[\w.-]+@)?[\w.-]+(?::\d+)?")  # or container@account of abfs
_HOST_OR_NONE = re.compile(rf"(?:{_HOST.pattern})?")  # that of Hadoop's configuration
_LEAST_BUFFER, _MOST_BUFFER = 64 << 10, 8 << 20
_ATTEMPTS = 3
_CONNECT_SECONDS, _REQUEST_SECONDS = 5.0, 30.0


def is_remote(text: str) -> bool:
    """Tell whether a text is the URI of something in an object store."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme in _SCHEMES


class Place(NamedTuple):
    """A URI in its parts; equal places have equal URIs, whichever of ``s3``, ``s3a`` and ``s3n`` was written."""

    scheme: str
    store: str  # the bucket, container@account or host; of Hadoop's also "", for that of its configuration
    key: str

    @classmethod
    def of(cls, uri: str) -> Self:
        """Read a URI; raise ConfigError, without repeating it, if it names no bucket or holds credentials."""
        scheme, _, rest = uri.partition(":")
        store, _, key = rest.removeprefix("//").partition("/")
        scheme = _SCHEMES[scheme]
        known = _BUCKET if scheme in ("s3", "gs") else _HOST_OR_NONE if scheme in _OF_HADOOP else _HOST
        if not known.fullmatch(store):
            raise ConfigError(
                f"a {scheme}:// URI needs the name of a bucket or host before its first slash and nothing else;"
                " credentials belong in the environment or a profile (docs/storage.md)"
            )
        return cls(scheme, store, key)

    @property
    def uri(self) -> str:
        """The URI, its key as it is."""
        slash = "/" if self.key or not self.store else ""
        return f"{self.scheme}://{self.store}{slash}{self.key}"


class Found(NamedTuple):
    """An object of a store."""

    uri: str
    size_bytes: int
    modified_ns: int | None


def look(uri: str) -> Found | None:
    """Return the object of a name, or None where only a prefix has it; one with a slash at its end is a prefix.

    Raises VanishedError if there is neither, UnreadableError if the store cannot be asked.
    """
    from pyarrow.fs import FileType

    place = _prefix(uri)
    system, path = _at(place)
    try:
        info = system.get_file_info(path)
    except FileNotFoundError:
        raise VanishedError("the object is gone") from None
    except (OSError, ValueError, NotImplementedError) as error:
        raise UnreadableError(f"cannot be looked at: {_kind(error)}") from None
    if info.type == FileType.NotFound:
        raise VanishedError("the object is gone")
    return Found(place.uri, info.size, info.mtime_ns) if info.is_file and not uri.endswith("/") else None


def objects(uri: str, *, is_deep: bool) -> list[Found]:
    """Return the objects of a prefix and, if deep, below it: none if there is no such prefix any more.

    Keys that end with a slash are the marks of directories. Raises UnreadableError.
    """
    return [Found(*found[:3]) for found in _listed(uri, is_deep=is_deep) if found.is_file]


def prefixes(uri: str) -> list[str]:
    """Return the prefixes right below one: none if one of them has no name, for it cannot be listed by itself.

    None on Google's store: its client tells those alone that have a mark. Raises UnreadableError.
    """
    if Place.of(uri).scheme == "gs":
        return []
    below = [found.uri.removesuffix("/") for found in _listed(uri, is_deep=False) if not found.is_file]
    return [] if _prefix(uri).uri in below else below


class _Listed(NamedTuple):
    uri: str
    size_bytes: int
    modified_ns: int | None
    is_file: bool


def _listed(uri: str, *, is_deep: bool) -> list[_Listed]:
    from pyarrow.fs import FileSelector

    place = _prefix(uri)
    system, path = _at(place)
    try:
        infos = system.get_file_info(FileSelector(path, allow_not_found=True, recursive=is_deep))
    except (OSError, ValueError, NotImplementedError) as error:
        raise UnreadableError(f"cannot be listed: {_kind(error)}") from None
    root = place.uri.removesuffix("/")
    return [_Listed(root + info.path[len(path) :], info.size, info.mtime_ns, info.is_file) for info in infos]


def _prefix(uri: str) -> Place:
    """Return the place of a prefix, without the slash at its end."""
    place = Place.of(uri)
    place = place._replace(key=place.key.removesuffix("/"))
    if place.key and "" in place.key.split("/"):  # the prefix before it would be listed
        raise UnreadableError("a prefix with nothing between two slashes cannot be asked for: give the one before it")
    return place


class Object(io.RawIOBase):
    """An object as an unbuffered file: each read is one request."""

    name = ""  # pydicom asks a file for its name

    def __init__(self, file: Any) -> None:
        self._file = file
        self._position = 0
        self.size: int = file.size()
        facts = file.metadata()
        self.version = str(facts.get("ETag") or facts.get("etag") or facts.get("Last-Modified"))

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be read from any place."""
        return True

    def tell(self) -> int:
        """Return the place of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set and return the place of the next read, which may be beyond the end."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer what fits and return how much that is."""
        content = self._next(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def readall(self) -> bytes:
        """Return all that is left."""
        return self._next(self.size)

    def close(self) -> None:
        """Close the object."""
        if not self.closed:
            self._file.close()
        super().close()

    def _next(self, n_bytes: int) -> bytes:
        n_bytes = min(n_bytes, self.size - self._position)
        if n_bytes <= 0:
            return b""
        try:
            content: bytes = self._file.read_at(n_bytes, self._position)
        except OSError:  # what it says holds the key
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from None
        self._position += len(content)
        return content


def open_object(uri: str) -> io.BufferedReader:
    """Return an object as an open file, whose ``raw`` is an ``Object``. Raises VanishedError or UnreadableError.

    Read whole it costs two requests, for its size and for its bytes.
    """
    place = Place.of(uri)
    if not {"", ".", ".."}.isdisjoint(place.key.split("/")):  # another object would be read, or none
        raise UnreadableError("a key with nothing, . or .. between two slashes cannot be asked for: rename the object")
    system, path = _at(place)
    try:
        file = Object(system.open_input_file(path))
    except FileNotFoundError:
        raise VanishedError("the object is gone") from None
    except (OSError, ValueError, NotImplementedError) as error:
        raise UnreadableError(f"cannot be opened: {_kind(error)}") from None
    return io.BufferedReader(file, max(_LEAST_BUFFER, min(file.size // 256, _MOST_BUFFER)))


def put_object(uri: str, content: bytes) -> None:
    """Make an object, or put another content into it, at once. Raises UnreadableError."""
    system, path = _writable(uri)
    try:
        with system.open_output_stream(path) as file:
            file.write(content)
    except (OSError, ValueError, NotImplementedError) as error:
        raise UnreadableError(f"cannot be written: {_kind(error)}") from None


def delete_object(uri: str) -> None:
    """Remove an object, if there is one. Raises UnreadableError."""
    system, path = _writable(uri)
    try:
        system.delete_file(path)
    except FileNotFoundError:
        return
    except (OSError, ValueError, NotImplementedError) as error:
        raise UnreadableError(f"cannot be deleted: {_kind(error)}") from None


def delta_options(uri: str) -> dict[str, str]:
    """Return what delta-rs does not find out by itself of a store; nothing for a path on a disk."""
    if not is_remote(uri):
        return {}
    address = _address(Place.of(uri).store)
    endpoint = address.get("endpoint_override", "")
    options = {"aws_endpoint": endpoint, "aws_region": address.get("region", "")}
    options["aws_allow_http"] = str(endpoint.startswith("http://")).lower()
    return {name: value for name, value in options.items() if value}


def _writable(uri: str) -> tuple[Any, str]:
    place = Place.of(uri)
    if place.scheme in _OF_HADOOP:
        raise UnreadableError(f"cannot be written: {place.scheme}:// is for inputs only")
    return _at(place)


class _Clients:
    """The clients of this process."""

    owner: ClassVar[int | None] = None
    by_store: ClassVar[dict[tuple[str, str], tuple[Any, str]]] = {}


def _at(place: Place) -> tuple[Any, str]:
    """Return the file system of a place and the path of its key in there."""
    if _Clients.owner not in (None, os.getpid()):
        raise UnreadableError("the process that this one was forked from has used an object store: start another one")
    _Clients.owner = os.getpid()
    store = place.scheme, place.store
    if store not in _Clients.by_store:
        try:
            _Clients.by_store[store] = _client(*store)
        except (OSError, ValueError, NotImplementedError) as error:
            raise UnreadableError(f"cannot be reached: {_kind(error)}") from None
    system, root = _Clients.by_store[store]
    return system, f"{root}/{place.key}" if place.key else root


def _client(scheme: str, store: str) -> tuple[Any, str]:
    """Return a file system and the path of a bucket or host in it."""
    from pyarrow import fs

    if scheme == "s3":
        retries = fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS)
        seconds = {"connect_timeout": _CONNECT_SECONDS, "request_timeout": _REQUEST_SECONDS}
        return fs.S3FileSystem(**_address(store), **seconds, retry_strategy=retries, allow_delayed_open=True), store
    if scheme == "gs":
        is_emulator = "CLOUD_STORAGE_EMULATOR_ENDPOINT" in os.environ  # Google's variable; it asks for no credentials
        limit = timedelta(seconds=_REQUEST_SECONDS)
        return fs.GcsFileSystem(anonymous=is_emulator, retry_time_limit=limit), store
    if scheme in _OF_HADOOP:
        return hadoop.FileSystem(scheme, store), ""
    system, root = fs.FileSystem.from_uri(f"{scheme}://{store}/")
    return system, root.rstrip("/")


def _address(bucket: str) -> dict[str, str]:
    """Return what the AWS SDK does not find out by itself: the endpoint and, on AWS, the region of a bucket."""
    from pyarrow.fs import resolve_s3_region

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or _profile_endpoint()
    if endpoint:
        return {"endpoint_override": endpoint}
    if os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        return {}
    try:
        return {"region": resolve_s3_region(bucket)}
    except OSError:  # the profile may know it
        return {}


def _profile_endpoint() -> str | None:
    """Return the ``endpoint_url`` of the profile in use; the AWS SDK reads the rest of a profile by itself."""
    profiles = configparser.ConfigParser(interpolation=None, strict=False)
    name = os.environ.get("AWS_PROFILE", "default")
    try:
        profiles.read(os.environ.get("AWS_CONFIG_FILE") or Path("~/.aws/config").expanduser(), "utf-8")
    except (configparser.Error, UnicodeDecodeError):  # the SDK will not find credentials in it either
        return None
    section = "default" if name == "default" else f"profile {name}"
    return profiles.get(section, "endpoint_url", fallback=None)


def _kind(error: Exception) -> str:
    """Return what went wrong in a word or two; the rest of such a message holds keys, and may hold more."""
    if isinstance(error, PermissionError):
        return "access denied"
    if isinstance(error, hadoop.HadoopError):
        return str(error)
    named = re.search(r"AWS Error ([A-Z_]+|\[code \d+\])", str(error))
    return named[1].replace("_", " ").lower() if named else type(error).__name__
