"""What the header of a DICOM object says, without reading its pixels."""

from collections.abc import Sequence
from typing import IO, Any

import pydicom
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from medspark.readers import elements, tags

DIRECTORY = "1.2.840.10008.1.3.10"
"""The SOP class of a DICOMDIR: a table of contents, no image."""

MAX_PLACED_FRAMES = 1 << 17
"""Of an object that promises more frames, no placements are told: a promise costs nothing to write."""

_TEXT_TAGS = {
    tags.SYNTAX: "transfer_syntax_uid",
    0x00080016: "sop_class_uid",
    0x00080018: "sop_instance_uid",
    0x00080060: "modality",
    0x00080070: "manufacturer",
    0x00100020: "patient_id",
    0x0020000D: "study_uid",
    0x0020000E: "series_uid",
    0x00200052: "frame_of_reference_uid",
    0x00280004: "photometric_interpretation",
}
_NUMBER_TAGS = {0x00280010: "rows", 0x00280011: "columns", 0x00280101: "bits_stored"}
_MEDIA_STORAGE_CLASS, _IMAGE_TYPE, _THICKNESS = 0x00020002, 0x00080008, 0x00180050
_POSITION, _ORIENTATION, _SPACING = 0x00200032, 0x00200037, 0x00280030
_SAMPLES, _NUMBER_OF_FRAMES, _BITS_ALLOCATED = 0x00280002, 0x00280008, 0x00280100
_ONCE = frozenset((
    *_TEXT_TAGS, *_NUMBER_TAGS, _MEDIA_STORAGE_CLASS, _IMAGE_TYPE, _THICKNESS, _POSITION, _ORIENTATION, _SPACING,
    _SAMPLES, _NUMBER_OF_FRAMES, _BITS_ALLOCATED,
))  # fmt: skip
_LAST = max(_ONCE)
_GROUPS = (0x52009229, 0x52009230)  # the functional groups of all frames, and of each


def header(file: IO[bytes]) -> dict[str, Any]:
    """Return the facts of an object by their column names, without reading its pixels; identifiers as in the file.

    ``decoded_bytes`` is what all its frames take up when decoded. ``placements`` is for each frame where it lies in the
    patient: ``image_position_mm``, ``image_orientation``, ``spacing_mm`` and ``slice_thickness_mm``, of a multi-frame
    object by its functional groups (PS3.3 C.7.6.16); None where no frame has a position. A header that cannot be read
    has no facts.
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
    found, order = tags.first_elements(file, _ONCE, _LAST)
    if tags.text(found.get(_NUMBER_OF_FRAMES, b"")) or (_POSITION not in found and _has_groups(file)):
        raise tags.UnusualError
    facts: dict[str, Any] = {name: tags.text(found.get(tag, b"")) for tag, name in _TEXT_TAGS.items()}
    facts |= {name: tags.number(found.get(tag, b""), order) for tag, name in _NUMBER_TAGS.items()}
    samples, bits = (tags.number(found.get(tag, b""), order) for tag in (_SAMPLES, _BITS_ALLOCATED))
    spacing = tags.numbers(found.get(_SPACING, b""), 2)
    thickness = tags.numbers(found.get(_THICKNESS, b""), 1)
    placement = {
        "image_position_mm": tags.numbers(found.get(_POSITION, b""), 3),
        "image_orientation": tags.numbers(found.get(_ORIENTATION, b""), 6),
        "spacing_mm": spacing,
        "slice_thickness_mm": thickness[0] if thickness else None,
    }
    return facts | {
        "sop_class_uid": facts["sop_class_uid"] or tags.text(found.get(_MEDIA_STORAGE_CLASS, b"")),
        "n_frames": 1,
        "decoded_bytes": _decoded_bytes(facts, 1, samples, bits),
        "is_localizer": b"LOCALIZER" in [word.strip(b" ") for word in found.get(_IMAGE_TYPE, b"").split(b"\\")],
        "placements": _unless_nowhere([placement]),
    }


def _has_groups(file: IO[bytes]) -> bool:
    file.seek(0)
    found, _ = tags.first_elements(file, (tags.SYNTAX, *_GROUPS), max(_GROUPS))
    return not found.keys().isdisjoint(_GROUPS)


def _parsed_header(file: IO[bytes]) -> dict[str, Any]:
    dataset = pydicom.dcmread(
        elements.without_stray_bytes(file),
        force=True,
        stop_before_pixels=True,
        specific_tags=[*_ONCE, *_GROUPS],
    )
    meta = getattr(dataset, "file_meta", Dataset())
    facts: dict[str, Any] = {
        **{name: elements.text(dataset, keyword_for_tag(tag)) for tag, name in _TEXT_TAGS.items()},
        **{name: elements.whole(dataset, keyword_for_tag(tag)) for tag, name in _NUMBER_TAGS.items()},
    }
    n_frames = max(1, elements.whole(dataset, "NumberOfFrames") or 1)
    samples, bits = elements.whole(dataset, "SamplesPerPixel"), elements.whole(dataset, "BitsAllocated")
    placements = [
        _placement(dataset, number, n_frames) for number in range(n_frames if n_frames <= MAX_PLACED_FRAMES else 0)
    ]
    return facts | {
        "transfer_syntax_uid": elements.text(meta, "TransferSyntaxUID"),
        "sop_class_uid": facts["sop_class_uid"] or elements.text(meta, "MediaStorageSOPClassUID"),
        "n_frames": n_frames,
        "decoded_bytes": _decoded_bytes(facts, n_frames, samples, bits),
        "is_localizer": "LOCALIZER" in elements.words(dataset, "ImageType"),
        "placements": _unless_nowhere(placements),
    }


def _placement(dataset: Dataset, number: int, n_frames: int) -> dict[str, Any]:
    positions = elements.group(dataset, number, "PlanePositionSequence")
    orientations = elements.group(dataset, number, "PlaneOrientationSequence")
    measures = elements.group(dataset, number, "PixelMeasuresSequence")
    # One position at the top is that of the first frame only: where the others lie is not said.
    is_said = n_frames == 1 or positions is not dataset
    return {
        "image_position_mm": elements.numbers(positions, "ImagePositionPatient", 3) if is_said else None,
        "image_orientation": elements.numbers(orientations, "ImageOrientationPatient", 6),
        "spacing_mm": elements.numbers(measures, "PixelSpacing", 2),
        "slice_thickness_mm": elements.number(measures, "SliceThickness"),
    }


def _unless_nowhere(placements: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]] | None:
    return placements if any(placement["image_position_mm"] for placement in placements) else None


def _decoded_bytes(facts: dict[str, Any], n_frames: int, samples: int | None, bits: int | None) -> int | None:
    rows, columns = facts["rows"], facts["columns"]
    return rows * columns * n_frames * (samples or 1) * max(1, (bits or 8) // 8) if rows and columns else None
