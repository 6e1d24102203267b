"""Labels find their files, patients stay pseudonyms, and what is wrong with a table of labels is told."""

import pytest
from line import config

from medspark.errors import ConfigError
from medspark.privacy.pseudonym import load_key, pseudonym
from medspark.spark.labels import labelled


def word(patient):
    return pseudonym(load_key(), patient)


FILES = ("a/1.png", "a/2.png", "b/3.dcm", "b/c/4.dcm")


@pytest.fixture(scope="module")
def features(spark):
    """A row for each file, two for the last; the DICOM files know whose they are."""
    patients = (None, None, word("P1"), word("P2"))
    rows = [
        (f"/archive/{name}", frame, patient, patient and f"study of {patient}", "dicom" if patient else None, 0.5)
        for name, patient in zip(FILES, patients, strict=True)
        for frame in ((0, 1) if name == FILES[-1] else (0,))
    ]
    schema = "path string, frame int, patient_id string, study_uid string, modality string, x double"
    return spark.createDataFrame(rows, schema).cache()


@pytest.fixture(scope="module")
def images(spark):
    return spark.createDataFrame(
        [(f"/archive/{name}", name, "X") for name in FILES], "path string, relative_path string, manufacturer string"
    ).cache()


@pytest.fixture
def label(features, images, tmp_path):
    """Label the features with a CSV of these lines; give the named columns of each row, in order."""

    def with_lines(*lines, by="patient", columns=("path", "frame", "label")):
        path = tmp_path / "labels.csv"
        path.write_text("\n".join(lines) + "\n", "utf-8")
        table = labelled(features, images, config("--labels", path, "--set", f"split.by={by}"))
        return sorted(tuple(row) for row in table.select(*columns).collect())

    return with_lines


def test_paths_are_relative_to_the_input_or_absolute(label):
    assert label("path,label", "a/1.png,cat", "/archive/b/3.dcm,dog", "b/c/4.dcm,cat", "/elsewhere/a/2.png,dog") == [
        ("/archive/a/1.png", 0, "cat"),
        ("/archive/b/3.dcm", 0, "dog"),
        ("/archive/b/c/4.dcm", 0, "cat"),
        ("/archive/b/c/4.dcm", 1, "cat"),
    ]


def test_the_order_of_columns_and_names_of_others_do_not_matter(label):
    lines = ("modality,label,x,frame,path,study_uid,side", "CT,cat,9,7,a/1.png,S,left", "MR,dog,8,6,b/3.dcm,T,right")
    assert label(*lines, columns=("path", "frame", "label", "modality", "x", "study_uid", "side")) == [
        ("/archive/a/1.png", 0, "cat", None, 0.5, None, None),
        ("/archive/b/3.dcm", 0, "dog", "dicom", 0.5, f"study of {word('P1')}", None),
    ]


def test_the_patient_of_the_labels_is_the_one_of_the_header(label):
    found = label("path,label,patient_id", "a/1.png,cat,P1", "a/2.png,dog,", "b/3.dcm,dog, P1 ", "b/c/4.dcm,cat,P9",
                  columns=("path", "patient_id", "group"))  # fmt: skip
    assert found == [
        ("/archive/a/1.png", word("P1"), word("P1")),
        ("/archive/a/2.png", None, None),
        ("/archive/b/3.dcm", word("P1"), word("P1")),  # spaces around a DICOM value mean nothing
        ("/archive/b/c/4.dcm", word("P9"), word("P9")),  # the labels know better than the header
        ("/archive/b/c/4.dcm", word("P9"), word("P9")),
    ]


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("patient", [None, word("P1")]),
        ("study", [None, f"study of {word('P1')}"]),
        ("file", ["/archive/a/1.png", "/archive/b/3.dcm"]),
        ("hospital", ["north", "south"]),
    ],
)
def test_who_must_not_be_on_both_sides_is_as_configured(label, by, groups):
    lines = ("path,label,hospital", "a/1.png,cat,north", "b/3.dcm,dog,south")
    assert label(*lines, by=by, columns=("path", "group", "side")) == [
        ("/archive/a/1.png", groups[0], None),
        ("/archive/b/3.dcm", groups[1], None),
    ]


def test_a_split_column_says_the_side_itself(label):
    lines = ("path,label,split,patient_id", "a/1.png,cat,Train,P1", "a/2.png,cat,TEST,P2")
    assert label(*lines, by="split", columns=("path", "side", "group")) == [
        ("/archive/a/1.png", "train", word("P1")),
        ("/archive/a/2.png", "test", word("P2")),
    ]


def test_classes_can_be_the_names_of_directories(features, images):
    table = labelled(features, images, config("--labels-from", "parent", "--set", "split.by=file"))
    found = sorted(tuple(row) for row in table.select("path", "label", "group", "side").collect())
    assert [(label, group == path, side) for path, label, group, side in found] == [
        ("a", True, None), ("a", True, None), ("b", True, None), ("c", True, None), ("c", True, None),
    ]  # fmt: skip


def test_directories_know_no_column_to_split_by(features, images):
    with pytest.raises(
        ConfigError, match=r"split\.by = 'hospital' is a column of --labels; without them: patient, study, file"
    ):
        labelled(features, images, config("--labels-from", "parent", "--set", "split.by=hospital"))


def test_rows_without_a_label_are_left_out(label):
    assert [row[2] for row in label("path,label", "a/1.png,", 'a/2.png,""', "b/3.dcm,dog")] == ["dog"]


def test_the_same_row_twice_is_one_but_two_labels_for_a_file_are_an_error(label):
    assert label("path,label", "a/1.png,cat", "/archive/a/1.png,cat") == [("/archive/a/1.png", 0, "cat")]
    with pytest.raises(ConfigError, match=r"labels: /archive/a/1\.png has two rows that differ; give each file one"):
        label("path,label", "a/1.png,cat", "/archive/a/1.png,dog")


def test_labels_that_name_no_listed_file_are_an_error(label):
    with pytest.raises(ConfigError, match="no row names a listed file; paths are relative to the --input of index"):
        label("path,label", "1.png,cat", "archive/a/2.png,dog")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("path,class", "a/1.png,cat"), "no column label; its first line names the columns"),
        (("a/1.png,MRN-77", "a/2.png,MRN-78"), "no column path, label; its first line names the columns"),
        (("path,label", "a/1.png,cat,MRN-77"), "Row #2: Expected 2 columns, got 3"),
        (("path,label,label", "a/1.png,MRN-77,b"), "two columns are called label"),
    ],
)
def test_what_is_wrong_with_the_table_is_told_without_what_stands_in_it(label, lines, message):
    with pytest.raises(ConfigError) as error:
        label(*lines)
    assert str(error.value).endswith(message)
    assert "MRN" not in str(error.value)


def test_a_column_to_split_by_that_is_not_there_is_named(label):
    with pytest.raises(ConfigError, match="no column hospital;"):
        label("path,label", "a/1.png,cat", by="hospital")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "Failed to open"), (b"", "Empty CSV file"), (b"path,label\n\xe9,b\n", "invalid UTF8")],
)
def test_a_file_that_is_no_table_is_told(features, images, tmp_path, content, message):
    path = tmp_path / "labels.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"--labels {path}: .*{message}"):
        labelled(features, images, config("--labels", path))


def test_without_labels_there_is_nothing_to_learn(features, images):
    with pytest.raises(ConfigError, match="labels is missing: give --labels or labels = "):
        labelled(features, images, config())
