"""What the header of a DICOM object says, without reading its pixels."""

from typing import IO, Any

import pydicom
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from medspark.errors import CorruptError, ImageError, NoPixelDataError, TooLargeError
from medspark.readers import elements, tags

DIRECTORY = "1.2.840.10008.1.3.10"
"""The SOP class of a DICOMDIR: a table of contents, no image."""

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


def header(file: IO[bytes]) -> dict[str, Any]:
    """Return the facts of an object by their column names, without reading its pixels; identifiers as in the file.

    A header that cannot be read has no facts.
    """
    try:
        return _walked_header(file)
    except tags.UnusualError:
        file.seek(0)
    with elements.quiet():
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
        elements.without_stray_bytes(file),
        force=True,
        stop_before_pixels=True,
        specific_tags=[*_TEXT_TAGS, *_NUMBER_TAGS, _NUMBER_OF_FRAMES],
    )
    meta = getattr(dataset, "file_meta", Dataset())
    return {
        **{name: elements.text(dataset, keyword_for_tag(tag)) for tag, name in _TEXT_TAGS.items()},
        **{name: elements.whole(dataset, keyword_for_tag(tag)) for tag, name in _NUMBER_TAGS.items()},
        "n_frames": elements.whole(dataset, "NumberOfFrames") or 1,
        "transfer_syntax_uid": elements.text(meta, "TransferSyntaxUID"),
        "sop_class_uid": elements.text(dataset, "SOPClassUID") or elements.text(meta, "MediaStorageSOPClassUID"),
    }


def placements(file: IO[bytes]) -> list[dict[str, Any]]:
    """Return for each frame where it lies in the patient, without reading pixels: the fields of ``series.Instance``.

    A frame of a multi-frame object lies where its functional groups say (PS3.3 C.7.6.16). Raises NoPixelDataError,
    CorruptError or TooLargeError.
    """
    with elements.quiet():
        try:
            dataset = pydicom.dcmread(
                elements.without_stray_bytes(file),
                force=True,
                stop_before_pixels=True,
                specific_tags=list(_PLACE_KEYWORDS),
            )
            return _placements(dataset)
        except ImageError:
            raise
        except Exception as error:  # noqa: BLE001 - pydicom raises whatever a damaged header leads it to
            raise CorruptError(f"the header cannot be parsed ({type(error).__name__})") from None


def _placements(dataset: Dataset) -> list[dict[str, Any]]:
    rows, columns = elements.whole(dataset, "Rows"), elements.whole(dataset, "Columns")
    if not rows or not columns:
        raise NoPixelDataError("a DICOM object without an image")
    series_uid = elements.text(dataset, "SeriesInstanceUID")
    if series_uid is None:
        raise CorruptError("SeriesInstanceUID is missing")
    n_frames = max(1, elements.whole(dataset, "NumberOfFrames") or 1)
    if n_frames > _MAX_PLACED_FRAMES:
        raise TooLargeError(f"{n_frames} frames, a series has at most {_MAX_PLACED_FRAMES}")
    image_type = dataset.get("ImageType") or ()
    facts = {
        "series_uid": series_uid,
        "modality": elements.text(dataset, "Modality"),
        "rows": rows,
        "columns": columns,
        "sop_instance_uid": elements.text(dataset, "SOPInstanceUID"),
        "frame_of_reference_uid": elements.text(dataset, "FrameOfReferenceUID"),
        "is_localizer": "LOCALIZER" in ([image_type] if isinstance(image_type, str) else image_type),
    }
    return [facts | _placement(dataset, number, n_frames) for number in range(n_frames)]


def _placement(dataset: Dataset, number: int, n_frames: int) -> dict[str, Any]:
    positions = elements.group(dataset, number, "PlanePositionSequence")
    position = elements.numbers(positions, "ImagePositionPatient", 3)
    orientation = elements.numbers(
        elements.group(dataset, number, "PlaneOrientationSequence"), "ImageOrientationPatient", 6
    )
    # One position at the top is that of the first frame only: where the others lie is not said.
    is_said = n_frames == 1 or positions is not dataset
    return {
        "frame": number,
        "image_position_mm": tuple(position) if position and is_said else None,
        "image_orientation": tuple(orientation) if orientation else None,
        "spacing_mm": elements.spacing(dataset, number),
        "slice_thickness_mm": elements.number(
            elements.group(dataset, number, "PixelMeasuresSequence"), "SliceThickness"
        ),
    }
