import csv
import dataclasses
import os
import random
import re
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from builders import make_dicom, make_png
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from medspark.errors import ContractError, CorruptError, VanishedError
from medspark.series import VERDICTS, Instance, group, group_instances

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
EVEN = tuple(2.0 * k for k in range(6))
CANARY = "Canary^Bird"


def stack(heights=EVEN, *, shift=(0.0, 0.0), **changes):
    """Axial slices at these heights, each mm of which shifts them sideways; 4 x 5 pixels of 0.5 x 0.25 mm."""
    facts = {"rows": 4, "columns": 5, "spacing_mm": (0.5, 0.25), "image_orientation": AXIAL, "series_uid": "1.2"}
    return [
        Instance(
            f"{number:03}", image_position_mm=(-10 + shift[0] * z, 5 + shift[1] * z, z + 100.0), **(facts | changes)
        )
        for number, z in enumerate(heights)
    ]


def changed(instances, index, **changes):
    return [dataclasses.replace(one, **changes) if i == index else one for i, one in enumerate(instances)]


def series_of(instances):
    (series,) = group_instances(instances)
    return series


def rotated(instances, turn):
    return [
        dataclasses.replace(
            one,
            image_position_mm=tuple((turn @ one.image_position_mm).tolist()),
            image_orientation=tuple((np.reshape(one.image_orientation, (2, 3)) @ turn.T).ravel().tolist()),
        )
        for one in instances
    ]


def codes(series):
    return [reason.split(":")[0] for reason in series.reasons]


CASES = {
    "uniform": stack(),
    "one_slice": stack([3.0]),
    "no_geometry": changed(stack(), 5, image_position_mm=None),
    "localizer_inside": changed(stack(), 0, image_orientation=SAGITTAL, is_localizer=True),
    "mixed_grid": changed(stack(), 2, rows=5),
    "mixed_orientation": changed(stack(), 2, image_orientation=SAGITTAL),
    "duplicate_position": changed(stack(), 5, image_position_mm=(-10.0, 5.0, 108.0)),
    "missing_slice": [*stack()[:2], *stack()[3:]],
    "gantry_tilt": stack(shift=(0.0, -0.25)),
    "mixed_spacing": stack([0.0, 2.0, 4.0, 6.5, 9.0]),
}


@st.composite
def rotations(draw):
    quaternion = np.array([draw(st.floats(-1, 1)) for _ in range(4)])
    length = np.linalg.norm(quaternion)
    assume(length > 0.1)
    w, x, y, z = quaternion / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


# --- verdicts


@pytest.mark.parametrize("verdict", VERDICTS)
def test_each_verdict_has_a_stack_that_gets_it(verdict):
    series = series_of(CASES[verdict])
    assert series.verdict == verdict
    assert codes(series) == ([] if verdict == "uniform" else [verdict])
    assert len(series.instances) == len(CASES[verdict])
    assert (series.affine is not None) == (verdict in ("uniform", "gantry_tilt", "mixed_spacing"))


@pytest.mark.parametrize(
    ("instances", "reason"),
    [
        (CASES["no_geometry"], "no_geometry: 1 of 6 images lack a usable position, orientation or pixel spacing"),
        (CASES["localizer_inside"], "localizer_inside: 1 of 6 images are localizers"),
        (CASES["mixed_grid"], "mixed_grid: 2 sizes from 4 x 5 to 5 x 5"),
        (CASES["mixed_orientation"], "mixed_orientation: 1 of 6 images have another orientation than the others"),
        (CASES["duplicate_position"], "duplicate_position: 6 images at 5 positions"),
        (
            CASES["missing_slice"],
            "missing_slice: gaps of up to 4.00 mm where 2.00 mm is usual: 1, the first after instances[1]",
        ),
        # 0.25 mm sideways for each mm of height: atan(0.25)
        (CASES["gantry_tilt"], "gantry_tilt: the stack leans 14.04 degrees from the normal of its slices"),
        (CASES["mixed_spacing"], "mixed_spacing: slice distances from 2.00 to 2.50 mm"),
        (stack([0.0, 2.0, 4.03, 6.0]), "mixed_spacing: slice distances from 1.97 to 2.03 mm"),
        (
            stack([0.0, 0.101, 0.204, 0.306], spacing_mm=(0.01, 0.01)),
            "mixed_spacing: slice distances from 0.10100 to 0.10300 mm",
        ),
        (changed(stack(), 1, spacing_mm=(0.5, 0.26)), "mixed_spacing: pixel spacing from 0.5 x 0.25 to 0.5 x 0.26 mm"),
        (
            changed(stack(), 3, frame_of_reference_uid="1.9"),
            None,  # one UID is not a contradiction
        ),
        (
            [dataclasses.replace(one, frame_of_reference_uid=f"1.{number % 2}") for number, one in enumerate(stack())],
            "mixed_grid: 2 frames of reference, whose positions cannot be compared",
        ),
        (
            changed(stack(), 2, image_position_mm=(-9.0, 5.0, 104.0)),
            "mixed_grid: slices shifted sideways by up to 1.00 mm from a straight stack",
        ),
    ],
)
def test_a_reason_gives_its_numbers(instances, reason):
    assert series_of(instances).reasons == ((reason,) if reason else ())


def test_all_reasons_are_given_and_the_first_of_the_order_is_the_verdict():
    series = series_of(changed(stack([0.0, 2.0, 2.0, 4.0, 8.0, 10.0], shift=(0.5, 0.0)), 0, rows=9))
    assert codes(series) == ["mixed_grid", "duplicate_position", "missing_slice", "gantry_tilt"]
    assert series.verdict == "mixed_grid"
    assert codes(series_of(stack([0.0, 2.0, 2.0, 4.5]))) == ["duplicate_position", "mixed_spacing"]
    assert sorted(codes(series), key=list(VERDICTS).index) == codes(series)


def test_series_of_different_uids_are_apart_and_of_one_uid_together():
    one, other = stack(), stack(series_uid="1.1", modality="MR")
    first, second = group_instances([*one, *other])
    assert (first.series_uid, first.modality, first.verdict) == ("1.1", "MR", "uniform")
    assert (second.series_uid, second.modality, len(second.instances)) == ("1.2", None, 6)


def test_copies_of_an_object_are_told_from_other_images_at_its_place():
    echoes = [*stack(sop_instance_uid="1"), *stack(sop_instance_uid="2")]
    echoes = [dataclasses.replace(one, sop_instance_uid=f"{one.sop_instance_uid}.{one.path}") for one in echoes]
    copies = [dataclasses.replace(one, path=f"copy {one.path}") for one in echoes[:1]]
    assert series_of(echoes).reasons == ("duplicate_position: 12 images at 6 positions",)
    assert series_of([*echoes[:6], *copies]).reasons == (
        "duplicate_position: 7 images at 6 positions, 1 of them copies of an object",
    )


def test_localizers_among_themselves_are_a_stack_like_any_other():
    assert series_of(stack(is_localizer=True)).verdict == "uniform"


def test_a_localizer_stands_at_the_end_and_the_others_are_uniform_without_it():
    series = series_of(CASES["localizer_inside"])
    assert [one.is_localizer for one in series.instances] == [False] * 5 + [True]
    assert series_of([one for one in series.instances if not one.is_localizer]).verdict == "uniform"


@pytest.mark.parametrize(
    "unusable",
    [
        {"image_orientation": (0.0,) * 6},
        {"image_orientation": (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)},
        {"image_orientation": None},
        {"spacing_mm": (0.0, 1.0)},
        {"spacing_mm": None},
        {"image_position_mm": (0.0, float("nan"), 0.0)},
        {"image_position_mm": (float("inf"), 0.0, 0.0)},
    ],
)
def test_what_is_no_direction_no_place_and_no_distance_is_not_taken_for_one(unusable):
    assert codes(series_of(changed(stack(), 5, **unusable))) == ["no_geometry"]
    assert codes(series_of([dataclasses.replace(one, **unusable) for one in stack()])) == ["no_geometry"]


def test_blocks_of_thicker_slices_further_apart_have_no_gap():
    heights = [0.0, 5.0, 10.0, 15.0, 25.0, 35.0, 45.0]
    thin, thick = stack(heights, slice_thickness_mm=5.0)[:4], stack(heights, slice_thickness_mm=10.0)[4:]
    assert codes(series_of([*thin, *thick])) == ["mixed_spacing"]
    # Of one thickness, or of none that is told, every other slice of the upper half is not there.
    assert codes(series_of(stack(heights, slice_thickness_mm=5.0))) == ["missing_slice"]
    assert codes(series_of(stack(heights))) == ["missing_slice"]


def test_a_gap_is_found_when_it_is_no_whole_number_of_slices():
    series = series_of(stack([0.0, 2.0, 4.0, 11.0, 13.0, 15.0]))
    assert series.verdict == "missing_slice"
    assert "7.00 mm where 2.00 mm" in series.reasons[0]


@pytest.mark.parametrize(("off_mm", "verdict"), [(0.015, "uniform"), (0.025, "mixed_spacing")])
def test_a_slice_may_be_two_hundredths_of_a_millimetre_off_along_the_stack(off_mm, verdict):
    assert series_of(stack([0.0, 2.0, 4.0 + off_mm, 6.0, 8.0], spacing_mm=(1.0, 1.0))).verdict == verdict


@pytest.mark.parametrize(("off_mm", "verdict"), [(0.015, "uniform"), (0.025, "mixed_grid")])
def test_a_slice_may_be_two_hundredths_of_a_millimetre_off_sideways(off_mm, verdict):
    instances = stack(spacing_mm=(1.0, 1.0))
    x, y, z = instances[2].image_position_mm
    assert series_of(changed(instances, 2, image_position_mm=(x + off_mm, y, z))).verdict == verdict


def test_fine_pixels_have_a_finer_tolerance():
    heights = [0.0, 0.01, 0.02, 0.032, 0.04]  # micro-CT: 10 micrometres, one slice 2 off
    assert codes(series_of(stack(heights, spacing_mm=(0.01, 0.01)))) == ["mixed_spacing"]


@pytest.mark.parametrize(("cosine_off", "verdict"), [(0.9e-4, "uniform"), (1.2e-4, "mixed_orientation")])
def test_cosines_may_differ_in_the_fourth_decimal(cosine_off, verdict):
    instances = changed(stack(), 2, image_orientation=(1.0, cosine_off, 0.0, -cosine_off, 1.0, 0.0))
    assert series_of(instances).verdict == verdict


@pytest.mark.parametrize(("degrees", "code"), [(0.04, None), (0.06, "gantry_tilt"), (44.0, "gantry_tilt")])
def test_the_tilt_is_the_angle_between_stack_and_normal(degrees, code):
    series = series_of(stack([10.0 * k for k in range(9)], shift=(np.tan(np.radians(degrees)), 0.0)))
    assert codes(series) == ([code] if code else [])
    assert series.affine is not None
    if code:
        assert f"leans {degrees:.2f} degrees" in series.reasons[0]
    else:  # and the affine leans with it
        assert (series.affine @ (8, 0, 0, 1))[:3] == pytest.approx(series.instances[8].image_position_mm, abs=1e-9)


def test_a_tilted_stack_of_even_distances_keeps_its_last_slice():
    series = series_of(stack([0.0, 2.005, 4.010, 6.0], shift=(0.5, 0.0)))  # even but for what is rounded
    assert (series.verdict, series.shape[0], series.spacing_mm[0]) == ("gantry_tilt", 4, pytest.approx(2.0))


def test_what_leans_more_than_any_gantry_has_no_grid():
    series = series_of(stack(shift=(1.1, 0.0)))
    assert (series.verdict, series.affine, series.spacing_mm, series.shape) == ("gantry_tilt", None, None, None)


# --- properties


@pytest.mark.parametrize("verdict", VERDICTS)
@given(data=st.data())
@settings(deadline=None, max_examples=25)
def test_the_order_of_the_instances_changes_nothing(verdict, data):
    series, other = series_of(CASES[verdict]), series_of(data.draw(st.permutations(CASES[verdict])))
    assert other == series
    assert np.array_equal(other.affine, series.affine) or other.affine is series.affine is None


@pytest.mark.parametrize("verdict", VERDICTS)
@given(turn=rotations())
@settings(deadline=None, max_examples=40)
def test_a_turned_stack_has_the_same_verdict_order_and_spacing_and_a_turned_affine(verdict, turn):
    still, series = series_of(CASES[verdict]), series_of(rotated(with_positions(CASES[verdict]), turn))
    assert codes(series) == codes(still)
    assert [one.path for one in series.instances] == [one.path for one in still.instances]
    if still.affine is None:
        assert series.affine is None
    else:
        assert series.affine[:3] == pytest.approx(turn @ still.affine[:3], abs=1e-9)
        assert series.spacing_mm == pytest.approx(still.spacing_mm, abs=1e-9)
        assert series.shape == still.shape


def with_positions(instances):
    """What has no position cannot be turned: a position that is none turns into one that is none."""
    return [
        one if one.image_position_mm else dataclasses.replace(one, image_position_mm=(float("nan"),) * 3)
        for one in instances
    ]


@given(st.integers(4, 40), st.data(), st.floats(0.3, 20), rotations())
@settings(deadline=None)
def test_missing_slices_are_found_at_any_place(n, data, step, turn):
    kept = sorted(data.draw(st.sets(st.integers(1, n - 2)))) or []
    heights = [0, *kept, n - 1]
    distances = np.diff(heights)
    assume(distances.min() == 1 < distances.max())
    series = series_of(rotated(stack([step * h for h in heights]), turn))
    assert codes(series) == ["missing_slice"]
    assert f"{np.sum(distances > 1)}, the first after instances[{np.argmax(distances > 1)}]" in series.reasons[0]
    with pytest.raises(ContractError):
        series.volume(resample=True)


@given(st.integers(2, 30), st.data(), rotations())
@settings(deadline=None)
def test_duplicates_are_found_at_any_place(n, data, turn):
    instances = stack([1.5 * k for k in range(n)])
    twice = data.draw(st.lists(st.sampled_from(instances), min_size=1, max_size=4))
    copies = [dataclasses.replace(one, path=f"again {number}") for number, one in enumerate(twice)]
    series = series_of(rotated([*instances, *copies], turn))
    assert series.reasons == (f"duplicate_position: {n + len(twice)} images at {n} positions",)


@given(
    st.integers(2, 20),
    st.floats(0.2, 15),
    st.tuples(st.floats(0.05, 5), st.floats(0.05, 5)),
    st.tuples(*[st.floats(-500, 500)] * 3),
    rotations(),
)
@settings(deadline=None)
def test_the_affine_takes_voxels_to_where_the_standard_says_they_are(n, step, spacing, start, turn):
    across, down, normal = turn.T  # the columns of a rotation are a right-handed set of directions
    instances = [
        Instance(
            path=str(random.random()),  # no help from the names
            rows=7,
            columns=3,
            spacing_mm=spacing,
            image_orientation=(*across.tolist(), *down.tolist()),
            image_position_mm=tuple((np.array(start) + k * step * normal).tolist()),
        )
        for k in range(n)
    ]
    series = series_of(instances)
    assert series.verdict == "uniform"
    assert series.shape == (n, 7, 3)
    assert series.spacing_mm == pytest.approx((step, *spacing), rel=1e-9)
    for k, one in enumerate(instances):
        position = np.array(one.image_position_mm)
        assert (series.affine @ (k, 0, 0, 1))[:3] == pytest.approx(position, abs=1e-9)
        # PS3.3 C.7.6.2.1.1: the column index goes along the row with the second number of PixelSpacing
        last = position + across * spacing[1] * 2 + down * spacing[0] * 6
        assert (series.affine @ (k, 6, 2, 1))[:3] == pytest.approx(last, abs=1e-9)


@given(st.integers(2, 150), st.floats(0.5, 5), st.tuples(*[st.floats(-300, 300)] * 3), rotations())
@settings(deadline=None)
def test_numbers_rounded_as_scanners_round_them_leave_a_uniform_stack_uniform(n, step, start, turn):
    across, down, normal = turn.T
    series = series_of(
        Instance(
            path=f"{k:03}",
            spacing_mm=(0.5, 0.5),
            image_orientation=tuple(np.round([*across, *down], 6).tolist()),
            image_position_mm=tuple(np.round(np.array(start) + k * step * normal, 2).tolist()),
        )
        for k in range(n)
    )
    assert series.reasons == ()


# --- files


def write_stack(directory, heights=(0.0, 2.0, 4.0), *, names=None, shift=(0.0, 0.0), pixels=None, **attributes):
    """Write axial slices; the pixels of slice k are 4 x 5 times 10 * k unless given."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for k, z in enumerate(heights):
        image = np.full((4, 5), 10 * k, np.int16) if pixels is None else pixels[k]
        facts = {
            "ImagePositionPatient": [format_number_as_ds(float(x)) for x in (shift[0] * z, shift[1] * z, z)],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [0.5, 0.25],
            "SOPInstanceUID": f"1.2.3.4.{k + 1}",
            "PatientName": CANARY,
            "PatientID": CANARY,
        } | attributes
        paths.append(directory / (names[k] if names else f"{k:03}.dcm"))
        paths[-1].write_bytes(make_dicom(image, **facts))
    return paths


def test_the_volume_is_slices_by_rows_by_columns_in_hounsfield_units(tmp_path):
    pixels = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
    (series,) = group(write_stack(tmp_path, pixels=pixels, RescaleSlope=2, RescaleIntercept=-1000))
    assert (series.modality, series.series_uid, series.verdict) == ("CT", "1.2.3.4", "uniform")
    assert (series.shape, series.spacing_mm) == ((3, 4, 5), (2.0, 0.5, 0.25))
    assert np.array_equal(series.volume(), 2 * pixels.astype(int) - 1000)
    assert np.array_equal(series.volume(resample=True), series.volume())
    assert series.volume().dtype == np.int32


def test_slices_with_transforms_of_their_own_keep_their_values(tmp_path):
    first = write_stack(tmp_path / "a", [0.0], pixels=np.full((1, 4, 5), 7, np.int16))
    second = write_stack(
        tmp_path / "b", [2.0], pixels=np.full((1, 4, 5), 7, np.int16), RescaleSlope="0.5", RescaleIntercept=0
    )
    (series,) = group([*first, *second])
    assert series.volume()[:, 0, 0].tolist() == [7.0, 3.5]


@pytest.mark.parametrize("seed", range(5))
def test_neither_names_nor_instance_numbers_nor_the_order_of_the_paths_matter(tmp_path, seed):
    rng = random.Random(seed)
    heights = [3.0 * k for k in range(7)]
    names = [f"{name}.dcm" for name in rng.sample(range(1000), 7)]
    paths = write_stack(tmp_path, heights, names=names)
    for path, number in zip(paths, rng.sample(range(1, 8), 7), strict=True):
        dataset = pydicom.dcmread(path)
        dataset.InstanceNumber = number
        dataset.save_as(path)
    (series,) = group(rng.sample(paths, 7))
    assert [one.path for one in series.instances] == [str(path) for path in paths]
    assert series.volume()[:, 0, 0].tolist() == [0, 10, 20, 30, 40, 50, 60]


def test_a_path_given_twice_is_one_image(tmp_path):
    paths = write_stack(tmp_path)
    assert group([*paths, *map(str, paths)])[0].verdict == "uniform"


def test_pixels_are_not_read_to_group(tmp_path):
    (path, *others) = write_stack(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    (series,) = group([path, *others])
    assert series.verdict == "uniform"
    with pytest.raises(Exception, match=r"slice 0: the pixel data has 10 of 40 bytes"):
        series.volume()


def functional_group(z=None):
    item = Dataset()
    if z is None:
        item.PlaneOrientationSequence = [Dataset()]
        item.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        item.PixelMeasuresSequence = [Dataset()]
        item.PixelMeasuresSequence[0].PixelSpacing = [0.5, 0.25]
        item.PixelMeasuresSequence[0].SliceThickness = 3
    else:
        item.PlanePositionSequence = [Dataset()]
        item.PlanePositionSequence[0].ImagePositionPatient = [1, 2, z]
    return item


def test_an_enhanced_object_is_a_stack_by_its_functional_groups(tmp_path):
    pixels = np.stack([np.full((4, 5), z, np.int16) for z in (6, 0, 9, 3)])
    path = tmp_path / "enhanced"
    path.write_bytes(
        make_dicom(
            pixels,
            Modality="MR",
            SharedFunctionalGroupsSequence=[functional_group()],
            PerFrameFunctionalGroupsSequence=[functional_group(z) for z in (6, 0, 9, 3)],
        )
    )
    (series,) = group([path])
    assert (series.verdict, series.modality, series.spacing_mm) == ("uniform", "MR", (3.0, 0.5, 0.25))
    assert [one.frame for one in series.instances] == [1, 3, 0, 2]
    assert series.instances[0].slice_thickness_mm == 3
    assert series.volume()[:, 1, 1].tolist() == [0, 3, 6, 9]
    assert series.affine.tolist() == [[0, 0, 0.25, 1], [0, 0.5, 0, 2], [3, 0, 0, 0], [0, 0, 0, 1]]


def test_frames_without_groups_of_their_own_lie_nowhere(tmp_path):
    (tmp_path / "cine").write_bytes(
        make_dicom(
            np.zeros((3, 4, 5), np.int16),
            ImagePositionPatient=[0, 0, 0],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            PixelSpacing=[1, 1],
        )
    )
    (series,) = group([tmp_path / "cine"])
    assert codes(series) == ["no_geometry"]
    assert "3 of 3" in series.reasons[0]


def test_a_scout_is_recognised_by_its_image_type(tmp_path):
    slices = write_stack(tmp_path / "slices", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    scout = write_stack(
        tmp_path / "scout",
        [50.0],
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
        SOPInstanceUID="1.2.9",
    )
    (series,) = group([*slices, *scout])
    assert codes(series) == ["localizer_inside"]
    assert series.instances[-1].path == str(scout[0])


def test_members_of_an_archive_are_grouped_and_read(tmp_path):
    paths = write_stack(tmp_path)
    with zipfile.ZipFile(tmp_path / "ct.zip", "w") as bundle:
        for path in paths:
            bundle.write(path, f"inner/{path.name}")
    (series,) = group(f"{tmp_path}/ct.zip!/inner/{path.name}" for path in paths)
    assert series.verdict == "uniform"
    assert series.volume()[:, 0, 0].tolist() == [0, 10, 20]


def test_what_is_no_image_of_a_series_is_reported_and_does_not_disturb(tmp_path):
    paths = write_stack(tmp_path / "good")
    report = make_dicom(PixelData=None, Rows=None, Columns=None, BitsAllocated=None)
    contents = {
        "empty": (b"", "empty_file"),
        "text": (b"nothing to see here" * 50, "not_an_image"),
        "photo.png": (make_png(), "unsupported_format"),
        "report": (report, "no_pixel_data"),
        "orphan": (make_dicom(SeriesInstanceUID=None), "corrupt"),
        "torn": (make_dicom()[:300], "no_pixel_data"),
        "endless": (make_dicom(NumberOfFrames=2_000_000_000), "too_large"),
    }
    for name, (content, _) in contents.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    expected = {name: reason for name, (_, reason) in contents.items()} | {
        "pipe": "unreadable",
        "good": "unreadable",  # a directory
        "gone": "vanished",
        "gone.zip!/inner": "vanished",
    }
    found = group([*(tmp_path / name for name in expected), *paths])
    assert {Path(bad.path).relative_to(tmp_path).as_posix(): bad.reason for bad in found.skipped} == expected
    assert all(bad.error for bad in found.skipped)
    assert [series.verdict for series in found] == ["uniform"]
    assert group(paths).skipped == ()


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that opens and cannot be read")
def test_a_file_that_fails_when_it_is_read_is_unreadable():
    (bad,) = group(["/proc/self/mem"]).skipped
    assert bad.reason == "unreadable"


def test_no_paths_are_no_series():
    assert group([]) == []


# --- volumes that are refused, and grids


@pytest.mark.parametrize("verdict", [verdict for verdict in VERDICTS if verdict != "uniform"])
def test_a_refusal_gives_every_reason_and_a_way_out(verdict):
    series = series_of(CASES[verdict])
    with pytest.raises(ContractError) as refused:
        series.volume()
    for reason in series.reasons:
        assert reason in str(refused.value)
    can = verdict in ("gantry_tilt", "mixed_spacing")
    assert ("volume(resample=True) gives an even grid" if can else VERDICTS[verdict]) in str(refused.value)
    if not can:
        with pytest.raises(ContractError):
            series.volume(resample=True)


def test_pixel_spacings_that_differ_are_not_resampled():
    with pytest.raises(ContractError, match="one pixel spacing at a time"):
        series_of(changed(stack(), 1, spacing_mm=(0.5, 0.26))).volume(resample=True)


def test_no_message_holds_data_of_a_patient_or_a_path(tmp_path):
    paths = write_stack(tmp_path, [0.0, 2.0, 8.0, 10.0], shift=(0.1, 0.0), ImageComments=CANARY)
    paths[1].write_bytes(make_dicom(np.zeros((9, 9), np.int16), PatientName=CANARY, PixelSpacing=[1, 1]))
    (tmp_path / "bad").write_bytes(make_dicom(SeriesInstanceUID=None, PatientName=CANARY))
    found = group([*paths, tmp_path / "bad"])
    with pytest.raises(ContractError) as refused:
        found[0].volume()
    for text in (*found[0].reasons, str(refused.value), *(bad.error for bad in found.skipped)):
        assert "Canary" not in text
        assert str(tmp_path) not in text


def test_odd_values_of_a_header_reach_no_log(tmp_path, caplog):
    # Two letters where the number of frames should stand: pydicom quotes them.
    (tmp_path / "odd").write_bytes(make_dicom(NumberOfFrames=12).replace(b"IS\x02\x0012", b"IS\x02\x00Bi"))
    assert len(group([tmp_path / "odd"])[0].instances) == 1
    pydicom.config.logger.warning("the log is heard again")
    assert [record.message for record in caplog.records] == ["the log is heard again"]


def test_a_file_that_changed_after_it_was_grouped_gives_no_volume(tmp_path):
    paths = write_stack(tmp_path)
    (series,) = group(paths)
    paths[1].write_bytes(make_dicom(np.zeros((2, 2), np.int16)))
    with pytest.raises(CorruptError, match="slice 1: no image of 4 x 5"):
        series.volume()
    paths[1].unlink()
    with pytest.raises(VanishedError, match="slice 1"):
        series.volume()


def test_slices_at_other_distances_are_interpolated_between_their_neighbours(tmp_path):
    # Distances 2, 2.5 and 2: the grid has the lower median, 2, at heights 0, 2, 4 and 6 of 0, 2, 4.5 and 6.5.
    (series,) = group(write_stack(tmp_path, [0.0, 2.0, 4.5, 6.5]))
    assert series.reasons == ("mixed_spacing: slice distances from 2.00 to 2.50 mm",)
    assert (series.spacing_mm, series.shape) == ((2.0, 0.5, 0.25), (4, 4, 5))
    volume = series.volume(resample=True)
    by_hand = [0, 10, 10 + 10 * 2 / 2.5, 20 + 10 * 1.5 / 2]
    assert volume == pytest.approx(np.broadcast_to(np.reshape(by_hand, (4, 1, 1)), (4, 4, 5)))


def test_a_tilted_stack_is_straightened_and_has_no_values_where_no_slice_lies(tmp_path):
    # 0.25 mm to the back for each mm up: a row of 0.5 mm for each slice of 2 mm. Rows 10, 11, 12, 13 in each.
    rows = np.broadcast_to(np.arange(10, 14, dtype=np.int16)[:, None], (4, 5))
    (series,) = group(write_stack(tmp_path, shift=(0.0, 0.25), pixels=[rows] * 3))
    assert series.verdict == "gantry_tilt"
    assert (series.spacing_mm, series.shape) == ((2.0, 0.5, 0.25), (3, 6, 5))
    assert series.affine.tolist() == [[0, 0, 0.25, 0], [0, 0.5, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]]
    nan = float("nan")
    by_hand = [[10, 11, 12, 13, nan, nan], [nan, 10, 11, 12, 13, nan], [nan, nan, 10, 11, 12, 13]]
    volume = series.volume(resample=True)
    assert np.array_equal(volume, np.broadcast_to(np.reshape(by_hand, (3, 6, 1)), (3, 6, 5)), equal_nan=True)


def test_a_stack_that_leans_the_other_way_begins_before_its_first_slice(tmp_path):
    (series,) = group(write_stack(tmp_path, shift=(-0.1, -0.1625)))
    # Over 4 mm of height 1.3 rows and 1.6 columns: two whole ones more of each.
    assert series.shape == (3, 6, 7)
    assert series.affine[:3, 3].tolist() == [-0.5, -1.0, 0.0]
    assert np.array_equal(series.volume(resample=True)[0, 2:, 2:], np.zeros((4, 5)))


@given(st.lists(st.integers(8, 11), min_size=2, max_size=5), st.integers(-4, 4), st.integers(-4, 4), st.data())
@settings(deadline=None, max_examples=20)
def test_resampling_keeps_a_linear_field_as_it_is(tmp_path_factory, eighths, sideways, backwards, data):
    """Linear interpolation of a linear function is the function: wherever there is a value, it is the right one."""
    heights = np.cumsum([0, *eighths]) / 8
    shift = sideways / 8, backwards / 8
    factors = np.array([data.draw(st.integers(-5, 5)) for _ in range(3)])
    z, row, column = np.meshgrid(heights, np.arange(4), np.arange(5), indexing="ij")
    x, y = column * 0.25 + shift[0] * z, row * 0.5 + shift[1] * z
    field = 64 * np.stack([x, y, z], -1) @ factors
    assert np.array_equal(field, field.astype(np.int16))
    (series,) = group(write_stack(tmp_path_factory.mktemp("f"), heights, shift=shift, pixels=field.astype(np.int16)))
    volume = series.volume(resample=True)
    assert volume.shape == series.shape
    indices = np.moveaxis(np.indices(volume.shape), 0, -1)
    places = indices @ series.affine[:3, :3].T + series.affine[:3, 3]
    there = ~np.isnan(volume)
    assert volume[there] == pytest.approx((64 * places @ factors)[there], abs=1e-3)
    # All that lies between the edges of both slices beside it is there, and nothing else.
    for height, plane in zip(places, there, strict=True):
        at = height[0, 0, 2]
        beside = {heights[heights <= at + 1e-6].max(), heights[heights >= at - 1e-6].min()}
        inside = np.ones(plane.shape, bool)
        for other in beside:
            for axis, last in ((0, 1.0), (1, 1.5)):
                offset = height[..., axis] - shift[axis] * other
                inside &= (offset > -1e-6) & (offset < last + 1e-6)
        assert np.array_equal(plane, inside)


# --- real series


def stacks(shared_data):
    with (shared_data / "dicom" / "series.csv").open() as file:
        yield from csv.DictReader(file)


def test_real_series_are_what_the_table_says(shared_data):
    n_uniform = 0
    for row in stacks(shared_data):
        found = group(path for path in (shared_data / "dicom" / row["dir"]).iterdir() if path.is_file())
        (series,) = [one for one in found if one.series_uid == row["series"]]
        if row["modality"] == "RTDOSE":  # counted in files; the frames of a dose lie where we do not look
            assert series.verdict == "no_geometry"
            continue
        assert len(series.instances) == int(row["slices"])
        assert series.modality == row["modality"]
        assert {(one.rows, one.columns) for one in series.instances} == {(int(row["rows"]), int(row["cols"]))}
        orientation = np.array(series.instances[0].image_orientation)
        assert orientation == pytest.approx([float(x) for x in row["orientation"].split()], abs=1e-3)
        heights = [np.cross(*orientation.reshape(2, 3)) @ one.image_position_mm for one in series.instances]
        distances = np.diff(heights)
        assert len(set(heights)) == int(row["unique_positions"])
        assert (distances.min(), distances.max()) == pytest.approx(
            (float(row["dz_min"]), float(row["dz_max"])), abs=1e-4
        )
        is_uniform = row["uniform"] == "1" and int(row["unique_positions"]) == int(row["slices"])
        assert (series.verdict == "uniform") == is_uniform, row["dir"]
        if is_uniform:
            n_uniform += 1
            pixel = [float(x) for x in row["pixel_spacing"].split()]
            assert series.spacing_mm == pytest.approx((float(row["dz_min"]), *pixel), abs=1e-4)
    assert n_uniform == 2


def test_the_real_mr_series_is_uniform_with_its_affine(shared_data):
    (row,) = [row for row in stacks(shared_data) if row["dir"] == "series-mr-dcm4che"]
    directory = shared_data / "dicom" / row["dir"]
    paths = sorted(directory.iterdir())
    (series,) = group(reversed(paths))
    assert (series.verdict, series.reasons, series.shape) == ("uniform", (), (16, 256, 256))
    assert [one.path for one in series.instances] == [str(directory / f"MR{n:02}.dcm") for n in range(1, 17)]
    assert series.spacing_mm == pytest.approx((2.0, 0.234375, 0.234375), abs=1e-4)
    # Coronal: rows go to the left, columns down to the feet, slices to the back.
    by_hand = [[0, 0, 0.234375, 65.359375], [2, 0, 0, -5.992188], [0, -0.234375, 0, 23.554688], [0, 0, 0, 1]]
    assert series.affine == pytest.approx(np.array(by_hand), abs=1e-4)
    for k, path in enumerate(paths):
        position = [float(x) for x in pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient]
        assert (series.affine @ (k, 0, 0, 1))[:3] == pytest.approx(position, abs=1e-4)
    volume = series.volume()
    assert volume.shape == series.shape
    assert np.array_equal(volume, [pydicom.dcmread(path).pixel_array for path in paths])


def test_the_real_tilted_ct_series_is_refused_with_its_reasons_and_straightened_on_request(shared_data):
    (row,) = [row for row in stacks(shared_data) if row["dir"] == "series-ct-ge"]
    directory = shared_data / "dicom" / row["dir"]
    paths = sorted(directory.iterdir())
    (series,) = group(random.Random(1).sample(paths, len(paths)))
    assert [one.path for one in series.instances] == [str(directory / f"{n:02}.dcm") for n in range(1, 29)]
    assert series.verdict == "gantry_tilt"
    assert series.reasons == (
        f"gantry_tilt: the stack leans {float(row['shear_degrees']):.2f} degrees from the normal of its slices",
        f"mixed_spacing: slice distances from {float(row['dz_min']):.2f} to {float(row['dz_max']):.2f} mm",
    )
    with pytest.raises(ContractError, match=r"18\.50 degrees.*from 1\.08 to 7\.00 mm.*resample=True"):
        series.volume()

    # By hand: cos and sin of the tilt are 0.9483237 and 0.3173047, 13 of the 27 distances are 4.22 mm * cos and one is
    # less, so that is the median. Going up 151.94 mm, the stack slides 151.94 * sin / 0.4882812 = 98.7 rows up.
    cos, sin, pixel, step = 0.9483237, 0.3173047, 0.4882812, 4.22 * 0.9483237
    assert series.spacing_mm == pytest.approx((step, pixel, pixel), abs=1e-4)
    assert series.shape == (1 + int(151.94 * cos / step), 512 + 99, 512)
    by_hand = [
        [0, 0, pixel, -125],
        [step * sin, pixel * cos, 0, -123.5404569 - 99 * pixel * cos],
        [step * cos, -pixel * sin, 0, 5.8360586 + 99 * pixel * sin],
        [0, 0, 0, 1],
    ]
    assert series.affine == pytest.approx(np.array(by_hand), abs=1e-4)

    volume = series.volume(resample=True)
    first, second = (pydicom.dcmread(path) for path in paths[:2])
    units = [one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in (first, second)]
    assert np.array_equal(volume[0, 99:], units[0])
    assert np.isnan(volume[0, :99]).all()
    # The second slice of the grid is the second of the stack, 4.22 * sin / pixel = 2.74 rows up: between two rows.
    up = 4.22 * sin / pixel
    share = up % 1
    expected = (1 - share) * units[1][200 + int(up)] + share * units[1][201 + int(up)]
    assert volume[1, 99 + 200] == pytest.approx(expected, abs=0.01)


# --- the page


def page():
    return (Path(__file__).parents[1] / "docs" / "volumes.md").read_text("utf-8")


def test_the_page_explains_every_verdict_in_its_order():
    assert re.findall(r"^\| `(\w+)` \|", page(), re.MULTILINE) == list(VERDICTS)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.0, 0.25)])
def test_what_the_page_shows_runs(tmp_path, monkeypatch, capsys, shift):
    write_stack(tmp_path / "archive" / "PHANTOM-0001", shift=shift)
    (tmp_path / "archive" / "PHANTOM-0001" / "notes.txt").write_text("a note " * 100)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", page(), re.DOTALL)), names)  # noqa: S102 - our own page
    shown = capsys.readouterr().out
    assert f"CT | 3 | {'gantry_tilt | gantry_tilt: the stack leans 14.04' if shift[1] else 'uniform'}" in shown
    assert "not_an_image" in shown
    assert ("volume" in names, "even" in names) == ((False, True) if shift[1] else (True, False))
