"""Every file of an archive is listed once, whatever it is called, and opens under the name that is shown."""

import hashlib
import hmac
import os

import numpy as np
import pytest
from builders import make_dicom, make_png
from line import RECIPE, last_run, rows, run
from pydicom.uid import ExplicitVRLittleEndian

from medspark.errors import ConfigError
from medspark.files import show_path
from medspark.jobs import extract, index
from medspark.spark import listing
from medspark.spark.listing import list_files

# Names that break Spark's own file listing, percent-decoding, globs, shells or the habit that names are text.
HOSTILE = [
    b"plain.png",
    b"two\nlines.png",
    b"colon:colon.png",
    b"100%20.png",
    b"per cent %.png",
    b"a#fragment.png",
    b"what?.png",
    b"[x].png",
    b"{a,b}.png",
    b"star*.png",
    b"plus+and&.png",
    b"quote'\".png",
    b"back\\slash.png",
    rb"looks\xe9shown.png",
    b"latin-\xe9.png",
    "Röntgen.png".encode(),
    "Ro\u0308ntgen.png".encode(),  # the same to the eye, another name on disk
    "患者.png".encode(),
    b"_under.png",
    b"~tilde",
    b" leading space.png",
    b"-rf",
    b"_dir/inner.png",
    b"day=1/inner.png",
    b"day=1/k=v/inner.png",
    b"[y]/inner.png",
    b"copying.png._COPYING_",
    b"a/b/c/d/e/deep.png",
]
HIDDEN = [b".hidden.png", b".git/inner.png", b"a/.cache/inner.png"]
OTHER = {b".plain.png.crc": "hidden", b"empty": "empty_file", b"nowhere.png": "vanished", b"pipe": "unreadable"}


def values(number):
    """Images that are told apart by their mean, which is ``number``."""
    return np.full((20, 24), number, np.uint8)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile") / "archive"
    for number, name in enumerate([*HOSTILE, *HIDDEN]):
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_png(values(number)))
    (root / ".plain.png.crc").write_bytes(b"crc\0 of another file")
    (root / "empty").touch()
    (root / "nowhere.png").symlink_to("/nowhere at all")
    os.mkfifo(root / "pipe")
    (root / "a/loop").symlink_to("..")
    (root / "a/b/loop").symlink_to(root)
    return root


def shown(archive, name):
    return show_path(os.fsencode(archive) + b"/" + name)


@pytest.fixture(scope="module")
def warehouse(spark, archive, tmp_path_factory):
    warehouse = tmp_path_factory.mktemp("warehouse")
    run(extract, spark, "--input", archive, "--warehouse", warehouse, *RECIPE)
    return warehouse


def test_every_file_is_listed_once_and_links_that_loop_lead_nowhere(archive, warehouse):
    expected = sorted(shown(archive, name) for name in [*HOSTILE, *HIDDEN, *OTHER])
    assert [row["path"] for row in rows(warehouse, "images")] == expected


def test_the_executors_list_what_the_driver_lists_where_it_is_little(spark, archive, monkeypatch):
    few = list_files(spark, (str(archive),))
    monkeypatch.setattr(listing, "_FEW", 34)
    many = list_files(spark, (str(archive),))
    assert sorted(many.collect()) == sorted(few.collect())
    assert (many.count(), is_python(many), is_python(few)) == (35, True, False)


def is_python(table):
    """Tell whether Python workers make the rows."""
    return "MapInArrow" in table._jdf.queryExecution().toString()


def test_every_hostile_name_is_measured_as_the_file_it_is(archive, warehouse):
    means = {row["path"]: row["first_order_mean"] for row in rows(warehouse, "features")}
    assert means == {shown(archive, name): float(number) for number, name in enumerate(HOSTILE)}


def test_a_path_is_shown_as_it_is_and_only_what_is_not_utf_8_is_spelled_out(warehouse):
    names = {row["relative_path"] for row in rows(warehouse, "images")}
    assert {
        "two\nlines.png",
        "100%20.png",
        "what?.png",
        "患者.png",
        r"latin-\xe9.png",
        r"looks\x5cxe9shown.png",
    } <= names


def test_hidden_files_are_skipped_and_what_is_no_file_says_why(warehouse):
    images = {row["relative_path"]: (row["status"], row["reason"]) for row in rows(warehouse, "images")}
    assert {name: images[name.decode()] for name in HIDDEN} == dict.fromkeys(HIDDEN, ("skipped", "hidden"))
    assert {name: images[name.decode()][1] for name in OTHER} == OTHER


def test_a_second_look_finds_nothing_new(spark, archive, warehouse):
    before = rows(warehouse, "images")
    code, printed = run(extract, spark, "--input", archive, "--warehouse", warehouse, *RECIPE)
    assert code == 0
    assert "extract: 35 listed = 0 processed + 28 unchanged + 4 skipped + 3 quarantined" in printed
    assert "index: 35 listed = 0 processed + 31 unchanged + 4 skipped + 0 quarantined" in printed
    ignored = ("status", "reason")
    assert [{**row, **dict.fromkeys(ignored)} for row in rows(warehouse, "images")] == [
        {**row, **dict.fromkeys(ignored)} for row in before
    ]


@pytest.fixture
def found(spark):
    """List inputs, and give the relative paths and where they begin."""

    def listed(*inputs):
        table = list_files(spark, tuple(str(uri) for uri in inputs)).collect()
        return sorted((row["relative_path"], row["input"]) for row in table)

    return listed


def tree(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(make_png())
    return root


def test_a_single_file_is_an_input_even_if_it_is_hidden(found, tmp_path):
    tree(tmp_path, "a/one.png", "a/.two.png")
    assert found(tmp_path / "a/one.png") == [("one.png", f"{tmp_path}/a")]
    assert found(tmp_path / "a/.two.png") == [(".two.png", f"{tmp_path}/a")]


def test_a_glob_begins_where_its_first_wildcard_is(found, tmp_path):
    tree(tmp_path, "x/1/a.png", "x/1/b.txt", "x/2/c.png", "y/1/d.png")
    assert found(tmp_path / "x/*/*.png") == [("1/a.png", f"{tmp_path}/x"), ("2/c.png", f"{tmp_path}/x")]
    assert found(tmp_path / "?") == [
        (name, str(tmp_path)) for name in ("x/1/a.png", "x/1/b.txt", "x/2/c.png", "y/1/d.png")
    ]
    assert found(f"file://{tmp_path}/x/**/*.png") == found(tmp_path / "x/*/*.png")


def test_a_name_with_wildcards_that_exists_is_no_glob(found, tmp_path):
    tree(tmp_path, "[x]/a.png", "x/b.png")
    assert found(tmp_path / "[x]") == [("a.png", f"{tmp_path}/[x]")]


def test_an_input_that_is_not_there_is_told_before_anything_is_done(found, tmp_path):
    with pytest.raises(ConfigError, match=r"no/such: no such file or directory, and as a glob it matches nothing"):
        found(tmp_path, tmp_path / "no/such")
    with pytest.raises(ConfigError, match=r"\*\.dcm: no such file or directory"):
        found(tmp_path / "*.dcm")


def test_inputs_that_overlap_list_a_file_once_from_the_outermost_that_shows_it(spark, tmp_path):
    archive = tree(tmp_path / "archive", "a.png", "sub/b.png", ".inbox/c.png")
    inputs = (archive / "sub", archive, archive / "a.png", archive / "*", archive / ".inbox")
    options = [option for uri in inputs for option in ("--input", uri)]
    run(index, spark, *options, "--warehouse", tmp_path / "warehouse")
    images = rows(tmp_path / "warehouse", "images")
    assert {(row["relative_path"], row["input"], row["status"]) for row in images} == {
        ("a.png", str(archive), "listed"),
        ("sub/b.png", str(archive), "listed"),
        (".inbox/c.png", str(archive), "listed"),  # by the glob, which names it
    }
    assert len(images) == 3


def pseudonym(value):
    return hmac.new(os.environ["MEDSPARK_KEY"].encode(), value.encode(), hashlib.sha256).hexdigest()


def test_headers_are_facts_in_the_table_with_pseudonyms_and_stay_there(spark, tmp_path):
    archive = tree(tmp_path / "archive", "image.png")
    (archive / "ct").write_bytes(make_dicom(PatientID="MRN 77 ", StudyInstanceUID="1.2.9", Manufacturer="Acme"))
    options = ("--input", archive, "--warehouse", tmp_path / "warehouse")
    run(index, spark, *options)
    ct, png = first = rows(tmp_path / "warehouse", "images")
    expected = {
        "format": "dicom", "modality": "CT", "manufacturer": "Acme", "rows": 48, "columns": 64, "n_frames": 1,
        "bits_stored": 16, "photometric_interpretation": "MONOCHROME2", "status": "listed", "reason": None,
        "transfer_syntax_uid": str(ExplicitVRLittleEndian), "patient_id": pseudonym("MRN 77"),
        "study_uid": pseudonym("1.2.9"), "series_uid": pseudonym("1.2.3.4"),
        "size_bytes": (archive / "ct").stat().st_size,
    }  # fmt: skip
    assert {name: ct[name] for name in expected} == expected
    assert {name for name, value in png.items() if value is not None} == {
        "path", "size_bytes", "modified_at", "format", "status", "input", "relative_path",
    }  # fmt: skip
    assert png["format"] == "png"
    run(index, spark, *options)
    assert rows(tmp_path / "warehouse", "images") == first
    assert last_run(tmp_path / "warehouse")["n_unchanged"] == 2


def test_a_header_of_before_is_not_read_again_while_size_and_time_are_the_same(spark, tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    content = make_dicom(Manufacturer="Acme")
    (archive / "ct").write_bytes(content)
    time = (archive / "ct").stat().st_mtime_ns
    options = ("--input", archive, "--warehouse", tmp_path / "warehouse")
    makers = []
    for change, seconds in ((b"Acme", 0), (b"Nobo", 0), (b"Dyne", 1)):
        (archive / "ct").write_bytes(content.replace(b"Acme", change))
        os.utime(archive / "ct", ns=(time, time + seconds * 10**9))
        run(index, spark, *options)
        makers += [row["manufacturer"] for row in rows(tmp_path / "warehouse", "images")]
    assert makers == ["Acme", "Acme", "Dyne"]


@pytest.mark.parametrize("uri", ["{root}", "file://{root}", "{root}/*", "{root}/ware*", "{root}/link"])
def test_a_warehouse_inside_the_input_is_refused(spark, tmp_path, uri):
    tree(tmp_path, "image.png", "warehouse/old.png")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match=r"warehouse .* lies inside the input .*: put it elsewhere"):
        run(index, spark, "--input", uri.format(root=tmp_path), "--warehouse", tmp_path / "warehouse")
    assert list((tmp_path / "warehouse").iterdir()) == [tmp_path / "warehouse/old.png"]
