"""A DICOM object as a file for pydicom to parse, and the pixel data in it as another: nothing is read twice."""

import io
import os
import zlib
from typing import IO

from medspark.errors import TooLargeError, UnreadableError
from medspark.readers import elements
from medspark.readers.formats import HEAD_BYTES

_NO_ELEMENT = bytes(8)
_PADDING_BYTES = 1 << 12  # fewer zeros do no harm
_CHUNK_BYTES = 1 << 12
_DEFLATE_RATIO = 1032  # a byte inflates to no more


class Part:
    """A part of an open file as a file of its own. Reading raises TooLargeError or UnreadableError."""

    def __init__(self, file: IO[bytes], start: int, size: int, max_bytes: int) -> None:
        self.size = size
        self.max_bytes = max_bytes  # of one read
        self._seek, self._read = file.seek, file.read
        self._start = start
        self._at = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many of the next bytes, or as many as there are."""
        left = max(0, self.size - self._at)
        length = left if size is None or not 0 <= size <= left else size
        if length > self.max_bytes:
            raise TooLargeError(f"a value of {length} bytes, the limit is {self.max_bytes} (limits.memory_mb)")
        try:
            self._seek(self._start + self._at)
            data = self._read(length)
        except OSError as error:
            raise UnreadableError(f"cannot be read: {os.strerror(error.errno or 0)}") from None
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place in the part, or beyond its end; return it."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        """Return where in the part the next byte is read."""
        return self._at


class InMemory(io.BytesIO):
    """An object whose bytes are there. Made for speed: pydicom reads a header in hundreds of small pieces."""

    is_short = False  # whether more was asked for than there is
    is_parsed = False
    max_bytes = 0  # of what it may inflate to

    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many of the next bytes, or as many as there are."""
        data = super().read(size)
        return data if len(data) == size and data != _NO_ELEMENT else _judged(self, data, size)


class InFile(Part):
    """An object that stays in its file."""

    is_short = False
    is_parsed = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many of the next bytes, or as many as there are."""
        data = super().read(size)
        return data if len(data) == size and data != _NO_ELEMENT else _judged(self, data, size)


Object = InMemory | InFile


def whole(content: bytes | IO[bytes], max_bytes: int) -> Object:
    """Return an object without stray bytes before it."""
    if isinstance(content, bytes):
        file = InMemory(content[elements.stray_bytes(content) :])
        file.max_bytes = max_bytes
        return file
    content.seek(0)
    n_stray = elements.stray_bytes(content.read(HEAD_BYTES))
    return InFile(content, n_stray, content.seek(0, os.SEEK_END) - n_stray, max_bytes)


def _judged(file: Object, data: bytes, size: int | None) -> bytes:
    """Return what pydicom is to be given at the end of an object or of a deflated one, while it parses the header."""
    if file.is_parsed:
        return data
    at = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(at)
    if size is None or size < 0:  # all there is of a deflated object, which pydicom would inflate without a limit
        _check_inflated(data, file.max_bytes)
    elif data == _NO_ELEMENT:
        # To pydicom they are an element, and so are the next eight zeros, for as long as there are any: padding behind
        # the pixels, or before them what a transfer that was broken off has left.
        is_end = end - at >= _PADDING_BYTES and not any(file.read(_PADDING_BYTES))
        file.seek(at)
        file.is_short = file.is_short or is_end
        return b"" if is_end else data
    # Eight bytes are an element's header: none of them left is a proper end.
    elif data or size != len(_NO_ELEMENT) or at > end:
        file.is_short = file.is_short or len(data) < size
    return data


def _check_inflated(data: bytes, max_bytes: int) -> None:
    if len(data) * _DEFLATE_RATIO <= max_bytes:
        return
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    size = 0
    for start in range(0, len(data), _CHUNK_BYTES):
        size += len(stream.decompress(data[start : start + _CHUNK_BYTES]))
        if size > max_bytes:
            raise TooLargeError(f"more than {max_bytes} bytes when inflated (limits.memory_mb)")
