"""Arrays saved by numpy: rows x columns, or frames x rows x columns."""

import io
import math
from collections.abc import Iterator

import numpy as np

from medspark.errors import CorruptError, TooLargeError, TruncatedError, UnsupportedFormatError
from medspark.frame import Frame
from medspark.readers.formats import HEAD_BYTES, sniff


def can_read(content: bytes) -> bool:
    """Tell whether the content is an .npy file."""
    return sniff(content[:HEAD_BYTES]) == "npy"


def frames(content: bytes, *, max_pixels: int, raw: bool = False) -> Iterator[Frame]:  # noqa: ARG001 - no other values
    """Yield the array, or each along the first of three axes, as it was saved.

    Raises UnsupportedFormatError for other shapes, and for values that are no real numbers; TooLargeError,
    TruncatedError or CorruptError.
    """
    shape, dtype, offset = _header(content)
    if len(shape) not in (2, 3) or dtype.kind not in "biuf" or not all(shape):
        raise UnsupportedFormatError(f"an array of {dtype} and shape {shape}; two or three axes of numbers are needed")
    if shape[-2] * shape[-1] >= max_pixels:
        raise TooLargeError(
            f"{shape[-2]} x {shape[-1]} pixels, fewer than {max_pixels} are allowed (limits.max_pixels)"
        )
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
