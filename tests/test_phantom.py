import csv
import hashlib
import io
import zlib
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image as PillowImage
from pydicom import uid
from skimage.feature import local_binary_pattern
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from medspark import phantom
from medspark.errors import ConfigError

LOSSY_LEVELS = 8  # OpenCV's JPEG of quality 95 was off by at most 6 grey levels in 127 files of three seeds


def tree(directory):
    """Return {relative path: sha256 of the content} of all files."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def chunks(png):
    """Yield (type, body, stored CRC) of a PNG file, as far as it goes."""
    at = 8
    while at + 12 <= len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        body = png[at + 8 : at + 8 + size]
        yield png[at + 4 : at + 8], body, int.from_bytes(png[at + 8 + size : at + 12 + size], "big")
        at += 12 + size


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    directory = tmp_path_factory.mktemp("phantom") / "archive"
    return directory, phantom.write_archive(directory, patients=36, seed=3)


@pytest.fixture(scope="module")
def files():
    return list(phantom.archive_files(patients=36, seed=3))


@pytest.fixture(scope="module")
def incoming():
    return {file.path: file for file in phantom.incoming_files(seed=3)}


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    phantom.write_archive(tmp_path / "one", patients=4, seed=5)
    phantom.write_archive(tmp_path / "two", patients=4, seed=5)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_another_seed_shares_no_image_with_the_first(tmp_path):
    phantom.write_archive(tmp_path / "one", patients=4, seed=5)
    phantom.write_archive(tmp_path / "two", patients=4, seed=6)
    one, two = (tree(tmp_path / name) for name in ("one", "two"))
    shared = {path for path, digest in one.items() if digest in two.values()}
    assert {Path(path).name for path in shared} == {"empty.dcm", "viewer.jpg", "notes.dcm", ".DS_Store"}


def test_a_patient_is_the_same_in_a_larger_archive(tmp_path):
    phantom.write_archive(tmp_path / "small", patients=2, seed=5)
    phantom.write_archive(tmp_path / "large", patients=5, seed=5)
    small, large = (tree(tmp_path / name) for name in ("small", "large"))
    del small["labels.csv"]
    assert small.items() <= large.items()
    assert not any(path.startswith("PHANTOM-0003") for path in small)


def test_an_archive_is_not_mixed_with_other_files(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="is not empty"):
        phantom.write_archive(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_archive_without_patients_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        phantom.write_archive(tmp_path / "archive", patients=0)


def test_patients_differ_and_have_three_to_ten_images_in_one_or_two_studies(files):
    n_images, n_studies = [], []
    for patient in range(1, 37):
        own = [file.path for file in files if file.path.startswith(phantom.patient_id(patient))]
        assert len(own) == len(set(own))
        n_images.append(len(own))
        n_studies.append(len({path.split("/")[1] for path in own}))
    assert 3 <= min(n_images) < max(n_images) <= 10
    assert set(n_studies) == {1, 2}


def test_every_scanner_is_used_by_both_classes():
    for index, scanner in enumerate(phantom.SCANNERS):
        pair = [list(phantom.patient_files(2 * index + k, seed=3)) for k in (1, 2)]
        kind = f"DICOM {scanner.modality} {scanner.syntax.name}"
        assert all(patient[0].kind == kind for patient in pair)
        assert {patient[0].label for patient in pair} == {"normal", "lesion"}


def test_every_dicom_file_decodes_to_what_was_drawn(files):
    syntaxes = set()
    for file in files:
        if file.pixels is None or file.content[128:132] != b"DICM":
            continue
        dataset = pydicom.dcmread(io.BytesIO(file.content))
        syntax = dataset.file_meta.TransferSyntaxUID
        syntaxes.add(syntax)
        if syntax == uid.JPEGBaseline8Bit:
            assert dataset.pixel_array.shape == file.pixels.shape
            error = np.abs(dataset.pixel_array.astype(int) - file.pixels)
            assert error.max() <= LOSSY_LEVELS, file.path
            assert error.mean() < 1
        else:
            np.testing.assert_array_equal(dataset.pixel_array, file.pixels, err_msg=file.path)
    assert syntaxes == {
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
        uid.JPEGBaseline8Bit,
        uid.JPEG2000Lossless,
    }


def test_every_capture_decodes_to_what_was_drawn(files):
    kinds = set()
    for file in files:
        if file.kind not in {"PNG 8 bit", "PNG 16 bit", "JPEG"}:
            continue
        kinds.add(file.kind)
        decoded = np.asarray(PillowImage.open(io.BytesIO(file.content)))
        error = np.abs(decoded.astype(int) - file.pixels)
        assert error.max() <= (LOSSY_LEVELS if file.kind == "JPEG" else 0), file.path
    assert kinds == {"PNG 8 bit", "PNG 16 bit", "JPEG"}


def test_ct_numbers_are_those_of_air_and_soft_tissue(files):
    stored_signs = set()
    for file in files:
        if "DICOM CT" in file.kind:
            dataset = pydicom.dcmread(io.BytesIO(file.content))
            hounsfield = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
            assert -1000 <= hounsfield[:8, :8].min() <= hounsfield[:8, :8].max() < -900
            side = dataset.Rows // 8
            centre = hounsfield[3 * side : 5 * side, 3 * side : 5 * side]
            assert -300 < np.median(centre) < 300
            stored_signs.add(dataset.PixelRepresentation)
    assert stored_signs == {0, 1}


def test_monochrome1_stores_the_background_bright():
    cr = next(scanner for scanner in phantom.SCANNERS if scanner.photometric == "MONOCHROME1")
    np.testing.assert_array_equal(cr.stored(np.array([[[0.0, 1.0]]])), [[4095, 0]])


def test_the_slices_of_a_series_lie_on_an_even_grid():
    rng = np.random.default_rng(0)
    anatomy = phantom.Anatomy.grow(rng, contrast=0.0)
    series = phantom.series_files(rng, phantom.SCANNERS[0], anatomy, n=4, patient=1, study=1, seed=1)
    slices = [pydicom.dcmread(io.BytesIO(file.content)) for file in series]
    assert np.diff([s.ImagePositionPatient[2] for s in slices]).tolist() == [5.0, 5.0, 5.0]
    assert len({s.SeriesInstanceUID for s in slices}) == len({s.FrameOfReferenceUID for s in slices}) == 1
    assert len({s.SOPInstanceUID for s in slices}) == 4


def test_every_dicom_file_says_that_it_is_synthetic(files):
    for file in files:
        if file.content[128:132] == b"DICM" and file.reason != "truncated":
            dataset = pydicom.dcmread(io.BytesIO(file.content), stop_before_pixels=True)
            assert dataset.Manufacturer == "medspark phantom (synthetic)"
            assert dataset.SeriesDescription.startswith("synthetic")
            assert str(dataset.PatientName).startswith("Phantom^")
            assert dataset.PatientID.startswith("PHANTOM-")
            for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
                assert dataset[keyword].value.startswith(uid.PYDICOM_ROOT_UID)
                assert dataset[keyword].value.is_valid


def test_labels_cover_exactly_the_good_files(archive):
    directory, inventory = archive
    assert inventory.labels == directory / "labels.csv"
    with inventory.labels.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    paths = [row["path"] for row in rows]
    assert len(paths) == len(set(paths)) == inventory.n_good
    assert set(paths) | set(inventory.reasons) == set(tree(directory))
    assert set(paths).isdisjoint(inventory.reasons)
    assert {row["label"] for row in rows} == {"normal", "lesion"}
    labels = {(row["patient_id"], row["label"]) for row in rows}
    assert len(labels) == len({row["patient_id"] for row in rows}) == 36


def test_the_inventory_counts_what_lies_on_disk(archive):
    directory, inventory = archive
    assert inventory.n_good + inventory.n_damaged + 1 == len(tree(directory))  # 1: labels.csv
    assert sum(inventory.kinds.values()) == inventory.n_good + inventory.n_damaged
    assert sum(inventory.classes.values()) == inventory.n_good
    assert len(inventory.reasons) == inventory.n_damaged + 1


def test_damaged_files_are_what_they_say(incoming):
    content = {Path(path).name: file.content for path, file in incoming.items()}
    assert content["empty.dcm"] == b""
    assert content["viewer.jpg"].startswith(b"<!DOCTYPE html>")
    assert content["notes.dcm"].isascii()
    assert content["copy"] == next(phantom.patient_files(1, seed=3)).content
    assert content["really_dicom.png"][128:132] == b"DICM"
    assert "PixelData" not in pydicom.dcmread(io.BytesIO(content["report.dcm"]))


def test_truncated_files_end_before_their_image_does(incoming):
    png, jpeg, dicom = (incoming[f"incoming/cut.{kind}"].content for kind in ("png", "jpg", "dcm"))
    assert b"IEND" not in png
    assert next(kind for kind, *_ in chunks(png)) == b"IHDR"
    assert jpeg[:2] == b"\xff\xd8"
    assert b"\xff\xd9" not in jpeg
    with pytest.raises(OSError, match="truncated"):
        PillowImage.open(io.BytesIO(jpeg)).load()
    dataset = pydicom.dcmread(io.BytesIO(dicom))
    assert 0 < len(dataset.PixelData) < dataset.Rows * dataset.Columns * 2


def test_the_broken_checksum_is_the_only_fault_of_its_png(incoming):
    found = list(chunks(incoming["incoming/checksum.png"].content))
    wrong = [kind for kind, body, crc in found if zlib.crc32(kind + body) != crc]
    assert [found[0][0], found[-1][0]] == [b"IHDR", b"IEND"]
    assert wrong == [b"IDAT"]


def test_lbp_and_a_forest_tell_the_classes_apart_but_not_perfectly(files):
    rows, lesion, patient = [], [], []
    for file in files:
        if file.pixels is not None and file.pixels.ndim == 2:
            grey = cv2.normalize(file.pixels, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
            codes = local_binary_pattern(grey, 16, 2, "uniform")
            rows.append(np.bincount(codes.astype(int).ravel(), minlength=18) / codes.size)
            lesion.append(file.label == "lesion")
            patient.append(file.patient)
    rows, lesion, train = np.array(rows), np.array(lesion), np.array(patient) % 4 < 2  # pairs stay whole
    forest = RandomForestClassifier(100, random_state=42).fit(rows[train], lesion[train])
    auc = roc_auc_score(lesion[~train], forest.predict_proba(rows[~train])[:, 1])
    assert 0.8 < auc < 1.0


def test_sets_for_measurements_have_the_size_and_syntaxes_asked_for(tmp_path):
    phantom.write_png_set(tmp_path / "png", n=3, size=64, seed=1)
    pngs = sorted((tmp_path / "png").iterdir())
    assert [cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape for path in pngs] == [(64, 64)] * 3
    syntaxes = (uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless)
    phantom.write_dicom_set(tmp_path / "dicom", n=6, size=64, syntaxes=syntaxes, seed=1)
    datasets = [pydicom.dcmread(path) for path in sorted((tmp_path / "dicom").rglob("IM*"))]
    assert [dataset.file_meta.TransferSyntaxUID for dataset in datasets] == [*syntaxes, *syntaxes]
    assert all(dataset.pixel_array.shape == (64, 64) for dataset in datasets)


def test_a_picture_is_single_precision_between_zero_and_one():
    rng = np.random.default_rng(0)
    picture = phantom.Anatomy.grow(rng, contrast=0.1).draw(rng, (96, 128), height=0.5)
    assert picture.dtype == np.float32
    assert picture.shape == (96, 128)
    assert 0 <= picture.min() < picture.max() <= 1
