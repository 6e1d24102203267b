"""Bytes in, frames out: one module a format, the content decides which."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Protocol

from medspark import containers
from medspark.containers import read_source, split_path
from medspark.errors import EmptyFileError, NotAnImageError, UnsupportedFormatError
from medspark.files import open_file, read_all, show_path, size_of
from medspark.frame import DEFAULT_LIMITS, Frame, Limits
from medspark.readers import dicom, jpeg, nifti, npy, raster
from medspark.readers.formats import HEAD_BYTES, sniff


class Reader(Protocol):
    """What a module for a format offers."""

    def can_read(self, content: bytes) -> bool:
        """Tell whether the content is of this format."""

    def frames(self, content: bytes, *, max_pixels: int, max_bytes: int, raw: bool = False) -> Iterator[Frame]:
        """Yield the frames, or raise a subclass of ImageError."""


READERS: tuple[Reader, ...] = (dicom, jpeg, raster, npy, nifti)
LARGE_BYTES = 256 << 20
"""A DICOM file above so many bytes is not read whole: its frames are, one by one, as long as one fits the limits."""


@contextmanager
def opened(shown: str, *, limits: Limits = DEFAULT_LIMITS) -> Iterator[bytes | BufferedReader]:
    """Give what ``read_frames`` takes of a path: the bytes of a file or member; a large DICOM file stays open instead.

    Raises what ``read_source`` raises.
    """
    if split_path(shown) is not None:
        yield read_source(shown, max_bytes=limits.max_bytes)
        return
    with open_file(shown) as file:
        yield file if _is_large_dicom(file) else read_all(file, max_bytes=limits.max_bytes)


def _is_large_dicom(file: BufferedReader) -> bool:
    if size_of(file) <= LARGE_BYTES:
        return False
    head = file.read(HEAD_BYTES)
    file.seek(0)
    return dicom.can_read(head)


def read_frames(
    content: bytes | BufferedReader, *, limits: Limits = DEFAULT_LIMITS, raw: bool = False
) -> Iterator[Frame]:
    """Yield the frames of a file's content, or of an open DICOM file.

    Raises a subclass of ImageError where there is none to be had.
    """
    if not isinstance(content, bytes):
        return dicom.frames(content, max_pixels=limits.max_pixels, max_bytes=limits.max_bytes, raw=raw)
    if not content:
        raise EmptyFileError("the file has no bytes")
    for reader in READERS:
        if reader.can_read(content):
            return reader.frames(content, max_pixels=limits.max_pixels, max_bytes=limits.max_bytes, raw=raw)
    kind = sniff(content[:HEAD_BYTES])
    if kind in containers.FORMATS:
        raise containers.why_not(content)
    if kind == "unknown":
        raise NotAnImageError("the content is of no image format")
    raise UnsupportedFormatError(f"no reader for {kind}")


def read_image(source: str | Path | bytes, *, raw: bool = False) -> list[Frame]:
    """Return the frames of an image file, given by its path, its URI in an object store or its content.

    ``pixels`` are the grayscale values after the modality transform (HU for CT); with ``raw`` the stored values, rows x
    columns or rows x columns x samples, neither rescaled nor converted. Raises a subclass of ImageError.
    """
    if isinstance(source, bytes):
        return list(read_frames(source, raw=raw))
    with opened(show_path(os.fsencode(source))) as content:
        return list(read_frames(content, raw=raw))
