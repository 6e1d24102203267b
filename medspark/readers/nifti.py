"""NIfTI-1 and -2, plain or gzipped, by nibabel (``pip install 'medspark[nifti]'``): a frame for each slice."""

import io
import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from medspark.errors import CorruptError, TooLargeError, TruncatedError, UnsupportedFormatError
from medspark.frame import DEFAULT_LIMITS, Frame
from medspark.readers.formats import HEAD_BYTES, sniff

_GZIP = 31  # what zlib calls a gzip stream
_CHUNK_BYTES = 1 << 12  # inflate to 4 MB at most


def can_read(content: bytes) -> bool:
    """Tell whether the content is NIfTI, or gzipped NIfTI."""
    return sniff(_head(content)) == "nifti"


def frames(
    content: bytes, *, max_pixels: int, max_bytes: int = DEFAULT_LIMITS.max_bytes, raw: bool = False
) -> Iterator[Frame]:
    """Yield the slices along the third axis, volume after volume: ``array[:, :, slice, volume]``.

    Rows and columns are the first and second axis of the array, as nibabel gives it; ``affine`` in the facts maps its
    indices to mm (RAS+). Values are scaled by slope and intercept (float64) if there are any; with ``raw`` as stored.
    Raises UnsupportedFormatError (no nibabel, colours, header without data), TooLargeError, TruncatedError or
    CorruptError.
    """
    try:
        import nibabel  # an extra
    except ImportError:
        raise UnsupportedFormatError("NIfTI needs nibabel: pip install 'medspark[nifti]'") from None
    try:
        kind: Any = nibabel.Nifti2Image if _head(content)[4:8] in (b"n+2\0", b"ni2\0") else nibabel.Nifti1Image
        header = kind.header_class.from_fileobj(io.BytesIO(_unpacked(content, 1 << 20)), check=False)
        shape = tuple(int(side) for side in header.get_data_shape())
        dtype, offset = header.get_data_dtype(), int(header.get_data_offset())
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - nibabel raises what a damaged header leads it to
        raise CorruptError("the header cannot be read") from None
    if bytes(header["magic"])[:3] not in (b"n+1", b"n+2"):
        raise UnsupportedFormatError("the header of a pair of files (.hdr, .img): convert it to one .nii")
    if len(shape) < 2 or dtype.kind not in "iuf" or any(side < 1 for side in shape):
        raise UnsupportedFormatError(f"an array of {dtype} and shape {shape}; two or more axes of numbers are needed")
    if math.prod(shape) >= max_pixels:
        raise TooLargeError(f"{math.prod(shape)} voxels, fewer than {max_pixels} are allowed (limits.max_pixels)")
    expected = offset + math.prod(shape) * dtype.itemsize
    if expected > max_bytes:
        raise TooLargeError(f"{expected} bytes when unpacked, the limit is {max_bytes} (limits.memory_mb)")
    data = _unpacked(content, expected, is_checked=True)
    if len(data) < expected:
        raise TruncatedError(f"the volume has {len(data)} of {expected} bytes")
    image: Any = kind.from_bytes(data)
    array = np.asanyarray(image.dataobj.get_unscaled() if raw else image.dataobj)
    stack = array.reshape(*shape[:2], -1, order="F")
    facts = _facts(image)
    spacing = tuple(float(size) for size in header.get_zooms()[:2])
    for number in range(stack.shape[2]):
        pixels = np.ascontiguousarray(stack[:, :, number]).astype(stack.dtype.newbyteorder("="), copy=False)
        yield Frame(pixels, number=number, spacing_mm=(spacing[0], spacing[1]), facts=facts)


def _facts(image: Any) -> dict[str, Any]:
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    is_scaled = (slope, intercept) != (1, 0)
    return {
        "modality_transform": "rescale" if is_scaled else "none",
        "rescale_slope": float(slope) if is_scaled else None,
        "rescale_intercept": float(intercept) if is_scaled else None,
    }


def _head(content: bytes) -> bytes:
    if sniff(content[:HEAD_BYTES]) != "gzip":
        return content[:HEAD_BYTES]
    try:
        return zlib.decompressobj(_GZIP).decompress(content[: 1 << 14], HEAD_BYTES)
    except zlib.error:
        return b""


def _unpacked(content: bytes, max_bytes: int, *, is_checked: bool = False) -> bytes:
    """Return at most so many bytes of what may be gzipped; checked, all of it is unpacked for its checksum."""
    if content[:2] != b"\x1f\x8b":
        return content[:max_bytes]
    stream = zlib.decompressobj(_GZIP)
    try:
        data = stream.decompress(content, max_bytes)
        rest = memoryview(stream.unconsumed_tail if is_checked else b"")
        for start in range(0, len(rest) + 1, _CHUNK_BYTES):
            stream.decompress(rest[start : start + _CHUNK_BYTES])
    except zlib.error:
        raise CorruptError("the gzip stream is damaged") from None
    if is_checked and not stream.eof:
        raise TruncatedError(f"the gzip stream ends early, after {len(data)} of {max_bytes} bytes")
    return data
