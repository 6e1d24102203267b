"""Arrays saved by numpy: rows x columns, or frames x rows x columns."""

import io
import math
from collections.abc import Iterator

import numpy as np

from medspark.errors import CorruptError, TruncatedError, UnsupportedFormatError
from medspark.frame import DEFAULT_LIMITS, Frame
from medspark.readers.formats import HEAD_BYTES, sniff
from medspark.readers.size import check_size


def can_read(content: bytes) -> bool:
    """Tell whether the content is an .npy file."""
    return sniff(content[:HEAD_BYTES]) == "npy"


def frames(
    content: bytes,
    *,
    max_pixels: int,
    max_bytes: int = DEFAULT_LIMITS.max_bytes,
    raw: bool = False,  # noqa: ARG001 - there are no other values
) -> Iterator[Frame]:
    """Yield the array, or each along the first of three axes, as it was saved.

    Raises UnsupportedFormatError for other shapes, and for values that are no real numbers; TooLargeError,
    TruncatedError or CorruptError.
    """
    shape, dtype, offset = _header(content)
    if len(shape) not in (2, 3) or dtype.kind not in "biuf" or not all(shape):
        raise UnsupportedFormatError(f"an array of {dtype} and shape {shape}; two or three axes of numbers are needed")
    rows, columns = shape[-2:]
    check_size(rows, columns, rows * columns * dtype.itemsize, max_pixels=max_pixels, max_bytes=max_bytes)
    expected = math.prod(shape) * dtype.itemsize
    if len(content) - offset < expected:
        raise TruncatedError(f"the array has {len(content) - offset} of {expected} bytes")
    array = np.load(io.BytesIO(content), allow_pickle=False)
    for number, pixels in enumerate(array.reshape(-1, *shape[-2:])):
        yield Frame(pixels.astype(dtype.newbyteorder("="), copy=False), number=number)


def _header(content: bytes) -> tuple[tuple[int, ...], np.dtype[np.generic], int]:
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except (ValueError, TypeError, SyntaxError, EOFError):
        raise CorruptError("the header of the array cannot be read") from None
    return shape, dtype, file.tell()
