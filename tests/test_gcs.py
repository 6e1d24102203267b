"""Google's store, asked from an emulator of it; every question in a child process, as the executors do it."""

import io
import os
import socket
import subprocess
import time
import urllib.request
import zipfile
from contextlib import contextmanager
from urllib.parse import quote

import numpy as np
import pytest
from builders import make_pixels, make_png
from store import answer, error

from medspark import remote
from medspark.containers import read_source
from medspark.files import Directory, read_bytes, show_path, subdirectories, walk
from medspark.readers import read_image
from medspark.spark.guard import end_idle

BUCKET = "archive"
ROOT = f"gs://{BUCKET}"
KEYS = [
    "a/plain.png", "a/with space.png", "a/100%25.png", "a/100%", "a/a+b&c.png", "a/汉字-é.png", "a/h#ash.png",
    "a/what?x=1.png", "a/[x]*{a,b}", "a/back\\slash", "a/12:30.png", "a/deep/er/still", "a/.hidden", "b/x", "top.png",
]  # fmt: skip
MARK = "a/mark/"
BIG = 100 << 20


class Server:
    """An emulator, written to by the interface of Google's store and not by the client that is tested."""

    def __init__(self, endpoint):
        self.endpoint = endpoint

    def put(self, files):
        for key, content in files.items():
            target = f"{self.endpoint}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={quote(key, safe='')}"
            kind = {"Content-Type": "application/octet-stream"}
            urllib.request.urlopen(urllib.request.Request(target, content, kind)).close()  # noqa: S310 - our own

    def delete(self, key):
        target = f"{self.endpoint}/storage/v1/b/{BUCKET}/o/{quote(key, safe='')}"
        urllib.request.urlopen(urllib.request.Request(target, method="DELETE")).close()  # noqa: S310 - our own


@contextmanager
def serving(directory, tools):
    """Run an emulator with an empty bucket, by the Python among the tools; its log lies in the directory."""
    if not list(tools.parent.glob("lib/python*/site-packages/gcp_storage_emulator")):
        if os.environ.get("CI") == "true":
            pytest.fail("CI needs gcp-storage-emulator: make deploy")
        pytest.skip("there is no gcp-storage-emulator: make deploy")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [tools / "python", "-m", "gcp_storage_emulator", "start", "--host=127.0.0.1", f"--port={port}"]
    log = directory / "server.log"
    with log.open("wb") as file:
        server = subprocess.Popen([*command, "--in-memory", f"--default-bucket={BUCKET}"], stdout=file, stderr=file)
    try:
        while not _answers(port):
            assert server.poll() is None, log.read_text("utf-8")
            time.sleep(0.05)
        yield Server(f"http://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait()


def _answers(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture(scope="module")
def emulator(tmp_path_factory, deploy):
    with serving(tmp_path_factory.mktemp("gcs"), deploy) as server:
        server.put({key: key.encode() for key in KEYS} | {MARK: b"x", f"{MARK}x": b"x"})
        yield server


@pytest.fixture
def store(emulator, monkeypatch):
    """The emulator, where the environment leads to it."""
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", emulator.endpoint)
    end_idle()  # it has another environment
    yield emulator
    end_idle()


def entries(root, *, is_deep=True):
    return list(walk(Directory(root.encode(), root.encode()), is_deep=is_deep))


@pytest.mark.usefixtures("store")
def test_every_object_is_listed_once_under_its_real_key_and_marks_of_directories_are_none():
    found = {entry.path.decode(): entry.size_bytes for entry in answer(entries, ROOT)}
    assert found == {f"{ROOT}/{key}": len(key.encode()) for key in KEYS} | {f"{ROOT}/{MARK}x": 1}
    assert {entry.path.decode() for entry in answer(entries, ROOT) if entry.is_hidden} == {f"{ROOT}/a/.hidden"}


@pytest.mark.usefixtures("store")
def test_every_object_opens_under_the_name_that_is_shown():
    shown = [show_path(f"{ROOT}/{key}".encode()) for key in KEYS]
    assert [answer(read_source, path, max_bytes=100) for path in shown] == [key.encode() for key in KEYS]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("root", [ROOT, f"{ROOT}/a"])
def test_listing_the_prefixes_one_by_one_finds_the_same_as_listing_all(root):
    below = answer(under, root)
    parts = [entry for prefix in below for entry in answer(entries, prefix)]
    parts += answer(entries, root, is_deep=not below)
    assert sorted(entry.path for entry in parts) == sorted(entry.path for entry in answer(entries, root))


def under(root):
    return [directory.path.decode() for directory in subdirectories(Directory(root.encode(), root.encode()))]


@pytest.mark.usefixtures("store")
def test_a_name_is_that_of_an_object_or_of_a_prefix():
    assert answer(remote.look, f"{ROOT}/top.png")[:2] == (f"{ROOT}/top.png", 7)
    for prefix in ("", "/", "/a", "/a/", "/a/deep/er"):
        assert answer(remote.look, ROOT + prefix) is None
    for missing in (f"{ROOT}/nothing", "gs://no-such-bucket/x"):
        assert error(remote.look, missing)[0] == "VanishedError"


def test_the_members_of_an_archive_are_read_anew_when_it_changes(store):
    for content in (b"x", b"y"):  # of one size; the child that reads is the same
        store.put({"study.zip": zipped(content)})
        assert answer(read_source, f"{ROOT}/study.zip!/inner", max_bytes=BIG) == content
    store.delete("study.zip")
    assert error(read_source, f"{ROOT}/study.zip!/inner", max_bytes=BIG)[0] == "VanishedError"


def zipped(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as bundle:
        bundle.writestr("inner", content)
    return file.getvalue()


def test_an_image_has_the_pixels_that_its_file_has_and_a_missing_one_is_vanished(store, tmp_path):
    content = make_png(make_pixels(seed=7))
    (tmp_path / "x.png").write_bytes(content)
    store.put({"röntgen 1.png": content})
    (expected,) = read_image(tmp_path / "x.png")
    (frame,) = answer(read_image, f"{ROOT}/röntgen 1.png")
    assert np.array_equal(frame.pixels, expected.pixels)
    store.delete("röntgen 1.png")
    assert error(read_bytes, f"{ROOT}/röntgen 1.png", max_bytes=BIG) == ("VanishedError", "the object is gone")
