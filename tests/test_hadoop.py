"""Files behind a mount table that only Hadoop's own client reads, against the same files on the disk.

Every question is asked in a child process, as the executors do it.
"""

import ctypes
import faulthandler
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from builders import make_pixels, make_png
from store import answer, error

from medspark import remote
from medspark.errors import ConfigError
from medspark.files import Directory, open_file, read_bytes, show_path, subdirectories, walk
from medspark.readers import read_image
from medspark.spark.guard import Death, end_idle, guarded
from medspark.warehouse import Warehouse

ROOT = "viewfs:///archive"
BIG = (3 << 20) + 7  # several pieces of what crosses over at once
# What a URI, a pattern, a shell or the habit that a name is a path would change.
NAMES = [
    "plain.png", "with space", " ", "new\nline", "per%20cent", "100%", "100%25", "a+b&c", "[x]*{a,b}", "*", "?",
    "what?x=1", "h#ash", "back\\slash", "\\xff", "_SUCCESS", "x._COPYING_", "x.crc", ".x.crc", ".hidden/x", "'\"`$(x)",
    "-rf", "~home", "n" * 255, "汉字-é.dcm", "e\u0301", "😀.png", "\u00a0x\u2028", "\x01", "day=1/k=v/x", "dir!/x",
    "deep/er/12:30",
]  # fmt: skip


def environment(home, mounts):
    """Return the variables of a configuration whose mount table leads from names to directories."""
    properties = "".join(
        f"<property><name>fs.viewfs.mounttable.default.link./{name}</name><value>{directory.as_uri()}</value></property>"
        for name, directory in mounts.items()
    )
    (home / "core-site.xml").write_text(f"<configuration>{properties}</configuration>")
    return {"HADOOP_CONF_DIR": str(home)}


@pytest.fixture
def archive(monkeypatch):
    """A directory, that others than root may enter, at the end of a mount table."""
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        place = Path(home, "archive")
        place.mkdir()
        for name, value in environment(Path(home), {"archive": place}).items():
            monkeypatch.setenv(name, value)
        end_idle()
        yield place
    end_idle()


def put(archive, files):
    for name, content in files.items():
        (archive / name).parent.mkdir(parents=True, exist_ok=True)
        (archive / name).write_bytes(content)


def on_disk(archive):
    """Return {path in the mount table: (size, time in ms)} of the files that the disk has."""
    paths = [Path(place, name) for place, _, names in os.walk(archive) for name in names]
    facts = {f"{ROOT}/{path.relative_to(archive)}".encode(): path.stat() for path in paths}
    return {path: (each.st_size, each.st_mtime_ns // 10**6) for path, each in facts.items()}


def entries(root, *, is_deep=True):
    return list(walk(Directory(root.encode(), root.encode()), is_deep=is_deep))


def under(root):
    return [directory.path.decode() for directory in subdirectories(Directory(root.encode(), root.encode()))]


def listed(root):
    found = answer(entries, root)
    assert len({entry.path for entry in found}) == len(found)
    return {entry.path: (entry.size_bytes, (entry.modified_ns or 0) // 10**6) for entry in found}


@pytest.mark.parametrize("root", [ROOT, "viewfs:///", "viewfs://"])
def test_every_file_is_listed_under_its_name_with_its_size_and_time(archive, root):
    put(archive, {f"a/{name}": name.encode() for name in NAMES} | {"b/c/empty": b""})
    assert listed(root) == on_disk(archive)
    assert len(on_disk(archive)) == len(NAMES) + 1


def test_hidden_is_what_begins_with_a_dot_or_lies_below_such_a_name(archive):
    put(archive, dict.fromkeys((".x", "a/.y/z", "a/z"), b"x"))
    hidden = {entry.path.decode() for entry in answer(entries, ROOT) if entry.is_hidden}
    assert hidden == {f"{ROOT}/.x", f"{ROOT}/a/.y/z"}


def test_listing_the_directories_one_by_one_finds_the_same_as_listing_all(archive):
    put(archive, dict.fromkeys(("top", "a/x", "a/b/y", "c d/z", "100%25/z"), b"x"))
    below = answer(under, ROOT)
    assert below == [f"{ROOT}/{name}" for name in ("100%25", "a", "c d")]
    parts = answer(entries, ROOT, is_deep=False) + [entry for root in below for entry in answer(entries, root)]
    assert sorted(entry.path for entry in parts) == sorted(on_disk(archive))
    assert answer(under, "viewfs:///") == [ROOT]


def test_every_file_has_its_content(archive):
    big = np.random.default_rng(3).bytes(BIG)
    put(archive, {f"a/{name}": name.encode() for name in NAMES} | {"big": big})
    shown = [show_path(f"{ROOT}/a/{name}".encode()) for name in NAMES]
    assert [answer(read_bytes, path, max_bytes=300) for path in shown] == [name.encode() for name in NAMES]
    assert answer(read_bytes, f"{ROOT}/big", max_bytes=BIG) == big


def _parts(uri, places):
    with open_file(uri) as file:
        found = []
        for start, n_bytes in places:
            file.seek(start)
            found.append(file.read(n_bytes))
        return found


def test_parts_of_a_file_are_those_of_the_disk_whatever_their_order(archive):
    put(archive, {"big": np.random.default_rng(4).bytes(BIG)})
    places = [(BIG - 5, 5), (0, 3), (1 << 20, 9), ((1 << 20) - 4, 2 << 20), (17, 100_000), (BIG - 1, 50), (BIG, 1)]
    assert answer(_parts, f"{ROOT}/big", places) == _parts(str(archive / "big"), places)


def test_an_image_has_the_pixels_that_its_file_has(archive):
    put(archive, {"röntgen 1.png": make_png(make_pixels(seed=7))})
    (expected,) = read_image(archive / "röntgen 1.png")
    (frame,) = answer(read_image, f"{ROOT}/röntgen 1.png")
    assert np.array_equal(frame.pixels, expected.pixels)


def test_a_name_is_that_of_a_file_or_of_a_directory(archive):
    put(archive, {"a/x": b"12"})
    assert answer(remote.look, f"{ROOT}/a/x")[:2] == (f"{ROOT}/a/x", 2)
    for directory in (ROOT, f"{ROOT}/", f"{ROOT}/a", f"{ROOT}/a/", "viewfs:///", "viewfs://"):
        assert answer(remote.look, directory) is None
    for missing in (f"{ROOT}/nothing", "viewfs:///nothing", f"{ROOT}/a/x/y"):
        assert error(remote.look, missing) == ("VanishedError", "the object is gone")


def test_what_is_empty_too_large_gone_or_a_directory_says_so_and_not_its_name(archive):
    put(archive, {"empty": b"", "large": b"12345", "inside/x": b"x"})
    kinds = {"empty": "EmptyFileError", "large": "TooLargeError", "gone": "VanishedError", "inside": "UnreadableError"}
    for name, kind in kinds.items():
        told = error(read_bytes, f"{ROOT}/{name}", max_bytes=4)
        assert told[0] == kind
        assert name not in told[1].split("/")
    assert answer(entries, f"{ROOT}/gone") == []


def _cut_while_open(uri, path):
    with open_file(uri) as file:
        os.truncate(path, 10)
        try:
            return len(file.read())
        except OSError as refused:
            return str(refused)


def test_a_file_that_shrinks_while_it_is_read_is_an_error_and_not_a_shorter_file(archive):
    put(archive, {"big": bytes(BIG)})
    assert answer(_cut_while_open, f"{ROOT}/big", str(archive / "big")) == "[Errno 5] Input/output error"


def _as_nobody(function, *args, **options):
    if os.geteuid() == 0:  # who may read everything; this is a process of its own
        os.seteuid(65534)
    return function(*args, **options)


def test_what_may_not_be_read_is_unreadable_and_a_directory_that_may_not_be_listed_fails_the_listing(archive):
    put(archive, {"closed.png": b"x", "shut/x.png": b"x"})
    (archive / "closed.png").chmod(0)
    (archive / "shut").chmod(0)
    told = error(_as_nobody, read_bytes, f"{ROOT}/closed.png", max_bytes=9)
    assert told == ("UnreadableError", "cannot be opened: access denied")
    assert error(_as_nobody, entries, ROOT) == ("UnreadableError", "cannot be listed: input/output error")
    (archive / "shut").chmod(0o755)
    end_idle()


def test_what_hadoop_passes_over_on_a_disk_is_listed_and_cannot_be_read(archive):
    put(archive, {"a/x": b"x"})
    Path(os.fsdecode(os.fsencode(archive) + b"/a/latin \xe9")).write_bytes(b"x")
    (archive / "a/nowhere").symlink_to("nothing")
    (archive / "a/around").symlink_to(".")
    (archive / "a/link").symlink_to("x")
    found = {entry.path.rpartition(b"/")[2]: entry.size_bytes for entry in answer(entries, ROOT)}
    assert found == {b"x": 1, b"link": 1, b"latin \xe9": None, b"nowhere": None, b"around": None}
    odd = (b"latin \xe9", b"nowhere", b"around")
    told = {name: error(read_bytes, show_path(f"{ROOT}/a/".encode() + name), max_bytes=9) for name in odd}
    assert told == {
        b"latin \xe9": ("UnreadableError", "cannot be opened: a name that is not UTF-8"),
        b"nowhere": ("VanishedError", "the object is gone"),
        b"around": ("UnreadableError", "cannot be opened: a directory"),
    }


def test_a_name_that_hadoop_does_not_take_fails_the_listing(archive):
    put(archive, {"12:30.png": b"x"})
    expected = "cannot be listed: a name that Hadoop does not take, such as one with a colon"
    assert error(entries, ROOT) == ("UnreadableError", expected)


@pytest.mark.usefixtures("archive")
@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("hdfs://127.0.0.1:1/x", "looked at: network connection"),
        ("webhdfs://127.0.0.1:1/x", "looked at: network connection"),
        ("hdfs://no-such-host.invalid/x", "reached: unknown host"),
        ("hdfs:///x", "reached: not configured (HADOOP_CONF_DIR)"),
        ("viewfs://another/x", "reached: not configured (HADOOP_CONF_DIR)"),
        ("ofs://service/x", "reached: no client of this scheme among the jars (HADOOP_CLASSPATH)"),
        ("wasb://box@account/x", "reached: no client of this scheme among the jars (HADOOP_CLASSPATH)"),
    ],
)
def test_who_does_not_answer_is_told_within_seconds(uri, kind):
    start = time.monotonic()
    assert error(remote.look, uri) == ("UnreadableError", f"cannot be {kind}")
    assert time.monotonic() - start < 20


def _read_by(uri):
    if "jpype" not in sys.modules:
        faulthandler.disable()  # that of pytest, which workers have not
    length = len(read_bytes(uri, max_bytes=BIG))
    return ctypes.string_at(0) if uri.endswith("fault") else length


def test_a_fault_of_a_decoder_beside_java_costs_that_file_alone(archive, capfd):
    put(archive, {"x": b"123", "fault": b"x"})
    items = [f"{ROOT}/{name}" for name in ("x", "fault", "x")]
    found = list(guarded(_read_by, items, seconds=60, memory_mb=1024))
    assert found == [3, Death("crashed", "took the process down (signal SIGSEGV)"), 3]
    end_idle()
    assert capfd.readouterr() == ("", "")


def _room(uri, n_bytes):
    return len(read_bytes(uri, max_bytes=9)) + len(bytearray(n_bytes))


def test_java_leaves_room_in_the_least_memory_of_a_child(archive):
    put(archive, {"x": b"123"})
    (found,) = guarded(lambda n_bytes: _room(f"{ROOT}/x", n_bytes), [300 << 20], seconds=60, memory_mb=1024)
    assert found == 3 + (300 << 20)
    end_idle()


WITHOUT = """
import sys
sys.modules["jpype"] = None
from medspark.jobs import index
from medspark.config import load, parser
index.require_places(load(parser("index", "").parse_args(["--input", "viewfs:///archive", "--warehouse", sys.argv[1]])))
"""


def test_without_the_package_the_way_out_is_told(tmp_path):
    told = subprocess.run([sys.executable, "-c", WITHOUT, tmp_path], capture_output=True, text=True, check=False)
    assert "pip install 'medspark[hadoop]'" in told.stderr.splitlines()[-1]
    assert told.stderr.splitlines()[-1].startswith("medspark.errors.ConfigError: --input viewfs:///archive: ")


def _path_of_classes():
    from medspark.hadoop import _class_path

    return _class_path()


def test_the_class_path_is_the_configuration_then_spark_then_what_is_added(monkeypatch):
    for name in ("YARN_CONF_DIR", "SPARK_DIST_CLASSPATH", "CLASSPATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("SPARK_HOME", raising=False)
    monkeypatch.setenv("HADOOP_CONF_DIR", "/conf")
    monkeypatch.setenv("HADOOP_CLASSPATH", f"/a.jar{os.pathsep}/b/*")
    import pyspark

    assert [entry for entry in _path_of_classes() if entry] == [
        "/conf", f"{Path(pyspark.__file__).parent}/jars/*", "/a.jar", "/b/*",
    ]  # fmt: skip


@pytest.mark.usefixtures("archive")
def test_nothing_is_written_there():
    with pytest.raises(ConfigError, match="only s3:// can hold a warehouse"):
        Warehouse.at("viewfs:///archive/warehouse")
    assert error(remote.put_object, f"{ROOT}/x", b"x") == ("UnreadableError", "cannot be written: viewfs:// is for inputs only")  # fmt: skip  # noqa: E501
