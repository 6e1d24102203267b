"""DICOM objects: pixels by pydicom and its decoders, the modality transform, and what the header says."""

import io
import itertools
import math
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import cv2
import numpy as np
import pydicom
from pydicom.datadict import keyword_for_tag
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
from medspark.readers import codecs, tags
from medspark.readers.formats import HEAD_BYTES, bare_dicom_offset, sniff

DIRECTORY = "1.2.840.10008.1.3.10"
"""The SOP class of a DICOMDIR: a table of contents, no image."""

_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_TEXT_TAGS = {
    tags.SYNTAX: "transfer_syntax_uid",
    0x00080016: "sop_class_uid",
    0x00080060: "modality",
    0x00080070: "manufacturer",
    0x00100020: "patient_id",
    0x0020000D: "study_uid",
    0x0020000E: "series_uid",
    0x00280004: "photometric_interpretation",
}
_NUMBER_TAGS = {0x00280010: "rows", 0x00280011: "columns", 0x00280101: "bits_stored"}
_NUMBER_OF_FRAMES, _MEDIA_STORAGE_CLASS = 0x00280008, 0x00020002
_WALKED = frozenset((*_TEXT_TAGS, *_NUMBER_TAGS, _NUMBER_OF_FRAMES, _MEDIA_STORAGE_CLASS))
_PLACE_KEYWORDS = (
    "SeriesInstanceUID", "SOPInstanceUID", "Modality", "ImageType", "Rows", "Columns", "NumberOfFrames",
    "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
_MAX_PLACED_FRAMES = 1 << 17  # what a header promises costs nothing to write


def can_read(content: bytes) -> bool:
    """Tell whether the content is a DICOM object, with or without a preamble."""
    return sniff(content[:HEAD_BYTES]) == "dicom"


def frames(content: bytes, *, max_pixels: int, raw: bool = False) -> Iterator[Frame]:
    """Yield the frames of a DICOM object.

    ``pixels`` is rows x columns of gray after the modality transform (PS3.3 C.11.1; HU for CT), whole numbers as int32
    where slope and intercept are whole, else float64; colour becomes luma. With ``raw``: the stored values as they are.
    Raises NoPixelDataError, TooLargeError, TruncatedError, CorruptError or UnsupportedTransferSyntaxError.
    """
    with _quiet(), _own_errors():
        dataset = _parse(content)
        _check(dataset, max_pixels)
        identity = {
            name: text
            for name, keyword in (
                ("patient_id", "PatientID"),
                ("study_uid", "StudyInstanceUID"),
                ("series_uid", "SeriesInstanceUID"),
            )
            if (text := _text(dataset, keyword))
        }
        modality = _text(dataset, "Modality")
        is_inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
        flags = _flags(dataset)
    for number, stored in enumerate(_decoded(dataset, raw=raw)):
        with _quiet(), _own_errors():
            frame = Frame(
                pixels=stored if raw else _gray(stored, dataset, number),
                number=number,
                modality=modality,
                window=_window(dataset, number),
                is_inverted=is_inverted,
                spacing_mm=_spacing(dataset, number),
                identity=identity,
                facts=_facts(dataset, number),
                flags=flags,
            )
        yield frame


def header(file: IO[bytes]) -> dict[str, Any]:
    """Return the facts of an object by their column names, without reading its pixels; identifiers as in the file.

    A header that cannot be read has no facts.
    """
    try:
        return _walked_header(file)
    except tags.UnusualError:
        file.seek(0)
    with _quiet():
        try:
            return _parsed_header(file)
        except Exception:  # noqa: BLE001 - extract will say what is wrong with it
            return {}


def _walked_header(file: IO[bytes]) -> dict[str, Any]:
    found, order = tags.first_elements(file, _WALKED, max(_TEXT_TAGS | _NUMBER_TAGS, key=int))
    facts: dict[str, Any] = {name: tags.text(found.get(tag, b"")) for tag, name in _TEXT_TAGS.items()}
    facts |= {name: tags.number(found.get(tag, b""), order) for tag, name in _NUMBER_TAGS.items()}
    n_frames = tags.text(found.get(_NUMBER_OF_FRAMES, b""))
    if n_frames and not n_frames.isdigit():
        raise tags.UnusualError
    storage = tags.text(found.get(_MEDIA_STORAGE_CLASS, b""))
    return facts | {"n_frames": int(n_frames or 0) or 1, "sop_class_uid": facts["sop_class_uid"] or storage}


def _parsed_header(file: IO[bytes]) -> dict[str, Any]:
    dataset = pydicom.dcmread(
        _without_stray_bytes(file),
        force=True,
        stop_before_pixels=True,
        specific_tags=[*_TEXT_TAGS, *_NUMBER_TAGS, _NUMBER_OF_FRAMES],
    )
    meta = getattr(dataset, "file_meta", Dataset())
    return {
        **{name: _text(dataset, keyword_for_tag(tag)) for tag, name in _TEXT_TAGS.items()},
        **{name: _whole(dataset, keyword_for_tag(tag)) for tag, name in _NUMBER_TAGS.items()},
        "n_frames": _whole(dataset, "NumberOfFrames") or 1,
        "transfer_syntax_uid": _text(meta, "TransferSyntaxUID"),
        "sop_class_uid": _text(dataset, "SOPClassUID") or _text(meta, "MediaStorageSOPClassUID"),
    }


def placements(file: IO[bytes]) -> list[dict[str, Any]]:
    """Return for each frame where it lies in the patient, without reading pixels: the fields of ``series.Instance``.

    A frame of a multi-frame object lies where its functional groups say (PS3.3 C.7.6.16). Raises NoPixelDataError,
    CorruptError or TooLargeError.
    """
    with _quiet():
        try:
            dataset = pydicom.dcmread(
                _without_stray_bytes(file), force=True, stop_before_pixels=True, specific_tags=list(_PLACE_KEYWORDS)
            )
            return _placements(dataset)
        except ImageError:
            raise
        except Exception as error:  # noqa: BLE001 - pydicom raises whatever a damaged header leads it to
            raise CorruptError(f"the header cannot be parsed ({type(error).__name__})") from None


def _placements(dataset: Dataset) -> list[dict[str, Any]]:
    rows, columns = _whole(dataset, "Rows"), _whole(dataset, "Columns")
    if not rows or not columns:
        raise NoPixelDataError("a DICOM object without an image")
    series_uid = _text(dataset, "SeriesInstanceUID")
    if series_uid is None:
        raise CorruptError("SeriesInstanceUID is missing")
    n_frames = max(1, _whole(dataset, "NumberOfFrames") or 1)
    if n_frames > _MAX_PLACED_FRAMES:
        raise TooLargeError(f"{n_frames} frames, a series has at most {_MAX_PLACED_FRAMES}")
    image_type = dataset.get("ImageType") or ()
    facts = {
        "series_uid": series_uid,
        "modality": _text(dataset, "Modality"),
        "rows": rows,
        "columns": columns,
        "sop_instance_uid": _text(dataset, "SOPInstanceUID"),
        "frame_of_reference_uid": _text(dataset, "FrameOfReferenceUID"),
        "is_localizer": "LOCALIZER" in ([image_type] if isinstance(image_type, str) else image_type),
    }
    return [facts | _placement(dataset, number, n_frames) for number in range(n_frames)]


def _placement(dataset: Dataset, number: int, n_frames: int) -> dict[str, Any]:
    positions = _group(dataset, number, "PlanePositionSequence")
    position = _numbers(positions, "ImagePositionPatient", 3)
    orientation = _numbers(_group(dataset, number, "PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    # One position at the top is that of the first frame only: where the others lie is not said.
    is_said = n_frames == 1 or positions is not dataset
    return {
        "frame": number,
        "image_position_mm": tuple(position) if position and is_said else None,
        "image_orientation": tuple(orientation) if orientation else None,
        "spacing_mm": _spacing(dataset, number),
        "slice_thickness_mm": _number(_group(dataset, number, "PixelMeasuresSequence"), "SliceThickness"),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings and pydicom's log: both quote the values found odd, and they may be a patient's."""
    log = pydicom.config.logger
    was_disabled, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = was_disabled


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
    file = _Watched(content[_stray_bytes(content) :])
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


def _stray_bytes(content: bytes) -> int:
    head = content[:HEAD_BYTES]
    return 0 if head[128:132] == b"DICM" else bare_dicom_offset(head) or 0


def _without_stray_bytes(file: IO[bytes]) -> IO[bytes]:
    """Return the file from where the object begins: pydicom goes back to where its file begins."""
    n_stray = _stray_bytes(file.read(HEAD_BYTES))
    file.seek(n_stray)
    return io.BytesIO(file.read()) if n_stray else file


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
    rows, columns = _whole(dataset, "Rows"), _whole(dataset, "Columns")
    if not rows or not columns:
        raise CorruptError("Rows or Columns is missing or zero")
    if rows * columns >= max_pixels:
        raise TooLargeError(f"{rows} x {columns} pixels, fewer than {max_pixels} are allowed (limits.max_pixels)")
    syntax = dataset.file_meta.TransferSyntaxUID
    if codecs.decoder(syntax).is_native:
        _check_length(dataset, rows * columns)


def _check_length(dataset: Dataset, n_pixels: int) -> None:
    keyword = next(keyword for keyword in _PIXEL_KEYWORDS if keyword in dataset)
    bits = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}.get(keyword) or _whole(dataset, "BitsAllocated") or 0
    samples = _whole(dataset, "SamplesPerPixel") or 1
    if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
        samples = 2  # two luma for each pair of chroma
    expected = n_pixels * samples * (_whole(dataset, "NumberOfFrames") or 1) * bits // 8
    actual = len(dataset[keyword].value or b"")
    if actual < expected:
        raise TruncatedError(f"the pixel data has {actual} of {expected} bytes")


def _decoded(dataset: Dataset, *, raw: bool) -> Iterator[Image]:
    """Yield the stored values of each frame, colour as RGB unless raw."""
    shift = _high_bit_shift(dataset)
    arrays = codecs.decoder(dataset.file_meta.TransferSyntaxUID).iter_array(dataset, raw=raw)
    n_frames = _whole(dataset, "NumberOfFrames") or 1
    for number in itertools.count():
        with _quiet():
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
    stored, high, allocated = (_whole(dataset, keyword) or 0 for keyword in ("BitsStored", "HighBit", "BitsAllocated"))
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
    source = _group(dataset, number, "PixelValueTransformationSequence")
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
    slope, intercept = _number(source, "RescaleSlope"), _number(source, "RescaleIntercept")
    for keyword, number in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
        if number is None and keyword in source and not source[keyword].is_empty:
            raise CorruptError(f"{keyword} is no number")
    return None if slope is None or intercept is None else (slope, intercept)


def _fits_int32(slope: float, intercept: float) -> bool:
    return slope.is_integer() and intercept.is_integer() and abs(slope) * 2**16 + abs(intercept) < 2**31


def _window(dataset: Dataset, number: int) -> Window | VoiLut | None:
    """Return the table of this frame or else its first window (PS3.3 C.11.2.1), as pydicom's ``apply_voi_lut`` does."""
    source = _group(dataset, number, "FrameVOILUTSequence")
    if source.get("VOILUTSequence"):
        return _lut(source.VOILUTSequence[0], dataset)
    center, width = _number(source, "WindowCenter"), _number(source, "WindowWidth")
    function = _text(source, "VOILUTFunction") or "LINEAR"
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
    if _whole(dataset, "PixelRepresentation") == 1 and first >= 2**15:
        first -= 2**16
    return VoiLut(first, table[:n_entries], bits) if len(table) >= n_entries and bits <= 16 else None


def _facts(dataset: Dataset, number: int) -> dict[str, Any]:
    """Return where this frame lies, and the numbers by which its values are to be understood and shown."""
    position = _group(dataset, number, "PlanePositionSequence")
    orientation = _group(dataset, number, "PlaneOrientationSequence")
    modality = _group(dataset, number, "PixelValueTransformationSequence")
    rescale = _rescale(modality) or (None, None)
    window = _window(dataset, number)
    return {
        "photometric_interpretation": _text(dataset, "PhotometricInterpretation"),
        "image_position_mm": _numbers(position, "ImagePositionPatient", 3),
        "image_orientation": _numbers(orientation, "ImageOrientationPatient", 6),
        "slice_thickness_mm": _number(_group(dataset, number, "PixelMeasuresSequence"), "SliceThickness"),
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
    stored, high = _whole(dataset, "BitsStored"), _whole(dataset, "HighBit")
    found = {
        "concatenation": "ConcatenationUID" in dataset,
        "mosaic": "MOSAIC" in (dataset.get("ImageType") or ()),
        "pixel_padding": "PixelPaddingValue" in dataset,
        "several_windows": isinstance(dataset.get("WindowCenter"), Sequence) and len(dataset.WindowCenter) > 1,
        "high_bit": stored is not None and high is not None and high != stored - 1,
        "bare_data_set": not dataset.preamble,
    }
    return tuple(name for name, is_so in found.items() if is_so)


def _spacing(dataset: Dataset, number: int) -> tuple[float, float] | None:
    source = _group(dataset, number, "PixelMeasuresSequence")
    between_rows, between_columns = _number(source, "PixelSpacing", 0), _number(source, "PixelSpacing", 1)
    return None if between_rows is None or between_columns is None else (between_rows, between_columns)


def _group(dataset: Dataset, number: int, sequence: str) -> Dataset:
    """Return where a frame's facts stand: its own functional group, the shared one, or the object (PS3.3 C.7.6.16)."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for item in (*per_frame[number : number + 1], *shared[:1]):
        if item.get(sequence):
            group: Dataset = item[sequence][0]
            return group
    return dataset


def _number(dataset: Dataset, keyword: str, index: int = 0) -> float | None:
    try:
        value = dataset.get(keyword)
        number = float(value if isinstance(value, (int, float, str)) else value[index])
    except Exception:  # noqa: BLE001 - pydicom parses a value when it is asked for, and raises what it likes
        return None
    return number if math.isfinite(number) else None


def _numbers(dataset: Dataset, keyword: str, count: int) -> list[float] | None:
    numbers = [_number(dataset, keyword, index) for index in range(count)]
    return None if None in numbers else [number for number in numbers if number is not None]


def _whole(dataset: Dataset, keyword: str) -> int | None:
    number = _number(dataset, keyword)
    return int(number) if number is not None else None


def _text(dataset: Dataset, keyword: str) -> str | None:
    try:
        return str(dataset.get(keyword) or "").strip(" \0") or None
    except Exception:  # noqa: BLE001 - as above
        return None
