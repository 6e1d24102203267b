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

from medspark.errors import CorruptError, TruncatedError, UnsupportedFormatError, is_out_of_memory
from medspark.frame import DEFAULT_LIMITS, Frame, Image
from medspark.readers.formats import HEAD_BYTES, sniff
from medspark.readers.luma import luma
from medspark.readers.size import check_size

FORMATS = frozenset({"png", "jpeg", "tiff", "bmp", "gif", "webp", "jpeg2000", "pnm"})

_TIFF_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, 7, 8, 32771, 32773, 32946})  # fax, LZW, JPEG, deflate, PackBits
# Of others OpenCV makes noise where it does not refuse them.
_BITS = frozenset({1, 8, 10, 12, 14, 16, 32, 64})  # of a gray value

# Grayscale as the articles read it (a JPEG gives its own luma), but with all bits of a 16-bit file and unrotated.
_GRAY = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION


def can_read(content: bytes) -> bool:
    """Tell whether the content is one of ``FORMATS``."""
    return sniff(content[:HEAD_BYTES]) in FORMATS


def frames(
    content: bytes, *, max_pixels: int, max_bytes: int = DEFAULT_LIMITS.max_bytes, raw: bool = False
) -> Iterator[Frame]:
    """Yield the pages of an image: rows x columns of gray, or raw as stored (rows x columns [x samples in RGB order]).

    Raises TooLargeError, TruncatedError, CorruptError or UnsupportedFormatError.
    """
    kind = sniff(content[:HEAD_BYTES])
    header = _read_header(content, kind, raw=raw)
    check_size(header.rows, header.columns, header.n_bytes, max_pixels=max_pixels, max_bytes=max_bytes)
    if header.by_tifffile:
        pages = _by_tifffile(content, raw=raw)
    elif raw and header.is_cmyk:
        pages = [_cmyk(content, kind)]
    else:
        found = _by_opencv(content, kind, header, raw=raw)
        pages = [_as_lying(*page) for page in zip(found, header.orientations or [1] * len(found), strict=True)]
    for number, pixels in enumerate(pages):
        yield Frame(pixels, number=number, is_inverted=header.is_inverted, flags=_flags(content, kind))


class _Header(NamedTuple):
    rows: int  # of the largest page
    columns: int
    n_bytes: int  # of all pages, decoded
    n_pages: int = 1
    is_cmyk: bool = False  # a JPEG for print
    is_gray_alpha: bool = False
    by_tifffile: bool = False  # a TIFF that OpenCV would change
    orientations: tuple[int, ...] = ()  # of the pages of a TIFF, which OpenCV turns
    is_inverted: bool = False  # a TIFF whose zeros are white; OpenCV turns 8 bits and fewer itself
    shift: int = 0  # how far OpenCV moves the values of a TIFF to the left


def _read_header(content: bytes, kind: str, *, raw: bool) -> _Header:
    """Return what the header says, which costs no decoding."""
    if kind == "png" and _is_cut(content, kind):  # OpenCV would make room for whatever a chunk promises
        raise _failure(content, kind)
    try:
        return _tiff_header(content, raw=raw) if kind == "tiff" else _header(content, kind, raw=raw)
    except (UnsupportedFormatError, MemoryError):
        raise
    except Exception:  # noqa: BLE001 - whatever a library says of a broken header, it may quote the file
        raise _failure(content, kind) from None


def _header(content: bytes, kind: str, *, raw: bool) -> _Header:
    with _quiet(), Pillow.open(io.BytesIO(content)) as header:
        columns, rows = header.size
        n_pages = int(getattr(header, "n_frames", 1)) if kind == "gif" else 1
        is_gray_alpha = kind == "png" and content[25] == 4  # the colour type in IHDR
        is_deep = header.mode.startswith("I") or (kind == "png" and content[24] == 16)
        n_samples = len(header.getbands()) if raw else 1
        n_bytes = rows * columns * n_pages * n_samples * (2 if is_deep else 1)
        return _Header(rows, columns, n_bytes, n_pages, header.mode == "CMYK", is_gray_alpha)


def _tiff_header(content: bytes, *, raw: bool) -> _Header:
    import tifffile  # only who has TIFF pays for it; Pillow does not know 64-bit floats

    with _quiet(), tifffile.TiffFile(io.BytesIO(content)) as tiff:
        pages: Any = tiff.pages[: len(tiff.pages)]  # without an end, a directory that points back would have none
        images = [(page.imagelength, page.imagewidth) for page in pages]
        tiles = [(page.tilelength, page.tilewidth) for page in pages]  # decoded whole, however small the image
        rows, columns = max(images + tiles, key=math.prod)
        n_bytes = sum(
            max(math.prod(image), math.prod(tile)) * -(-page.bitspersample // 8) * (page.samplesperpixel if raw else 1)
            for page, image, tile in zip(pages, images, tiles, strict=True)
        )
        for page in pages:
            is_number = page.dtype is not None and page.dtype.kind in "biuf" and page.dtype != np.float16
            if page.compression not in _TIFF_COMPRESSIONS or not is_number:
                raise UnsupportedFormatError(f"a tiff of {page.dtype}, compression {int(page.compression)}")
        bits = pages[0].bitspersample
        by_tifffile = not all(_suits_opencv(page, raw=raw) for page in pages)
        is_white_zero = pages[0].photometric == tifffile.PHOTOMETRIC.MINISWHITE
        return _Header(
            int(rows),
            int(columns),
            n_bytes,
            len(pages),
            by_tifffile=by_tifffile,
            orientations=tuple(page.tags.valueof(274, 1) for page in pages),
            is_inverted=is_white_zero and (bits > 8 or by_tifffile),
            shift=16 - bits if 8 < bits < 16 else 0,
        )


def _suits_opencv(page: Any, *, raw: bool) -> bool:
    """Tell whether OpenCV gives a page as it is stored; or, of 8 bits, the gray of the articles, whatever it is."""
    import tifffile

    names, dtype, n_samples = tifffile.PHOTOMETRIC, str(page.dtype), page.samplesperpixel
    if page.photometric == names.PALETTE:
        return bool(page.bitspersample in (4, 8))
    if n_samples == 1:
        is_odd = page.photometric == names.MINISWHITE and (dtype == "int8" or (raw and dtype == "uint8"))
        return page.photometric in (names.MINISBLACK, names.MINISWHITE) and page.bitspersample in _BITS and not is_odd
    if dtype == "uint8" and not raw:
        return bool(n_samples <= 4)
    if page.photometric == names.YCBCR:
        return bool(page.compression == tifffile.COMPRESSION.JPEG)
    # OpenCV multiplies 8-bit colours by an alpha that is not in them yet.
    is_changed = page.bitspersample == 8 and tifffile.EXTRASAMPLE.UNASSALPHA in page.extrasamples
    is_chunky = page.photometric == names.RGB and page.planarconfig == tifffile.PLANARCONFIG.CONTIG
    return is_chunky and n_samples in (3, 4) and (not is_changed if raw else dtype == "uint16")


def _by_tifffile(content: bytes, *, raw: bool) -> list[Image]:
    import tifffile

    try:
        with _quiet(), tifffile.TiffFile(io.BytesIO(content)) as tiff:
            pages: Any = tiff.pages[: len(tiff.pages)]
            return [_page(page, raw=raw) for page in pages]
    except (UnsupportedFormatError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - as for the header
        if "imagecodecs" in str(error) or isinstance(error, NotImplementedError):
            raise UnsupportedFormatError("this variant of tiff needs: pip install 'medspark[codecs]'") from None
        raise _failure(content, "tiff") from None


def _page(page: Any, *, raw: bool) -> Image:
    import tifffile

    names = tifffile.PHOTOMETRIC
    is_gray = page.photometric in (names.MINISBLACK, names.MINISWHITE)
    if page.photometric == names.PALETTE or not (raw or is_gray or page.photometric == names.RGB):
        raise UnsupportedFormatError("a tiff whose colours are neither gray nor RGB")
    stored: Image = page.asarray()
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    samples = np.ascontiguousarray(np.moveaxis(stored, 0, -1) if page.axes.startswith("S") else stored)
    if raw or samples.ndim == 2:
        return samples
    return samples[..., 0] if is_gray else luma(samples)


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


def _by_opencv(content: bytes, kind: str, header: _Header, *, raw: bool) -> list[Image]:
    data = np.frombuffer(content, np.uint8)
    flags = cv2.IMREAD_UNCHANGED if raw else _GRAY
    try:
        if header.n_pages == 1:
            page = cv2.imdecode(data, flags)
            found: list[Image] = [] if page is None else [page]
        else:
            is_complete, pages = cv2.imdecodemulti(data, flags)
            found = list(pages) if is_complete else []
    except cv2.error as error:
        if is_out_of_memory(error):
            raise MemoryError from None
        raise UnsupportedFormatError(f"OpenCV does not decode this variant of {kind}") from None
    if len(found) != header.n_pages:
        raise _failure(content, kind)
    if header.shift:
        found = [page >> header.shift for page in found]
    return [_as_stored(page, header) for page in found] if raw else found


def _as_lying(pixels: Image, orientation: int) -> Image:
    """Return a page as it lies in the file: without the turn that its orientation asks for."""
    mirrored = pixels[:, ::-1] if orientation in {2, 4, 5, 7} else pixels
    quarters = {3: 2, 4: 2, 5: 1, 6: 1, 7: 3, 8: 3}.get(orientation, 0)
    return np.ascontiguousarray(np.rot90(mirrored, quarters))


def _cmyk(content: bytes, kind: str) -> Image:
    try:
        with _quiet(), Pillow.open(io.BytesIO(content)) as image:
            return np.asarray(image)
    except MemoryError:
        raise
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
    order = [0, 3] if header.is_gray_alpha else [2, 1, 0, 3][: pixels.shape[2]]
    return pixels[..., order]


def encode(image: Image) -> bytes:
    """Return an image as the bytes of a file that ``frames`` reads back unchanged: PNG, or TIFF for other depths."""
    if image.dtype == np.bool_:
        image = image.astype(np.uint8) * 255
    if image.dtype.kind == "i" and image.dtype.itemsize > 2:
        image = image.astype(np.float64)
    suffix = ".png" if image.dtype in (np.uint8, np.uint16) else ".tiff"
    _, data = cv2.imencode(suffix, np.ascontiguousarray(image))
    return data.tobytes()
