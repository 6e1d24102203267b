"""DICOM objects: pixels by pydicom and its decoders, the modality transform, and what the header says."""

import io
import itertools
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medspark.errors import (
    CorruptError,
    ImageError,
    NoPixelDataError,
    TooLargeError,
    TruncatedError,
)
from medspark.frame import Frame, Image, VoiLut, Window
from medspark.readers import codecs, elements
from medspark.readers.formats import HEAD_BYTES, sniff

_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def can_read(content: bytes) -> bool:
    """Tell whether the content is a DICOM object, with or without a preamble."""
    return sniff(content[:HEAD_BYTES]) == "dicom"


def frames(content: bytes, *, max_pixels: int, raw: bool = False) -> Iterator[Frame]:
    """Yield the frames of a DICOM object.

    ``pixels`` is rows x columns of gray after the modality transform (PS3.3 C.11.1; HU for CT), whole numbers as int32
    where slope and intercept are whole, else float64; colour becomes luma. With ``raw``: the stored values as they are.
    Raises NoPixelDataError, TooLargeError, TruncatedError, CorruptError or UnsupportedTransferSyntaxError.
    """
    with elements.quiet(), _own_errors():
        dataset = _parse(content)
        _check(dataset, max_pixels)
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
    for number, stored in enumerate(_decoded(dataset, raw=raw)):
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
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever a damaged header leads it to
        raise CorruptError(f"the header contradicts itself ({type(error).__name__})") from None


class _Watched(io.BytesIO):
    """Bytes that remember whether somebody asked for more than there is."""

    is_short = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        # Eight bytes are an element's header: none of them left is a proper end.
        if size is not None and len(data) < size and (data or size != 8):
            self.is_short = True
        return data


def _parse(content: bytes) -> Dataset:
    file = _Watched(content[elements.stray_bytes(content) :])
    try:
        dataset = pydicom.dcmread(file, force=True)
    except Exception as error:  # noqa: BLE001 - pydicom raises whatever a damaged header leads it to
        raise _unreadable(file, error) from None
    if not any(keyword in dataset for keyword in _PIXEL_KEYWORDS):
        if file.is_short:
            raise TruncatedError(f"the object ends inside an element ({len(content)} bytes)")
        raise NoPixelDataError("a DICOM object without an image")
    if not dataset.file_meta.get("TransferSyntaxUID"):
        dataset.file_meta.TransferSyntaxUID = _guess_syntax(dataset)
    return dataset


def _unreadable(file: _Watched, error: Exception) -> ImageError:
    is_cut_stream = isinstance(error, zlib.error) and "incomplete" in str(error)
    if file.is_short or is_cut_stream or isinstance(error, EOFError):
        return TruncatedError("the object ends inside an element")
    return CorruptError(f"the header cannot be parsed ({type(error).__name__})")


def _guess_syntax(dataset: Dataset) -> UID:
    is_implicit, is_little = dataset.original_encoding
    if not is_little:
        return ExplicitVRBigEndian
    return ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian


def _check(dataset: Dataset, max_pixels: int) -> None:
    """Look at what the header promises before anything is decoded."""
    rows, columns = elements.whole(dataset, "Rows"), elements.whole(dataset, "Columns")
    if not rows or not columns:
        raise CorruptError("Rows or Columns is missing or zero")
    if rows * columns >= max_pixels:
        raise TooLargeError(f"{rows} x {columns} pixels, fewer than {max_pixels} are allowed (limits.max_pixels)")
    syntax = dataset.file_meta.TransferSyntaxUID
    if codecs.decoder(syntax).is_native:
        _check_length(dataset, rows * columns)


def _check_length(dataset: Dataset, n_pixels: int) -> None:
    keyword = next(keyword for keyword in _PIXEL_KEYWORDS if keyword in dataset)
    bits = (
        {"FloatPixelData": 32, "DoubleFloatPixelData": 64}.get(keyword) or elements.whole(dataset, "BitsAllocated") or 0
    )
    samples = elements.whole(dataset, "SamplesPerPixel") or 1
    if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
        samples = 2  # two luma for each pair of chroma
    expected = n_pixels * samples * (elements.whole(dataset, "NumberOfFrames") or 1) * bits // 8
    actual = len(dataset[keyword].value or b"")
    if actual < expected:
        raise TruncatedError(f"the pixel data has {actual} of {expected} bytes")


def _decoded(dataset: Dataset, *, raw: bool) -> Iterator[Image]:
    """Yield the stored values of each frame, colour as RGB unless raw."""
    shift = _high_bit_shift(dataset)
    arrays = codecs.decoder(dataset.file_meta.TransferSyntaxUID).iter_array(dataset, raw=raw)
    n_frames = elements.whole(dataset, "NumberOfFrames") or 1
    for number in itertools.count():
        with elements.quiet():
            try:
                array, _ = next(arrays, (None, None))
            except codecs.RefusedError as refused:
                raise refused.reason from None
            except MemoryError:
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
    if stored.itemsize <= 2:
        return cv2.cvtColor(np.ascontiguousarray(stored[..., :3]), cv2.COLOR_RGB2GRAY)
    luma: Image = stored[..., :3] @ np.array([0.299, 0.587, 0.114])  # OpenCV's weights, for depths it does not take
    return luma


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
