"""Instances into series: sorted in space, each with a geometry verdict, and a volume where there really is one.

Indices are those of the array: ``affine @ (slice, row, column, 1)`` is the centre of ``volume()[slice, row, column]``,
in mm of the patient's system (LPS: towards the left, the back, the head). ITK and the equation of PS3.3 C.7.6.2.1.1
count (column, row, slice): ``affine[:, [2, 1, 0, 3]]``.
"""

import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from scipy.ndimage import map_coordinates

from medspark.containers import read_source
from medspark.errors import (
    ContractError,
    CorruptError,
    EmptyFileError,
    ImageError,
    NoPixelDataError,
    NotAnImageError,
    TooLargeError,
    UnsupportedFormatError,
)
from medspark.files import show_path
from medspark.frame import DEFAULT_LIMITS, Frame, Image
from medspark.readers import headers, read_image
from medspark.readers.formats import HEAD_BYTES, sniff

__all__ = ["VERDICTS", "Instance", "Series", "SeriesList", "Skipped", "group", "group_instances", "instances"]

VERDICTS: Mapping[str, str] = {
    "one_slice": "read it with medspark.read_image",
    "no_geometry": "read the images one by one with medspark.read_image, or leave out those without a position",
    "localizer_inside": "leave out the instances that have is_localizer and call group_instances with the others",
    "mixed_grid": "call group_instances with the instances of one grid at a time",
    "mixed_orientation": "call group_instances with the instances of one orientation at a time",
    "duplicate_position": "leave out copies, or call group_instances with one phase, echo or reconstruction at a time",
    "missing_slice": "find the missing images, or call group_instances with the instances of one side at a time",
    "gantry_tilt": "volume(resample=True), up to 45 degrees",
    "mixed_spacing": "call group_instances with one pixel spacing at a time; volume(resample=True) if only the slice "
    "distances differ",
    "uniform": "volume()",
}
"""Each verdict with the way out. Where several apply, the first in this order is the verdict."""

POSITION_TOLERANCE_MM = 0.02
"""Positions are often written with two decimals: up to 0.005 mm off on each axis, at both ends of a distance."""
POSITION_TOLERANCE_PIXELS = 0.05
"""The same for fine pixels, where 0.02 mm is much. The smaller of the two holds."""
ORIENTATION_TOLERANCE = 1e-4
"""Of a direction cosine: 0.006 degrees, above what four decimals lose."""
UNIT_TOLERANCE = 1e-3
"""Row and column must have length 1 and a right angle to this; else they are no directions."""
PIXEL_SPACING_TOLERANCE = 1e-4
"""Relative: a twentieth of a pixel over 512."""
TILT_TOLERANCE_DEGREES = 0.05
"""Cosines of three decimals are off by so much. The affine takes the true direction, so that nothing is lost."""
TILT_LIMIT_DEGREES = 45.0
"""A gantry leans 30 degrees at most; what leans more is something else and is not resampled."""
GAP = 1.5
"""A distance so many times the usual one is a hole, not a spacing."""

_COMMON = (
    "series_uid", "modality", "rows", "columns", "sop_instance_uid", "frame_of_reference_uid", "is_localizer",
)  # fmt: skip
_WHOLE = 0.02  # a ratio of distances so near to a whole number is one
_PLACE_DECIMALS = 6  # of a pixel or a slice: above the rounding of the arithmetic, far below what is seen


@dataclass(frozen=True)
class Instance:
    """One frame of one file and what its header says; the names are those of the features table."""

    path: str
    frame: int = 0
    series_uid: str = ""
    modality: str | None = None
    rows: int = 0
    columns: int = 0
    sop_instance_uid: str | None = None
    frame_of_reference_uid: str | None = None
    image_position_mm: tuple[float, float, float] | None = None
    image_orientation: tuple[float, float, float, float, float, float] | None = None
    spacing_mm: tuple[float, float] | None = None  # between rows, between columns
    slice_thickness_mm: float | None = None
    is_localizer: bool = False

    @property
    def is_placed(self) -> bool:
        """Whether the header says where in the patient this image lies."""
        position, orientation, spacing = self.image_position_mm, self.image_orientation, self.spacing_mm
        if position is None or orientation is None or spacing is None:
            return False
        if not np.isfinite((*position, *orientation, *spacing)).all() or min(spacing) <= 0:
            return False
        axes = np.reshape(orientation, (2, 3))
        return bool(np.abs(axes @ axes.T - np.eye(2)).max() <= UNIT_TOLERANCE)


@dataclass(frozen=True)
class Series:
    """The instances of a series in order, and whether they are one even stack.

    ``instances`` are sorted along the normal of the slices (row x column), those beside the stack (localizers, images
    without a position) at the end. ``reasons`` are all that speak against ``uniform``, each begins with its code.
    ``spacing_mm`` (between slices, rows, columns), ``affine`` and ``shape`` belong to the array that ``volume`` gives;
    they are None where it gives none.
    """

    series_uid: str
    modality: str | None
    instances: tuple[Instance, ...]
    verdict: str
    reasons: tuple[str, ...] = ()
    spacing_mm: tuple[float, float, float] | None = None
    shape: tuple[int, int, int] | None = None
    affine: Image | None = field(default=None, compare=False)

    def volume(self, *, resample: bool = False) -> Image:
        """Return slices x rows x columns in modality units (HU for CT), the values of the files as they are.

        ``resample``: also where the slices are tilted or at different distances, interpolated linearly on an even grid
        with the lower median of the distances; float, and NaN where no slice lies. Raises ContractError where there is
        no volume, and a subclass of ImageError for a file that cannot be read.
        """
        if self.affine is None or self.shape is None or (self.verdict != "uniform" and not resample):
            way_out = VERDICTS[self.verdict] if self.affine is None else "volume(resample=True) gives an even grid"
            reasons = "; ".join(self.reasons)
            raise ContractError(f"these {len(self.instances)} images are no volume. {reasons}. Way out: {way_out}")
        stack = _stacked(self.instances)
        if self.verdict == "uniform":
            return stack
        return _resampled(stack, _places(_positions(self.instances), self.affine), self.shape)


class Skipped(NamedTuple):
    """A path that has no place in any series, with its reason code and a message."""

    path: str
    reason: str
    error: str


class SeriesList(list[Series]):
    """A list of series, and beside it what was ``skipped`` of the paths."""

    def __init__(self, series: Iterable[Series] = (), skipped: Iterable[Skipped] = ()) -> None:
        super().__init__(series)
        self.skipped = tuple(skipped)


def group(paths: Iterable[str | Path]) -> SeriesList:
    """Return the series of DICOM files (or of ``archive.zip!/inner`` members), by their headers alone.

    Sorted by SeriesInstanceUID; one UID is always one series, never split. What is no DICOM image, or cannot be read,
    is in ``skipped`` of the result. The order of the paths and InstanceNumber have no influence.
    """
    instances: list[Instance] = []
    skipped: list[Skipped] = []
    for path in sorted({os.fspath(path) for path in paths}):
        try:
            instances += _instances(path)
        except ImageError as error:
            skipped.append(Skipped(path, error.reason, str(error)))
        except OSError as error:
            skipped.append(Skipped(path, "unreadable", f"cannot be read: {os.strerror(error.errno or 0)}"))
    return SeriesList(group_instances(instances), skipped)


def group_instances(instances: Iterable[Instance]) -> list[Series]:
    """Return the series of instances whose headers are known already; sorted by SeriesInstanceUID."""
    members = defaultdict(list)
    for instance in instances:
        members[instance.series_uid].append(instance)
    return [_series(members[uid]) for uid in sorted(members)]


def instances(path: str, facts: Mapping[str, Any]) -> list[Instance]:
    """Return the frames of an object from the facts of its header, as the index has them.

    Raises CorruptError, NoPixelDataError or TooLargeError for what has no place in a series.
    """
    if not facts:
        raise CorruptError("the header cannot be parsed")
    if not facts["rows"] or not facts["columns"]:
        raise NoPixelDataError("a DICOM object without an image")
    if facts["series_uid"] is None:
        raise CorruptError("SeriesInstanceUID is missing")
    n_frames = facts["n_frames"]
    if n_frames > headers.MAX_PLACED_FRAMES:
        raise TooLargeError(f"{n_frames} frames, a series has at most {headers.MAX_PLACED_FRAMES}")
    common = {name: facts[name] for name in _COMMON}
    placements = facts["placements"] or [{}] * n_frames
    return [
        Instance(path, frame, **common, **{name: _tuple(value) for name, value in placement.items()})
        for frame, placement in enumerate(placements)
    ]


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) else value


def _instances(path: str) -> list[Instance]:
    with _opened(path) as file:
        head = file.read(HEAD_BYTES)
        kind = sniff(head)
        if not head:
            raise EmptyFileError("the file has no bytes")
        if kind == "unknown":
            raise NotAnImageError("the content is of no image format")
        if kind != "dicom":
            raise UnsupportedFormatError(f"{kind} files belong to no series")
        file.seek(0)
        return instances(path, headers.header(file))


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    if Path(path).is_file():
        with Path(path).open("rb") as file:
            yield file
    else:  # a member of an archive; of all else it says why not
        yield io.BytesIO(read_source(show_path(os.fsencode(path)), max_bytes=DEFAULT_LIMITS.max_bytes))


class _Finding(NamedTuple):
    """Something that speaks against ``uniform``."""

    code: str
    text: str
    is_sound: bool = False  # an even grid can be had by resampling, without inventing anything


def _series(members: Sequence[Instance]) -> Series:
    members = sorted(members, key=lambda member: (member.path, member.frame))
    stack, beside = _parted(members)
    findings = _of_the_members(members, stack)
    if stack:
        stack = _sorted(stack)
        findings += _of_the_stack(stack)
    findings.sort(key=lambda finding: list(VERDICTS).index(finding.code))
    has_volume = len(stack) > 1 and all(finding.is_sound for finding in findings)
    codes = {finding.code for finding in findings}
    spacing, shape, affine = _grid(stack, codes) if has_volume else (None, None, None)
    return Series(
        series_uid=members[0].series_uid,
        modality=next((member.modality for member in (*stack, *beside) if member.modality), None),
        instances=(*stack, *beside),
        verdict=findings[0].code if findings else "uniform",
        reasons=tuple(f"{finding.code}: {finding.text}" for finding in findings),
        spacing_mm=spacing,
        shape=shape,
        affine=affine,
    )


def _parted(members: Sequence[Instance]) -> tuple[list[Instance], list[Instance]]:
    """Return the slices, and what lies beside them; localizers among themselves are slices too."""
    is_slice = [member.is_placed and not member.is_localizer for member in members]
    if not any(is_slice):
        is_slice = [member.is_placed for member in members]
    stack = [member for member, belongs in zip(members, is_slice, strict=True) if belongs]
    return stack, [member for member, belongs in zip(members, is_slice, strict=True) if not belongs]


def _of_the_members(members: Sequence[Instance], stack: Sequence[Instance]) -> list[_Finding]:
    findings = []
    n_unplaced = sum(not member.is_placed for member in members)
    n_localizers = sum(member.is_localizer for member in members)
    if len(members) == 1:
        findings.append(_Finding("one_slice", "a single image"))
    if n_unplaced:
        text = f"{n_unplaced} of {len(members)} images lack a usable position, orientation or pixel spacing"
        findings.append(_Finding("no_geometry", text))
    if n_localizers and not all(member.is_localizer for member in stack):
        findings.append(_Finding("localizer_inside", f"{n_localizers} of {len(members)} images are localizers"))
    return findings


def _sorted(stack: Sequence[Instance]) -> list[Instance]:
    """Return the slices along the normal; those at one height stay in the order of path and frame."""
    heights = _positions(stack) @ _normal(stack)
    return [stack[i] for i in np.argsort(heights, kind="stable")]


def _of_the_stack(stack: Sequence[Instance]) -> list[_Finding]:
    findings = []
    sizes = sorted({(member.rows, member.columns) for member in stack})
    if len(sizes) > 1:
        (rows, columns), (more_rows, more_columns) = sizes[0], sizes[-1]
        text = f"{len(sizes)} sizes from {rows} x {columns} to {more_rows} x {more_columns}"
        findings.append(_Finding("mixed_grid", text))
    spacings = _pixel_spacings(stack)
    least, most = spacings.min(axis=0), spacings.max(axis=0)
    if (most - least > PIXEL_SPACING_TOLERANCE * least).any():
        text = f"pixel spacing from {least[0]:g} x {least[1]:g} to {most[0]:g} x {most[1]:g} mm"
        findings.append(_Finding("mixed_spacing", text))
    is_turned = np.abs(_orientations(stack) - _usual_orientation(stack)).max(axis=1) > ORIENTATION_TOLERANCE
    if is_turned.any():
        text = f"{is_turned.sum()} of {len(stack)} images have another orientation than the others"
        findings.append(_Finding("mixed_orientation", text))
    n_systems = len({uid for member in stack if (uid := member.frame_of_reference_uid)})
    if n_systems > 1:
        text = f"{n_systems} frames of reference, whose positions cannot be compared"
        findings.append(_Finding("mixed_grid", text))
    if not is_turned.any() and n_systems <= 1:
        findings += _of_the_positions(stack)
    return findings


def _of_the_positions(stack: Sequence[Instance]) -> list[_Finding]:
    positions = _positions(stack) - _positions(stack)[0]
    heights = positions @ _normal(stack)
    tolerance = min(POSITION_TOLERANCE_MM, POSITION_TOLERANCE_PIXELS * _pixel_spacings(stack).min())
    steps = np.diff(heights)
    is_apart = steps > tolerance
    findings = []
    if not is_apart.all():
        findings.append(_Finding("duplicate_position", _duplicates(stack, n_places=1 + int(is_apart.sum()))))
    if not is_apart.any():
        return findings
    is_gap = _gaps(stack, steps, is_apart)
    others = steps[is_apart & ~is_gap]
    if is_gap.any():
        widest, usual = steps[is_gap].max(), _lower_median(others)
        where = f"the first after instances[{np.argmax(is_gap)}]"
        text = f"gaps of up to {widest:.2f} mm where {usual:.2f} mm is usual: {is_gap.sum()}, {where}"
        findings.append(_Finding("missing_slice", text))
    if is_gap.any() or not is_apart.all():
        is_even = np.ptp(others) <= 4 * tolerance  # four ends of two distances
    else:
        is_even = np.abs(heights - np.linspace(0, heights[-1], len(heights))).max() <= tolerance
    if not is_even:
        findings.append(_Finding("mixed_spacing", f"slice distances {_span(others)} mm", is_sound=True))
    return findings + _of_the_direction(positions, heights, _normal(stack), tolerance)


def _duplicates(stack: Sequence[Instance], *, n_places: int) -> str:
    objects = {(member.sop_instance_uid or member.path, member.frame) for member in stack}
    text = f"{len(stack)} images at {n_places} positions"
    return text if len(objects) == len(stack) else f"{text}, {len(stack) - len(objects)} of them copies of an object"


def _gaps(stack: Sequence[Instance], steps: Image, is_apart: Image) -> Image:
    """Tell which distances are holes: much wider than is usual for slices of such a thickness.

    Thick slices may stand further apart: distances count in units of the thickness, where the headers give it.
    """
    thickness = np.array([member.slice_thickness_mm or np.nan for member in stack])
    if not (np.isfinite(thickness) & (thickness > 0)).all():
        thickness = np.ones(len(stack))
    relative = steps / (thickness[:-1] + thickness[1:]) * 2
    ratios = relative[is_apart] / relative[is_apart].min()
    is_lattice = bool((np.abs(ratios - np.round(ratios)) <= _WHOLE).all())
    usual = relative[is_apart].min() if is_lattice else _lower_median(relative[is_apart])
    gaps: Image = is_apart & (relative > GAP * usual)
    return gaps


def _of_the_direction(positions: Image, heights: Image, normal: Image, tolerance: float) -> list[_Finding]:
    """Compare the line from the first slice to the last with the normal, and each slice with the line."""
    way = positions[-1] / heights[-1]  # for each mm along the normal
    shift = np.linalg.norm(positions - heights[:, None] * way, axis=1).max()
    if shift > tolerance:
        return [_Finding("mixed_grid", f"slices shifted sideways by up to {shift:.2f} mm from a straight stack")]
    lean = np.linalg.norm(way - normal)
    degrees = float(np.degrees(np.arctan(lean)))
    if degrees <= TILT_TOLERANCE_DEGREES or lean * heights[-1] <= tolerance:
        return []
    text = f"the stack leans {degrees:.2f} degrees from the normal of its slices"
    return [_Finding("gantry_tilt", text, is_sound=degrees <= TILT_LIMIT_DEGREES)]


def _grid(stack: Sequence[Instance], codes: set[str]) -> tuple[tuple[float, float, float], tuple[int, int, int], Image]:
    """Return spacing, shape and affine of the stack itself if nothing is wrong, else of an even grid that holds it.

    That one has its rows and columns on those of the first slice, and no slice beyond the last of the stack.
    """
    positions, normal, orientation = _positions(stack), _normal(stack), _orientations(stack)[0]
    row_spacing, column_spacing = _pixel_spacings(stack)[0].tolist()
    steps = np.diff(positions @ normal)
    spacing = _lower_median(steps) if "mixed_spacing" in codes else float(steps.mean())
    affine = np.eye(4)
    affine[:3, 0] = spacing * normal if codes else (positions[-1] - positions[0]) / len(steps)
    affine[:3, 1] = row_spacing * orientation[3:]  # from row to row goes down the column
    affine[:3, 2] = column_spacing * orientation[:3]
    affine[:3, 3] = positions[0]
    n_slices, n_rows, n_columns = len(stack), stack[0].rows, stack[0].columns
    if codes:
        places = _places(positions, affine)
        _, first_row, first_column = first = np.floor(places.min(axis=0))
        _, last_row, last_column = np.ceil(places.max(axis=0))
        n_slices = 1 + int(places[-1, 0])
        n_rows += int(last_row - first_row)
        n_columns += int(last_column - first_column)
        affine[:3, 3] += affine[:3, :3] @ first
    affine.setflags(write=False)
    return (spacing, row_spacing, column_spacing), (n_slices, n_rows, n_columns), affine


def _places(positions: Image, affine: Image) -> Image:
    """Return where the first pixels of the slices lie in a grid: slice, row, column."""
    places: Image = (positions - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    return np.round(places, _PLACE_DECIMALS)


def _stacked(instances: Sequence[Instance]) -> Image:
    """Return the pixels of the instances in their order; each file is read once."""
    wanted: dict[str, dict[int, int]] = defaultdict(dict)
    for index, instance in enumerate(instances):
        wanted[instance.path][instance.frame] = index
    shape = instances[0].rows, instances[0].columns
    stack = np.zeros((len(instances), *shape), np.bool_)  # the narrowest type: each slice widens it to its own
    for path, indices in wanted.items():
        frames = {frame.number: frame.pixels for frame in _read(path, min(indices.values()))}
        for number, index in indices.items():
            if number not in frames or frames[number].shape != shape:
                raise CorruptError(f"slice {index}: no image of {shape[0]} x {shape[1]}, against its header")
            stack = stack.astype(np.result_type(stack, frames[number]), copy=False)
            stack[index] = frames[number]
    return stack


def _read(path: str, index: int) -> list[Frame]:
    try:
        return read_image(path)
    except ImageError as error:
        raise type(error)(f"slice {index}: {error}") from None


def _resampled(stack: Image, places: Image, shape: tuple[int, int, int]) -> Image:
    """Interpolate slices that lie at ``places`` of a grid: in each slice, then between the two beside a height."""
    volume = np.full(shape, np.nan)
    for height in range(shape[0]):
        above = int(np.searchsorted(places[:, 0], height))  # the first slice at this height or above it
        volume[height] = _moved(stack[above], places[above], shape)
        if places[above, 0] > height:
            share = (places[above, 0] - height) / (places[above, 0] - places[above - 1, 0])
            below = _moved(stack[above - 1], places[above - 1], shape)
            volume[height] += share * (below - volume[height])
    return volume


def _moved(pixels: Image, place: Image, shape: tuple[int, int, int]) -> Image:
    rows, columns = np.arange(shape[1]) - place[1], np.arange(shape[2]) - place[2]
    where = np.meshgrid(rows, columns, indexing="ij")
    moved: Image = map_coordinates(pixels.astype(np.float64), where, order=1, cval=np.nan)
    return moved


def _positions(stack: Sequence[Instance]) -> Image:
    return np.array([member.image_position_mm for member in stack], np.float64)


def _orientations(stack: Sequence[Instance]) -> Image:
    return np.array([member.image_orientation for member in stack], np.float64)


def _pixel_spacings(stack: Sequence[Instance]) -> Image:
    return np.array([member.spacing_mm for member in stack], np.float64)


def _usual_orientation(stack: Sequence[Instance]) -> Image:
    """Return the orientation that most slices have."""
    counts = Counter(member.image_orientation for member in stack)
    most = max(counts.values())
    return np.array(min(found for found, count in counts.items() if found and count == most))


def _normal(stack: Sequence[Instance]) -> Image:
    orientation = _usual_orientation(stack)
    normal: Image = np.cross(orientation[:3], orientation[3:])
    normal /= np.linalg.norm(normal)
    return normal


def _lower_median(values: Image) -> float:
    """Return the middle value, of two the lower: one that occurs."""
    return float(np.sort(values)[(len(values) - 1) // 2])


def _span(values: Image) -> str:
    """Return the range in words, with as many decimals as show a difference."""
    low, high = values.min(), values.max()
    decimals = 2 if f"{low:.2f}" != f"{high:.2f}" else 5
    return f"from {low:.{decimals}f} to {high:.{decimals}f}"
