"""Objects by their URIs, asked from a real S3 server; every question in a child process, as the executors do it."""

import io
import os
import pickle
import time
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from builders import make_dicom, make_pixels, make_png
from hypothesis import given
from hypothesis import strategies as st
from store import BUCKET, OTHER_BUCKET, answer, error, outcome, serving

from medspark import containers, remote
from medspark.containers import read_source
from medspark.errors import ConfigError
from medspark.files import Directory, is_inside, open_file, read_bytes, show_path, subdirectories, walk
from medspark.readers import read_image
from medspark.readers.headers import header
from medspark.remote import Object, Place, is_remote
from medspark.spark.guard import end_idle

ROOT = f"s3://{BUCKET}"
SCRATCH = f"s3://{OTHER_BUCKET}"
BIG = 100 << 20

# What a URI, a glob, a shell, an XML answer or the habit that a key is a path would change.
KEYS = [
    "a/plain.png", "a/with space.png", "a/100%25.png", "a/per%20cent.png", "a/100%", "a/a+b&c.png", "a/汉字-é.png",
    "a/h#ash.png", "a/what?x=1.png", "a/[x]*{a,b}", "a/<x>'\"", "a/back\\slash", "a/looks\\xe9shown", "a/12:30.png",
    "a/@home", "a/day=1/k=v/x.png", "a/deep/er/still", "a/.hidden", "a/.cache/x", "a/in.between/x", "a/ lead",
    "top.png", "a/s3:x", "up.png", "a/dir!/inner.png",
]  # fmt: skip
UNREACHABLE = ["a//double.png", "a/./dot.png", "a/../up.png", "/lead.png", "a///triple", "s3://odd/x"]
MARKS = ["a/mark/", "mark/"]


@pytest.fixture(scope="module")
def store(tmp_path_factory, deploy):
    with serving(tmp_path_factory.mktemp("s3"), deploy) as store:
        store.put({key: key.encode() for key in KEYS + UNREACHABLE} | dict.fromkeys([*MARKS, "a/empty"], b""))
        yield store


@pytest.fixture
def reached(store, monkeypatch):
    """The server, where the environment leads to it."""
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    end_idle()  # it has another environment
    return store


def entries(root, *, is_deep=True):
    return list(walk(Directory(root.encode(), root.encode()), is_deep=is_deep))


def under(root):
    return subdirectories(Directory(root.encode(), root.encode()))


@pytest.mark.usefixtures("reached")
def test_every_object_is_listed_once_under_its_real_key_and_marks_of_directories_are_none():
    found = answer(entries, ROOT)
    keys = [*KEYS, *UNREACHABLE, "a/empty"]
    assert sorted(entry.path.decode() for entry in found) == sorted(f"{ROOT}/{key}" for key in keys)
    assert {entry.size_bytes for entry in found if entry.path.endswith(b"empty")} == {0}
    sizes = {entry.path.decode(): entry.size_bytes for entry in found}
    assert all(sizes[f"{ROOT}/{key}"] == len(key.encode()) for key in KEYS + UNREACHABLE)


def test_the_times_are_those_of_the_store(reached):
    (entry,) = (entry for entry in answer(entries, f"{ROOT}/a") if entry.path.endswith(b"/plain.png"))
    there = reached.client.head_object(Bucket=BUCKET, Key="a/plain.png")["LastModified"]
    assert entry.modified_ns // 10**9 == int(there.timestamp())


@pytest.mark.usefixtures("reached")
def test_every_object_opens_under_the_name_that_is_shown():
    shown = [show_path(f"{ROOT}/{key}".encode()) for key in KEYS]
    assert [answer(read_source, path, max_bytes=100) for path in shown] == [key.encode() for key in KEYS]


@pytest.mark.parametrize("key", UNREACHABLE)
@pytest.mark.usefixtures("reached")
def test_a_key_that_would_be_read_as_another_is_unreadable(key):
    assert error(read_bytes, f"{ROOT}/{key}", max_bytes=100)[0] == "UnreadableError"


@pytest.mark.usefixtures("reached")
def test_hidden_is_what_begins_with_a_dot_or_lies_below_such_a_name():
    hidden = {entry.path.decode() for entry in answer(entries, ROOT) if entry.is_hidden}
    assert hidden == {f"{ROOT}/a/.hidden", f"{ROOT}/a/.cache/x"}
    assert not any(entry.is_hidden for entry in answer(entries, f"{ROOT}/a/.cache"))


@pytest.mark.parametrize("root", [f"{SCRATCH}/b", f"{ROOT}/a"])
def test_listing_the_prefixes_one_by_one_finds_the_same_as_listing_all(reached, root):
    reached.put({f"b/{key}": b"x" for key in ("one", "two/x", "two/y/z", "three x/y%20", "../up")}, OTHER_BUCKET)
    below = answer(under, root)
    parts = answer(entries, root, is_deep=not below)
    for directory in below:
        parts += answer(entries, directory.path.decode())
    assert sorted(entry.path for entry in parts) == sorted(entry.path for entry in answer(entries, root))
    assert len(below) == (3 if root.endswith("b") else 0)  # below a lies a prefix without a name


def test_a_prefix_with_more_objects_than_an_answer_holds_is_listed_whole(reached):
    reached.put({f"many/{number:04}": b"" for number in range(1005)}, OTHER_BUCKET)
    found = [entry.path.decode() for entry in answer(entries, f"{SCRATCH}/many")]
    assert found == [f"{SCRATCH}/many/{number:04}" for number in range(1005)]


def test_a_name_is_that_of_an_object_or_of_a_prefix(reached):
    assert answer(remote.look, f"s3a://{BUCKET}/top.png")[:2] == (f"{ROOT}/top.png", 7)
    for prefix in ("", "/", "/a", "/a/", "/a/deep/er"):
        assert answer(remote.look, ROOT + prefix) is None
    assert error(remote.look, f"{ROOT}/nothing")[0] == "VanishedError"
    assert error(remote.look, "s3://no-such-bucket/x")[0] == "VanishedError"
    reached.put({"both": b"12", "both/x": b""}, OTHER_BUCKET)
    assert answer(remote.look, f"{SCRATCH}/both").size_bytes == 2
    assert answer(remote.look, f"{SCRATCH}/both/") is None


@pytest.mark.usefixtures("reached")
@pytest.mark.parametrize("prefix", ["a//", "a//x", "/lead.png", "a///"])
def test_a_prefix_that_another_would_be_listed_for_is_refused(prefix):
    assert error(remote.look, f"{ROOT}/{prefix}")[0] == "UnreadableError"
    assert error(entries, f"{ROOT}/{prefix}")[0] == "UnreadableError"


@pytest.mark.usefixtures("reached")
def test_an_empty_a_large_and_a_missing_object_say_so_and_not_their_names():
    names = {"a/empty": "EmptyFileError", "a/plain.png": "TooLargeError", "a/gone": "VanishedError"}
    for key, kind in names.items():
        told = error(read_bytes, f"{ROOT}/{key}", max_bytes=4)
        assert told[0] == kind
        assert key not in told[1]


def test_an_image_has_the_pixels_that_its_file_has(reached, tmp_path):
    content = make_png(make_pixels(seed=7))
    (tmp_path / "x.png").write_bytes(content)
    reached.put({"images/röntgen 1.png": content}, OTHER_BUCKET)
    (expected,) = read_image(tmp_path / "x.png")
    for scheme in ("s3", "s3a", "s3n"):
        (frame,) = answer(read_image, f"{scheme}://{OTHER_BUCKET}/images/röntgen 1.png")
        assert np.array_equal(frame.pixels, expected.pixels)


def _header(shown):
    with open_file(shown) as file:
        return header(file)


def test_the_header_of_an_object_with_many_frames_says_what_that_of_its_file_says(reached, tmp_path):
    content = make_dicom(np.stack([make_pixels(seed=seed, dtype=np.uint16) // 64 for seed in range(3)]))
    (tmp_path / "x.dcm").write_bytes(content)
    reached.put({"x.dcm": content}, OTHER_BUCKET)
    facts = answer(_header, f"{SCRATCH}/x.dcm")
    assert facts["n_frames"] == 3
    assert facts == _header(str(tmp_path / "x.dcm"))


def test_a_whole_object_costs_two_requests(reached):
    reached.put({"large": bytes(3 << 20)}, OTHER_BUCKET)
    before = len(reached.requests())
    assert len(answer(read_bytes, f"{SCRATCH}/large", max_bytes=BIG)) == 3 << 20
    assert reached.requests()[before:] == [f"HEAD /{OTHER_BUCKET}/large", f"GET /{OTHER_BUCKET}/large"]


def _zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as bundle:
        for name, member in files.items():
            bundle.writestr(name, member)
    return content.getvalue()


def _members(uri, names):
    return [read_source(f"{uri}!/{name}", max_bytes=BIG) for name in names]


def test_the_members_of_an_archive_are_fetched_with_one_request_and_anew_when_it_changes(reached):
    files = {f"in/{name}.png": name.encode() * 1000 for name in "abcd"}
    reached.put({"study.zip": _zipped(files)}, OTHER_BUCKET)
    before = len(reached.requests())
    assert answer(_members, f"{SCRATCH}/study.zip", files) == list(files.values())
    assert reached.requests()[before:].count(f"GET /{OTHER_BUCKET}/study.zip") == 1
    reached.put({"study.zip": _zipped(dict.fromkeys(files, b"x" * 1000))}, OTHER_BUCKET)
    assert answer(_members, f"{SCRATCH}/study.zip", files) == [b"x" * 1000] * 4
    reached.delete("study.zip", bucket=OTHER_BUCKET)
    assert error(_members, f"{SCRATCH}/study.zip", files)[0] == "VanishedError"


def _piecewise(uri, names):
    containers.WHOLE_BYTES = 10  # in this process alone
    return _members(uri, names)


def test_a_large_archive_is_read_where_its_members_lie(reached):
    files = {f"{number}": bytes([number]) * 200_000 for number in range(4)}
    reached.put({"large.zip": _zipped(files)}, OTHER_BUCKET)
    before = len(reached.requests())
    assert answer(_piecewise, f"{SCRATCH}/large.zip", files) == list(files.values())
    assert reached.requests()[before:].count(f"GET /{OTHER_BUCKET}/large.zip") > len(files)
    end_idle()  # its limit is another one


def test_what_may_not_be_read_is_unreadable_and_wrong_credentials_say_so_without_the_secret(
    tmp_path, monkeypatch, deploy
):
    with serving(tmp_path, deploy) as store:
        store.put({"open.png": b"x", "closed.png": b"x"})
        user = store.allow("nurse", but="closed.png")
        for name, value in store.environment(*user).items():
            monkeypatch.setenv(name, value)
        end_idle()
        assert answer(read_bytes, f"{ROOT}/open.png", max_bytes=9) == b"x"
        assert error(read_bytes, f"{ROOT}/closed.png", max_bytes=9) == (
            "UnreadableError", "cannot be opened: access denied",
        )  # fmt: skip
        assert len(answer(entries, ROOT)) == 2
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
        end_idle()
        kind, message = error(entries, ROOT)
        assert (kind, message) == ("UnreadableError", "cannot be listed: signature does not match")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")  # by a profile, as good as by the environment
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        monkeypatch.setenv("AWS_PROFILE", "ward")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        (tmp_path / "config").write_text(
            f"[profile ward]\nendpoint_url = {store.endpoint}\naws_access_key_id = {user[0]}\n"
            f"aws_secret_access_key = {user[1]}\n"
        )
        end_idle()
        assert answer(read_bytes, f"{ROOT}/open.png", max_bytes=9) == b"x"


@pytest.mark.usefixtures("reached")
def test_an_endpoint_that_does_not_answer_is_told_within_seconds(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")  # it comes before AWS_ENDPOINT_URL
    end_idle()
    start = time.monotonic()
    for function in (remote.look, entries):
        assert "network connection" in error(function, ROOT)[1]
    assert error(read_bytes, f"{ROOT}/top.png", max_bytes=9) == (
        "UnreadableError", "cannot be opened: network connection",
    )  # fmt: skip
    assert time.monotonic() - start < 20


def _used_then_forked():
    read_bytes(f"{ROOT}/top.png", max_bytes=9)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(theirs, pickle.dumps(outcome((read_bytes, (f"{ROOT}/top.png",), {"max_bytes": 9}))))
        os._exit(0)
    os.waitpid(child, 0)
    return pickle.loads(os.read(ours, 10_000))  # noqa: S301


@pytest.mark.usefixtures("reached")
def test_a_child_of_a_process_that_used_a_store_is_refused_and_does_not_crash():
    kind, message = answer(_used_then_forked)
    assert kind == "UnreadableError"
    assert "forked" in message
    end_idle()


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIA:hunter2@bucket/key", "s3://AKIA:hun/ter2@bucket/key", "s3://hunter2@bucket", "s3://",
        "s3:///hunter2", "gs://user:hunter2@bucket", "abfs://user:hunter2@account/x", "hdfs://user:hunter2@host:8020/",
        "viewfs://user:hunter2@table/x", "abfs:///hunter2",
        "s3a://bucket?secret_key=hunter2",
    ],
)  # fmt: skip
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri):
    with pytest.raises(ConfigError, match="environment") as caught:
        Place.of(uri)
    assert "ter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("s3://b.c-d", ("s3", "b.c-d", "")),
        ("s3a://b/x/y", ("s3", "b", "x/y")),
        ("s3n://b//x?y#z%20", ("s3", "b", "/x?y#z%20")),
        ("gs://b/user:password@x", ("gs", "b", "user:password@x")),
        ("abfs://box@account.dfs.core.windows.net/x", ("abfs", "box@account.dfs.core.windows.net", "x")),
        ("hdfs://name:8020/x", ("hdfs", "name:8020", "x")),
        ("ofs://service/volume/bucket/100%25", ("ofs", "service", "volume/bucket/100%25")),
        ("o3fs://bucket.volume.service/x", ("o3fs", "bucket.volume.service", "x")),
        ("viewfs://table/x", ("viewfs", "table", "x")),
        ("viewfs:///archive/x", ("viewfs", "", "archive/x")),  # without a host: that of the configuration
        ("viewfs://", ("viewfs", "", "")),
    ],
)
def test_a_uri_is_taken_apart_and_nothing_in_it_is_decoded(uri, place):
    assert Place.of(uri) == place
    assert Place.of(Place.of(uri).uri) == place


@given(st.text())
def test_no_path_that_begins_with_a_slash_is_in_a_store(text):
    assert not is_remote(f"/{text}")


def test_what_has_no_known_scheme_is_in_no_store():
    assert not any(map(is_remote, ("s3", "s3:/b", "s3//b", "file:///s3://b", "http://b/x", "x.zip!/s3://b", "")))


def test_a_local_path_never_lies_in_a_store_nor_a_key_in_a_directory():
    assert is_inside("s3a://b/x/y", "s3://b/x/")
    assert is_inside("s3://b/x", "s3://b")
    assert not is_inside("s3://b/xy", "s3://b/x")
    assert not is_inside("/b/x", "s3://b")
    assert not is_inside("s3://b/x", "/")


@given(
    content=st.binary(max_size=50),
    moves=st.lists(st.tuples(st.sampled_from(["read", "seek", "end", "on"]), st.integers(0, 60)), max_size=12),
)
def test_an_object_reads_as_a_file_does(content, moves):
    file, expected = io.BufferedReader(Object(pa.BufferReader(content)), 8), io.BytesIO(content)
    for move, number in moves:
        if move == "read":
            assert file.read(number) == expected.read(number)
        else:
            where = {"seek": (number,), "end": (-min(number, len(content)), os.SEEK_END), "on": (number, os.SEEK_CUR)}
            assert file.seek(*where[move]) == expected.seek(*where[move])
        assert file.tell() == expected.tell()
    assert file.read() == expected.read()
