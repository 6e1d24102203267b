"""DICOM objects: pixels by pydicom and its decoders, the modality transform, and what the header says.

The pixel data stay where they are, in the file or in its bytes, and one frame is read and decoded at a time.
"""

import itertools
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, cast

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medspark.errors import (
    CorruptError,
    ImageError,
    NoPixelDataError,
    TruncatedError,
    is_out_of_memory,
)
from medspark.frame import DEFAULT_LIMITS, Frame, Image, VoiLut, Window
from medspark.readers import codecs, elements
from medspark.readers.formats import HEAD_BYTES, sniff
from medspark.readers.luma import luma
from medspark.readers.parts import Object, Part, whole
from medspark.readers.size import check_size

_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_DEFERRED_BYTES = 1 << 20  # a longer value stays in the file until it is asked for
_UNDEFINED_LENGTH = 0xFFFFFFFF


def can_read(content: bytes) -> bool:
    """Tell whether the content is a DICOM object, with or without a preamble."""
    return sniff(content[:HEAD_BYTES]) == "dicom"


def frames(
    content: bytes | IO[bytes],
    *,
    max_pixels: int,
    max_bytes: int = DEFAULT_LIMITS.max_bytes,
    raw: bool = False,
) -> Iterator[Frame]:
    """Yield the frames of a DICOM object, given by its bytes or as an open file that stays open meanwhile.

    ``pixels`` is rows x columns of gray after the modality transform (PS3.3 C.11.1; HU for CT), whole numbers as int32
    where slope and intercept are whole, else float64; colour becomes luma. With ``raw``: the stored values as they are.
    Raises NoPixelDataError, TooLargeError, TruncatedError, CorruptError or UnsupportedTransferSyntaxError.
    """
    with elements.quiet(), _own_errors():
        dataset = _parse(whole(content, max_bytes))
        pixels = _PixelData.of(dataset, max_bytes)
        n_frames = _check(dataset, pixels, max_pixels, max_bytes)
        identity = {
            name: text
            for name, keyword in (
                ("patient_id", "PatientID"),
                ("study_uid", "StudyInstanceUID"),
                ("series_uid", "SeriesInstanceUID"),
            )
            if (text := elements.text(dataset, keyword))
        }
        modality = elements.text(dataset, "Modality")
        is_inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
        flags = _flags(dataset)
    for number, stored in enumerate(_decoded(dataset, pixels, n_frames, raw=raw)):
        with elements.quiet(), _own_errors():
            frame = Frame(
                pixels=stored if raw else _gray(stored, dataset, number),
                number=number,
                modality=modality,
                window=_window(dataset, number),
                is_inverted=is_inverted,
                spacing_mm=elements.spacing(dataset, number),
                identity=identity,
                facts=_facts(dataset, number),
                flags=flags,
            )
        yield frame


@contextmanager
def _own_errors() -> Iterator[None]:
    """Turn what pydicom raises over values that make no sense into an error of ours, which does not quote them."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a damaged header leads it to
        if is_out_of_memory(error):
            raise MemoryError from None
        raise CorruptError(f"the header contradicts itself ({type(error).__name__})") from None


def _parse(file: Object) -> FileDataset:
    try:
        dataset = pydicom.dcmread(cast(BinaryIO, file), force=True, defer_size=_DEFERRED_BYTES)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - pydicom raises whatever a damaged header leads it to
        raise _unreadable(file, error) from None
    file.is_parsed = True
    if not any(keyword in dataset for keyword in _PIXEL_KEYWORDS):
        if file.is_short:
            raise TruncatedError(f"the object ends inside an element ({file.seek(0, os.SEEK_END)} bytes)")
        raise NoPixelDataError("a DICOM object without an image")
    if not dataset.file_meta.get("TransferSyntaxUID"):
        dataset.file_meta.TransferSyntaxUID = _guess_syntax(dataset)
    return dataset


def _unreadable(file: Object, error: Exception) -> ImageError:
    is_cut_stream = isinstance(error, zlib.error) and "incomplete" in str(error)
    if file.is_short or is_cut_stream or isinstance(error, EOFError):
        return TruncatedError("the object ends inside an element")
    return CorruptError(f"the header cannot be parsed ({type(error).__name__})")


def _guess_syntax(dataset: Dataset) -> UID:
    is_implicit, is_little = dataset.original_encoding
    if not is_little:
        return ExplicitVRBigEndian
    return ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian


@dataclass(frozen=True)
class _PixelData:
    """The pixel data of an object, unread."""

    keyword: str
    vr: str | None
    value: Part

    @classmethod
    def of(cls, dataset: FileDataset, max_bytes: int) -> "_PixelData":
        """Find them where pydicom has passed them by. Raises CorruptError if there are two kinds of them."""
        keyword, *others = (keyword for keyword in _PIXEL_KEYWORDS if keyword in dataset)
        element: object = dataset.get_item(keyword, keep_deferred=True)
        if others or not isinstance(element, RawDataElement):
            raise CorruptError("the object has more than one kind of pixel data")
        file = cast(IO[bytes], dataset.buffer)  # the object itself, or what was deflated in it
        rest = max(0, file.seek(0, os.SEEK_END) - element.value_tell)
        length = rest if element.length == _UNDEFINED_LENGTH else min(rest, element.length)
        return cls(keyword, element.VR, Part(file, element.value_tell, length, max_bytes))


def _check(dataset: Dataset, pixels: _PixelData, max_pixels: int, max_bytes: int) -> int:
    """Look at what the header promises before anything is decoded; return the number of frames."""
    rows, columns = elements.whole(dataset, "Rows"), elements.whole(dataset, "Columns")
    if not rows or not columns:
        raise CorruptError("Rows or Columns is missing or zero")
    is_native = codecs.decoder(dataset.file_meta.TransferSyntaxUID).is_native
    bits = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}.get(pixels.keyword) or (
        elements.whole(dataset, "BitsAllocated") or 0
    )
    n_frames = elements.whole(dataset, "NumberOfFrames") or 1
    if bits < 1 or n_frames < 1:
        raise CorruptError(f"the header says {bits} bits a value and {n_frames} frames")
    n_values = rows * columns * (elements.whole(dataset, "SamplesPerPixel") or 1)
    check_size(rows, columns, n_values * max(8, bits) // 8, max_pixels=max_pixels, max_bytes=max_bytes)
    if not is_native:
        return n_frames
    is_subsampled = dataset.get("PhotometricInterpretation") == "YBR_FULL_422"  # two luma for each pair of chroma
    frame_bits = n_values * bits * (2 if is_subsampled else 3) // 3
    return _count_frames(pixels.value.size, n_frames, frame_bits, is_subsampled=is_subsampled)


def _count_frames(n_bytes: int, n_frames: int, frame_bits: int, *, is_subsampled: bool) -> int:
    """Return how many frames uncompressed pixel data hold: as many as the header says, or more."""
    expected = -(-n_frames * frame_bits // 8)
    if n_bytes < expected:
        raise TruncatedError(f"the pixel data has {n_bytes} of {expected} bytes")
    if n_bytes <= expected + expected % 2:
        return n_frames
    if not is_subsampled:
        return max(n_frames, 8 * n_bytes // frame_bits)
    if n_bytes >= expected // 2 * 3:
        raise CorruptError(f"{n_bytes} bytes of pixel data are not subsampled, though the header says so")
    return n_frames


def _decoded(dataset: Dataset, pixels: _PixelData, n_frames: int, *, raw: bool) -> Iterator[Image]:
    """Yield the stored values of each frame, colour as RGB unless raw."""
    shift = _high_bit_shift(dataset)
    arrays = _arrays(dataset, pixels, n_frames, raw=raw)
    for number in itertools.count():
        with elements.quiet():
            try:
                array = next(arrays, None)
            except codecs.RefusedError as refused:
                raise refused.reason from None
            except (ImageError, MemoryError):
                raise
            except Exception as error:  # noqa: BLE001 - decoders raise what they like, and may quote the file
                name = dataset.file_meta.TransferSyntaxUID.name
                raise CorruptError(f"the pixel data cannot be decoded as {name} ({type(error).__name__})") from None
        if array is None and number < n_frames:
            raise TruncatedError(f"{number} of {n_frames} frames are there")
        if array is None:
            return
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        yield array >> shift if shift else array


def _arrays(dataset: Dataset, pixels: _PixelData, n_frames: int, *, raw: bool) -> Iterator[Image]:
    options = as_pixel_options(dataset, number_of_frames=n_frames, pixel_keyword=pixels.keyword, pixel_vr=pixels.vr)
    decoder = codecs.decoder(dataset.file_meta.TransferSyntaxUID)
    if decoder.is_native and options["bits_allocated"] == 1 and options["samples_per_pixel"] == 1:
        yield from _bitmaps(pixels.value, options["rows"], options["columns"], n_frames)
        return
    for array, _ in decoder.iter_array(cast(BinaryIO, pixels.value), raw=raw, **options):
        yield array


def _bitmaps(value: Part, rows: int, columns: int, n_frames: int) -> Iterator[Image]:
    """Yield frames of one bit a pixel, packed without a gap (PS3.5 8.2): pydicom misses the end of some odd sizes."""
    n_pixels = rows * columns
    for first in range(0, n_frames * n_pixels, n_pixels):
        value.seek(first // 8)
        packed = np.frombuffer(value.read(-(-(first + n_pixels) // 8) - first // 8), np.uint8)
        yield np.unpackbits(packed, bitorder="little")[first % 8 :][:n_pixels].reshape(rows, columns)


def _high_bit_shift(dataset: Dataset) -> int:
    """Return how far native values stand to the left of where they should (PS3.5 8.1.1), and widen them to be read.

    pydicom takes HighBit for BitsStored - 1, as it has to be today, and would cut off the upper bits of old objects.
    """
    stored, high, allocated = (
        elements.whole(dataset, keyword) or 0 for keyword in ("BitsStored", "HighBit", "BitsAllocated")
    )
    if not 0 < stored <= high < allocated or dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return 0
    dataset.BitsStored = high + 1
    return high + 1 - stored


def _gray(stored: Image, dataset: Dataset, number: int) -> Image:
    photometric = dataset.get("PhotometricInterpretation")
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
    if stored.ndim == 2:
        return _modality(stored, dataset, number)
    return luma(stored)


def _modality(stored: Image, dataset: Dataset, number: int) -> Image:
    """Apply the modality LUT or the rescale of this frame (PS3.3 C.11.1)."""
    source = elements.group(dataset, number, "PixelValueTransformationSequence")
    if "ModalityLUTSequence" in source:
        values: Image = apply_modality_lut(stored, source)
        return values
    slope, intercept = _rescale(source) or (1, 0)
    if (slope, intercept) == (1, 0):
        return stored
    if stored.dtype.kind in "iu" and stored.itemsize <= 2 and _fits_int32(slope, intercept):
        return stored.astype(np.int32) * np.int32(slope) + np.int32(intercept)
    return stored.astype(np.float64) * slope + intercept


def _rescale(source: Dataset) -> tuple[float, float] | None:
    slope, intercept = elements.number(source, "RescaleSlope"), elements.number(source, "RescaleIntercept")
    for keyword, number in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
        if number is None and keyword in source and not source[keyword].is_empty:
            raise CorruptError(f"{keyword} is no number")
    return None if slope is None or intercept is None else (slope, intercept)


def _fits_int32(slope: float, intercept: float) -> bool:
    return slope.is_integer() and intercept.is_integer() and abs(slope) * 2**16 + abs(intercept) < 2**31


def _window(dataset: Dataset, number: int) -> Window | VoiLut | None:
    """Return the table of this frame or else its first window (PS3.3 C.11.2.1), as pydicom's ``apply_voi_lut`` does."""
    source = elements.group(dataset, number, "FrameVOILUTSequence")
    if source.get("VOILUTSequence"):
        return _lut(source.VOILUTSequence[0], dataset)
    center, width = elements.number(source, "WindowCenter"), elements.number(source, "WindowWidth")
    function = elements.text(source, "VOILUTFunction") or "LINEAR"
    if center is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    return Window(center, width, function)


def _lut(item: Dataset, dataset: Dataset) -> VoiLut | None:
    try:
        n_entries, first, bits = (int(value) for value in item.LUTDescriptor)
        data = item.LUTData
        order = "<" if dataset.original_encoding[1] else ">"
        table = np.frombuffer(data, f"{order}u2") if isinstance(data, bytes) else np.asarray(data, np.uint16)
    except (AttributeError, TypeError, ValueError):
        return None
    n_entries = n_entries or 2**16
    # The descriptor is written with the sign of the values, but pydicom cannot always know which that is.
    if elements.whole(dataset, "PixelRepresentation") == 1 and first >= 2**15:
        first -= 2**16
    return VoiLut(first, table[:n_entries], bits) if len(table) >= n_entries and bits <= 16 else None


def _facts(dataset: Dataset, number: int) -> dict[str, Any]:
    """Return where this frame lies, and the numbers by which its values are to be understood and shown."""
    position = elements.group(dataset, number, "PlanePositionSequence")
    orientation = elements.group(dataset, number, "PlaneOrientationSequence")
    modality = elements.group(dataset, number, "PixelValueTransformationSequence")
    rescale = _rescale(modality) or (None, None)
    window = _window(dataset, number)
    return {
        "photometric_interpretation": elements.text(dataset, "PhotometricInterpretation"),
        "image_position_mm": elements.numbers(position, "ImagePositionPatient", 3),
        "image_orientation": elements.numbers(orientation, "ImageOrientationPatient", 6),
        "slice_thickness_mm": elements.number(
            elements.group(dataset, number, "PixelMeasuresSequence"), "SliceThickness"
        ),
        "modality_transform": "lut" if "ModalityLUTSequence" in modality else "rescale" if rescale[0] else "none",
        "rescale_slope": rescale[0],
        "rescale_intercept": rescale[1],
        "window_center": getattr(window, "center", None),
        "window_width": getattr(window, "width", None),
        "window_function": getattr(window, "function", "LUT" if window else None),
        "is_inverted": dataset.get("PhotometricInterpretation") == "MONOCHROME1",
    }


def _flags(dataset: Dataset) -> tuple[str, ...]:
    """Return what a careful reader of the values should know."""
    stored, high = elements.whole(dataset, "BitsStored"), elements.whole(dataset, "HighBit")
    found = {
        "concatenation": "ConcatenationUID" in dataset,
        "mosaic": "MOSAIC" in (dataset.get("ImageType") or ()),
        "pixel_padding": "PixelPaddingValue" in dataset,
        "several_windows": isinstance(dataset.get("WindowCenter"), Sequence) and len(dataset.WindowCenter) > 1,
        "high_bit": stored is not None and high is not None and high != stored - 1,
        "bare_data_set": not dataset.preamble,
    }
    return tuple(name for name, is_so in found.items() if is_so)
