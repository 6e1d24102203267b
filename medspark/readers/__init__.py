"""Bytes in, frames out: one module a format, the content decides which."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from medspark import containers
from medspark.containers import read_source
from medspark.errors import EmptyFileError, NotAnImageError, UnsupportedFormatError
from medspark.files import show_path
from medspark.frame import DEFAULT_LIMITS, Frame, Limits
from medspark.readers import dicom, jpeg, nifti, npy, raster
from medspark.readers.formats import HEAD_BYTES, sniff


class Reader(Protocol):
    """What a module for a format offers."""

    def can_read(self, content: bytes) -> bool:
        """Tell whether the content is of this format."""

    def frames(self, content: bytes, *, max_pixels: int, raw: bool = False) -> Iterator[Frame]:
        """Yield the frames, or raise a subclass of ImageError."""


READERS: tuple[Reader, ...] = (dicom, jpeg, raster, npy, nifti)


def read_frames(content: bytes, *, limits: Limits = DEFAULT_LIMITS, raw: bool = False) -> Iterator[Frame]:
    """Yield the frames of a file's content; raises a subclass of ImageError where there is none to be had."""
    if not content:
        raise EmptyFileError("the file has no bytes")
    for reader in READERS:
        if reader.can_read(content):
            return reader.frames(content, max_pixels=limits.max_pixels, raw=raw)
    kind = sniff(content[:HEAD_BYTES])
    if kind in containers.FORMATS:
        raise containers.why_not(content)
    if kind == "unknown":
        raise NotAnImageError("the content is of no image format")
    raise UnsupportedFormatError(f"no reader for {kind}")


def read_image(source: str | Path | bytes, *, raw: bool = False) -> list[Frame]:
    """Return the frames of an image file, given by its path or its content.

    ``pixels`` are the grayscale values after the modality transform (HU for CT); with ``raw`` the stored values, rows x
    columns or rows x columns x samples, neither rescaled nor converted. Raises a subclass of ImageError.
    """
    if not isinstance(source, bytes):
        source = read_source(show_path(os.fsencode(source)), max_bytes=DEFAULT_LIMITS.memory_mb << 20)
    return list(read_frames(source, raw=raw))
