"""The series table: what the index knows of the instances is enough to judge their geometry."""

import csv

import numpy as np
import pytest
from builders import make_dicom
from line import rows, run

from medspark.jobs import index
from medspark.privacy.pseudonym import pseudonym
from medspark.series import group
from medspark.warehouse import Warehouse

KEY = b"a key for tests, not for patients"
AXIAL = [1, 0, 0, 0, 1, 0]


def a_slice(z, **attributes):
    place = {"ImagePositionPatient": [0, 0, z], "ImageOrientationPatient": AXIAL, "PixelSpacing": [0.5, 0.25]}
    return make_dicom(np.zeros((4, 6), np.uint16), SOPInstanceUID=f"1.9.{round(z * 10)}", **{**place, **attributes})


@pytest.fixture
def archive(tmp_path):
    (tmp_path / "archive").mkdir()
    return tmp_path / "archive"


@pytest.fixture
def indexed(spark, archive, tmp_path):
    def again():
        assert run(index, spark, "--input", archive, "--warehouse", tmp_path / "warehouse")[0] == 0
        return {row["series_uid"]: row for row in rows(tmp_path / "warehouse", "series")}

    return again


def test_the_series_of_the_shared_archive_have_the_verdicts_of_their_files(spark, shared_data, tmp_path):
    archive, warehouse = shared_data / "dicom", tmp_path / "warehouse"
    assert run(index, spark, "--input", archive, "--warehouse", warehouse)[0] == 0
    found = {row["series_uid"]: row for row in rows(warehouse, "series")}
    by_files = group(path for path in archive.rglob("*") if path.is_file())
    assert len(found) == len(by_files)
    for series in by_files:
        row = found[pseudonym(KEY, series.series_uid)]
        assert row["verdict"] == series.verdict
        assert row["n_images"] == len(series.instances)
        if series.affine is None:
            assert row["affine"] is None
        else:
            np.testing.assert_array_equal(row["affine"], np.ravel(series.affine))
            assert tuple(row["shape"]) == series.shape
            assert [image["path"] for image in row["instances"]] == [str(image.path) for image in series.instances]
    with (archive / "series.csv").open() as file:
        described = {line["dir"]: line for line in csv.DictReader(file)}
    even, tilted = described["series-mr-dcm4che"], described["series-ct-ge"]
    assert found[pseudonym(KEY, even["series"])]["verdict"] == "uniform"
    assert found[pseudonym(KEY, even["series"])]["slice_spacing_mm"] == pytest.approx(float(even["dz_min"]), abs=1e-4)
    assert found[pseudonym(KEY, tilted["series"])]["verdict"] != "uniform"
    assert any(reason.startswith("gantry_tilt") for reason in found[pseudonym(KEY, tilted["series"])]["reasons"])


def test_a_series_is_judged_again_when_a_file_of_it_changes_and_only_then(archive, indexed):
    for number, z in enumerate([0, 2, 4, 6]):
        (archive / f"{number}.dcm").write_bytes(a_slice(z))
        (archive / f"other-{number}.dcm").write_bytes(a_slice(z, SeriesInstanceUID="1.8"))
    one, other = pseudonym(KEY, "1.2.3.4"), pseudonym(KEY, "1.8")
    first = indexed()
    assert {uid: row["verdict"] for uid, row in first.items()} == {one: "uniform", other: "uniform"}
    assert first[one]["slice_spacing_mm"] == 2
    assert first[one]["shape"] == [4, 4, 6]
    assert first[one]["affine"] == [0, 0, 0.25, 0, 0, 0.5, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1]
    assert [image["path"].rsplit("/")[-1] for image in first[one]["instances"]] == [f"{n}.dcm" for n in range(4)]
    assert indexed() == first
    (archive / "2.dcm").unlink()
    second = indexed()
    assert second[one]["verdict"] == "missing_slice"
    assert second[other] == first[other]
    for number in range(4):
        (archive / f"other-{number}.dcm").unlink()
    assert set(indexed()) == {one}


def test_an_archive_without_series_has_an_empty_table_before_and_after_there_was_one(archive, indexed, tmp_path):
    assert indexed() == {}
    (archive / "slice").write_bytes(a_slice(0))
    assert len(indexed()) == 1
    (archive / "slice").unlink()
    assert indexed() == {}
    assert Warehouse.at(str(tmp_path / "warehouse")).version("series") == 2


def test_a_multi_frame_object_is_a_stack_by_its_groups(archive, indexed):
    from pydicom.dataset import Dataset

    def item(**attributes):
        dataset = Dataset()
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        return dataset

    groups = {
        "SharedFunctionalGroupsSequence": [
            item(
                PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.5])],
                PlaneOrientationSequence=[item(ImageOrientationPatient=AXIAL)],
            )
        ],
        "PerFrameFunctionalGroupsSequence": [
            item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, z])]) for z in (6, 3, 0)
        ],
    }
    (archive / "enhanced.dcm").write_bytes(make_dicom(np.zeros((3, 4, 6), np.uint16), **groups))
    (row,) = indexed().values()
    assert (row["verdict"], row["slice_spacing_mm"]) == ("uniform", 3)
    assert [image["frame"] for image in row["instances"]] == [2, 1, 0]
