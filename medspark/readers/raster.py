"""PNG, JPEG, TIFF, BMP, GIF, WebP, JPEG 2000 and PNM by OpenCV; Pillow and tifffile read what the header says."""

import io
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image as Pillow

from medspark.errors import CorruptError, TooLargeError, TruncatedError, UnsupportedFormatError
from medspark.frame import Frame, Image
from medspark.readers.formats import HEAD_BYTES, sniff

FORMATS = frozenset({"png", "jpeg", "tiff", "bmp", "gif", "webp", "jpeg2000", "pnm"})

# Grayscale as the articles read it (a JPEG gives its own luma), but with all bits of a 16-bit file and unrotated.
_GRAY = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION


def can_read(content: bytes) -> bool:
    """Tell whether the content is one of ``FORMATS``."""
    return sniff(content[:HEAD_BYTES]) in FORMATS


def frames(content: bytes, *, max_pixels: int, raw: bool = False) -> Iterator[Frame]:
    """Yield the pages of an image: rows x columns of gray, or raw as stored (rows x columns [x samples in RGB order]).

    Raises TooLargeError, TruncatedError, CorruptError or UnsupportedFormatError.
    """
    kind = sniff(content[:HEAD_BYTES])
    header = _check_header(content, kind, max_pixels)
    data = np.frombuffer(content, np.uint8)
    flags = cv2.IMREAD_UNCHANGED if raw else _GRAY
    if raw and header.is_cmyk:
        pages = [_cmyk(content, kind)]
    elif header.n_pages == 1:
        pages = [_decode(data, flags, content, kind)]
    else:
        is_complete, found = cv2.imdecodemulti(data, flags)
        if not is_complete or len(found) != header.n_pages:
            raise _failure(content, kind)
        pages = list(found)
    pages = [_as_lying(*page) for page in zip(pages, header.orientations or [1] * len(pages), strict=True)]
    for number, pixels in enumerate(pages):
        shown = _as_stored(pixels, header) if raw else pixels
        yield Frame(shown, number=number, is_inverted=header.is_inverted, flags=_flags(content, kind))


class _Header(NamedTuple):
    rows: int  # of the largest page
    columns: int
    n_pages: int = 1
    is_cmyk: bool = False  # a JPEG for print
    is_gray_alpha: bool = False
    orientations: tuple[int, ...] = ()  # of the pages of a TIFF, which OpenCV turns
    is_inverted: bool = False  # a TIFF whose zeros are white; OpenCV turns 8 bits and fewer itself


def _check_header(content: bytes, kind: str, max_pixels: int) -> _Header:
    """Return what the header says, after a look at the size that costs no decoding."""
    if kind == "png" and _is_cut(content, kind):  # OpenCV would make room for whatever a chunk promises
        raise _failure(content, kind)
    try:
        header = _tiff_header(content) if kind == "tiff" else _header(content, kind)
        rows, columns = int(header.rows), int(header.columns)
    except Exception:  # noqa: BLE001 - whatever a library says of a broken header, it may quote the file
        raise _failure(content, kind) from None
    if rows * columns >= max_pixels:
        raise TooLargeError(f"{rows} x {columns} pixels, fewer than {max_pixels} are allowed (limits.max_pixels)")
    return header


def _header(content: bytes, kind: str) -> _Header:
    with _quiet(), Pillow.open(io.BytesIO(content)) as header:
        columns, rows = header.size
        n_pages = int(getattr(header, "n_frames", 1)) if kind == "gif" else 1
        is_gray_alpha = kind == "png" and content[25] == 4  # the colour type in IHDR
        return _Header(rows, columns, n_pages, header.mode == "CMYK", is_gray_alpha)


def _tiff_header(content: bytes) -> _Header:
    import tifffile  # only who has TIFF pays for it; Pillow does not know 64-bit floats

    with _quiet(), tifffile.TiffFile(io.BytesIO(content)) as tiff:
        pages: Any = tiff.pages[: len(tiff.pages)]  # without an end, a directory that points back would have none
        is_inverted = pages[0].photometric == tifffile.PHOTOMETRIC.MINISWHITE and pages[0].bitspersample > 8
        images = [(page.imagelength, page.imagewidth) for page in pages]
        tiles = [(page.tilelength, page.tilewidth) for page in pages]  # decoded whole, however small the image
        rows, columns = max(images + tiles, key=math.prod)
        turned = tuple(page.tags.valueof(274, 1) for page in pages)
        return _Header(rows, columns, len(pages), orientations=turned, is_inverted=is_inverted)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings and logs, which quote metadata, and lift a limit on pixels that is lower than ours may be."""
    limit, log = Pillow.MAX_IMAGE_PIXELS, logging.getLogger("tifffile")
    was_disabled = log.disabled
    Pillow.MAX_IMAGE_PIXELS, log.disabled = None, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Pillow.MAX_IMAGE_PIXELS, log.disabled = limit, was_disabled


def _decode(data: Image, flags: int, content: bytes, kind: str) -> Image:
    try:
        pixels = cv2.imdecode(data, flags)
    except cv2.error:
        raise UnsupportedFormatError(f"OpenCV does not decode this variant of {kind}") from None
    if pixels is None:
        raise _failure(content, kind)
    return pixels


def _as_lying(pixels: Image, orientation: int) -> Image:
    """Return a page as it lies in the file: without the turn that its orientation asks for."""
    mirrored = pixels[:, ::-1] if orientation in {2, 4, 5, 7} else pixels
    quarters = {3: 2, 4: 2, 5: 1, 6: 1, 7: 3, 8: 3}.get(orientation, 0)
    return np.ascontiguousarray(np.rot90(mirrored, quarters))


def _cmyk(content: bytes, kind: str) -> Image:
    try:
        with _quiet(), Pillow.open(io.BytesIO(content)) as image:
            return np.asarray(image)
    except Exception:  # noqa: BLE001 - as for the header
        raise _failure(content, kind) from None


def _failure(content: bytes, kind: str) -> TruncatedError | CorruptError:
    if _is_cut(content, kind):
        return TruncatedError(f"the {kind} image ends before its end ({len(content)} bytes)")
    return CorruptError(f"the {kind} image cannot be decoded ({len(content)} bytes)")


def _is_cut(content: bytes, kind: str) -> bool:
    """Tell whether the end of an image is missing, by what its format promises about it."""
    if kind == "png":
        return _is_png_cut(content)
    if kind == "jpeg":  # no end marker after the last scan began; FF inside a scan is followed by 00
        return content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda") or b"\xff\xda" not in content
    if kind == "bmp":
        return len(content) < int.from_bytes(content[2:6], "little")
    if kind == "webp":
        return len(content) < 8 + int.from_bytes(content[4:8], "little")
    if kind == "gif":
        return not content.endswith(b";")
    return kind == "tiff" and _is_tiff_cut(content)


def _is_png_cut(content: bytes) -> bool:
    at = 8
    while at + 12 <= len(content):
        kind, size = content[at + 4 : at + 8], int.from_bytes(content[at : at + 4], "big")
        at += 12 + size  # length, kind, body, checksum
        if kind == b"IEND":
            return at > len(content)
    return True


def _is_tiff_cut(content: bytes) -> bool:
    import tifffile

    try:
        with _quiet(), tifffile.TiffFile(io.BytesIO(content)) as tiff:
            page = tiff.pages.first
            ends = map(sum, zip(page.dataoffsets, page.databytecounts, strict=True))
            return len(content) < max(ends, default=0)
    except Exception:  # noqa: BLE001 - as for the header
        directory = int.from_bytes(content[4:8], "little" if content.startswith(b"I") else "big")
        return len(content) <= directory


def _flags(content: bytes, kind: str) -> tuple[str, ...]:
    """Return what a careful reader should know: of an animated PNG only the picture that stands for it is read."""
    return ("animated",) if kind == "png" and b"acTL" in content[: content.find(b"IDAT")] else ()


def _as_stored(pixels: Image, header: _Header) -> Image:
    """Return the samples in the order of the file: OpenCV gives blue first, and gray three times beside alpha."""
    if pixels.ndim == 2 or header.is_cmyk:
        return pixels
    if header.is_gray_alpha:
        return pixels[..., [0, 3]]
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def encode(image: Image) -> bytes:
    """Return an image as the bytes of a file that ``frames`` reads back unchanged: PNG, or TIFF for other depths."""
    if image.dtype == np.bool_:
        image = image.astype(np.uint8) * 255
    if image.dtype.kind == "i" and image.dtype.itemsize > 2:
        image = image.astype(np.float64)
    suffix = ".png" if image.dtype in (np.uint8, np.uint16) else ".tiff"
    _, data = cv2.imencode(suffix, np.ascontiguousarray(image))
    return data.tobytes()
