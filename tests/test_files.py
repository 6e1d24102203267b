import os
import tempfile
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from medspark.errors import EmptyFileError, TooLargeError, UnreadableError, VanishedError
from medspark.files import Directory, file_entry, is_inside, read_bytes, real_path, show_path, subdirectories, walk

# What a name must hold to confuse the notation: its own pieces, in any order, and bytes that are not UTF-8.
PIECES = [b"\\", b"x", b"5c", b"\\x", b"\\x5c", b"\\xff", b"\\x7f", b"\\x8", b"89", b"f", b"A", b"\n", b"%20", b"/"]
PIECES += [b"\xff", b"\x80", b"\xc3", b"\xa9", b"\xed\xb2\x80", "é".encode(), "汉".encode()]
names = st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join) | st.binary(max_size=12)

STRANGE_NAMES = [
    b"plain.png", b"with space", b" ", b"new\nline", b"time 12:30", b"per%20cent", b"100%", b"a+b", b"[x]", b"{a,b}",
    b"*", b"?", b"back\\slash", b"\\xff", b"_SUCCESS", b"a.png._COPYING_", b"x.crc", "汉字-患者.dcm".encode(),
    b"latin \xe9", b"\xff\xfe", b"'\"`$(echo)", b"-rf", b"no_extension", b"n" * 255,
]  # fmt: skip


@contextmanager
def nobody():
    """Root may read everything: be somebody else for a moment."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.fixture
def public_directory():
    """A directory that others may enter, which ``tmp_path`` is not."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


def as_root(path):
    """Return a directory to walk, as the listing begins one."""
    facts = path.stat()
    raw = os.fsencode(path)
    return Directory(raw, raw, ancestors=frozenset({(facts.st_dev, facts.st_ino)}))


def listed(path):
    """Return {relative name: entry} of what is found, each name once."""
    entries = list(walk(as_root(path)))
    found = {os.path.relpath(entry.path, os.fsencode(path)): entry for entry in entries}
    assert len(found) == len(entries)
    return found


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@given(names)
@example(b"\\x5c\\x5cxff\xff")
@example(b"\\\xff")
def test_a_shown_path_leads_back_to_the_same_bytes(name):
    assert real_path(show_path(name)) == name


@given(st.text())
def test_a_utf_8_name_without_our_notation_is_shown_as_it_is(name):
    if "\\x" not in name:
        assert show_path(name.encode()) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"/a/b c%20+.png", "/a/b c%20+.png"),
        ("/汉字".encode(), "/汉字"),
        (b"caf\xe9.png", r"caf\xe9.png"),
        (b"\xff\x80", r"\xff\x80"),
        (rb"caf\xe9.png", r"caf\x5cxe9.png"),  # a name that holds the notation itself
        (rb"a\x5cb", r"a\x5cx5cb"),
        (rb"a\b\n\x41\xFF", r"a\b\n\x41\xFF"),  # no odd byte is ever shown like this
    ],
)
def test_a_path_is_shown_as_the_docs_tell(name, shown):
    assert show_path(name) == shown
    assert real_path(shown) == name


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_every_name_is_listed_and_its_file_opens(name, tmp_path):
    path = tmp_path / os.fsdecode(name)
    touch(path)
    (entry,) = walk(as_root(tmp_path))
    assert entry.path == os.fsencode(tmp_path) + b"/" + name
    assert entry == file_entry(entry.path)
    assert (entry.size_bytes, entry.modified_ns) == (1, path.stat().st_mtime_ns)
    assert read_bytes(show_path(entry.path), max_bytes=10) == b"x"


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_every_directory_is_entered(name, tmp_path):
    touch(tmp_path / os.fsdecode(name) / "inside")
    assert list(listed(tmp_path)) == [name + b"/inside"]


def test_partition_like_directories_may_lie_beside_files(tmp_path):
    touch(tmp_path / "a.png", tmp_path / "k=v" / "b.png", tmp_path / "k=w" / "c.png")
    assert list(listed(tmp_path)) == [b"a.png", b"k=v/b.png", b"k=w/c.png"]


def test_hidden_is_what_begins_with_a_dot_or_lies_in_a_directory_that_does(tmp_path):
    touch(*(tmp_path / name for name in (".dot", ".cache/deep/a", "_under", "_dir/a", "in.between/a", "x/.y/z")))
    hidden = {name for name, entry in listed(tmp_path).items() if entry.is_hidden}
    assert hidden == {b".dot", b".cache/deep/a", b"x/.y/z"}


def test_the_place_of_the_root_hides_nothing(tmp_path):
    touch(tmp_path / ".archive" / "a")
    assert not listed(tmp_path / ".archive")[b"a"].is_hidden


def test_a_link_loop_ends_and_lists_nothing_twice(tmp_path):
    touch(tmp_path / "root" / "a", tmp_path / "root" / "deep" / "b")
    for name, target in (("here", "."), ("up", ".."), ("deep/top", ".."), ("deep/absolute", tmp_path / "root")):
        (tmp_path / "root" / name).symlink_to(target)
    assert set(listed(tmp_path / "root")) == {b"a", b"deep/b"}


def test_a_link_to_a_directory_beside_it_lists_nothing_twice(tmp_path):
    touch(tmp_path / "root" / "a" / "x", tmp_path / "root" / "b" / "y")
    (tmp_path / "root" / "b" / "link").symlink_to("../a")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "root" / "b")
    assert set(listed(tmp_path / "root")) == {b"a/x", b"b/y"}


def test_two_directories_outside_that_link_to_each_other_end(tmp_path):
    touch(tmp_path / "one" / "a", tmp_path / "two" / "b")
    (tmp_path / "one" / "two").symlink_to(tmp_path / "two")
    (tmp_path / "two" / "one").symlink_to(tmp_path / "one")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "out").symlink_to(tmp_path / "one")
    assert set(listed(tmp_path / "root")) == {b"out/a", b"out/two/b"}


def test_a_link_out_of_the_root_is_followed(tmp_path):
    touch(tmp_path / "elsewhere" / "a", tmp_path / "elsewhere" / "deep" / "b", tmp_path / "root" / "c")
    (tmp_path / "root" / "out").symlink_to(tmp_path / "elsewhere")
    assert set(listed(tmp_path / "root")) == {b"c", b"out/a", b"out/deep/b"}


def test_a_root_that_is_a_link_is_walked(tmp_path):
    touch(tmp_path / "real" / "a")
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert set(listed(tmp_path / "root")) == {b"a"}


def test_dangling_links_links_to_themselves_and_pipes_are_listed(tmp_path):
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "itself").symlink_to("itself")
    os.mkfifo(tmp_path / "pipe")
    found = listed(tmp_path)
    assert set(found) == {b"dangling", b"itself", b"pipe"}
    assert found[b"dangling"].size_bytes is None
    assert found[b"itself"].modified_ns is None


def test_a_directory_that_may_not_be_read_is_an_entry_of_its_own(public_directory):
    touch(public_directory / "closed" / "a", public_directory / "open" / "b")
    (public_directory / "closed").chmod(0)
    with nobody():
        found = listed(public_directory)
    assert set(found) == {b"closed", b"open/b"}
    assert found[b"closed"].is_unreadable_directory
    assert not found[b"open/b"].is_unreadable_directory


def test_a_link_into_a_directory_that_may_not_be_read_is_listed(public_directory):
    touch(public_directory / "closed" / "inner" / "a", public_directory / "root" / "b")
    (public_directory / "root" / "link").symlink_to(public_directory / "closed" / "inner")
    (public_directory / "closed").chmod(0)
    with nobody():
        assert set(listed(public_directory / "root")) == {b"b", b"link"}


def test_a_deep_tree_is_walked_to_its_end(tmp_path):
    deep = tmp_path.joinpath(*["d"] * 400)
    touch(deep / "a")
    assert list(listed(tmp_path)) == [b"d/" * 400 + b"a"]


def test_a_tree_deeper_than_a_path_may_be_long_is_reported_and_not_fatal(tmp_path, monkeypatch):
    touch(tmp_path / "beside")
    monkeypatch.chdir(tmp_path)
    for _ in range(25):  # a path may have 4096 bytes
        os.mkdir("n" * 200)  # noqa: PTH102 - only relative steps get this deep
        os.chdir("n" * 200)
    found = listed(tmp_path)
    monkeypatch.undo()
    assert b"beside" in found
    assert [entry.is_unreadable_directory for entry in found.values()] == [False, True]


def test_walking_the_subdirectories_one_by_one_finds_the_same_as_walking_all(tmp_path):
    touch(*(tmp_path / name for name in ("a", "b/c", "b/d/e", ".f/g", "h/i/j/k")))
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    root = as_root(tmp_path)
    parts = [*walk(root, is_deep=False)]
    for directory in subdirectories(root):
        parts += walk(directory)
    assert sorted(parts, key=lambda entry: entry.path) == sorted(walk(root), key=lambda entry: entry.path)
    assert subdirectories(Directory(b"/no/such/place", b"/")) == []


def test_a_directory_of_many_files_is_never_held_in_memory(tmp_path):
    for number in range(20_000):
        os.close(os.open(tmp_path / f"IM{number:06d}", os.O_CREAT | os.O_WRONLY))
    (tmp_path / "below").mkdir()
    tracemalloc.start()
    n_files = sum(1 for _ in walk(as_root(tmp_path)))
    (below,) = subdirectories(as_root(tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
    with os.scandir(tmp_path) as children:
        held = list(children)
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (n_files, len(held), below.path) == (20_000, 20_001, os.fsencode(tmp_path / "below"))
    assert peak < size / 20


def test_what_is_read_is_what_was_written(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert read_bytes(str(tmp_path / "a"), max_bytes=len(content)) == content


def test_a_file_that_is_gone_has_vanished_and_so_has_the_end_of_a_dangling_link(tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("gone", "link", "no/such/directory"):
        with pytest.raises(VanishedError):
            read_bytes(str(tmp_path / name), max_bytes=1)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to(path)])
def test_what_is_no_regular_file_is_unreadable_and_nothing_waits_for_it(make, tmp_path):
    make(tmp_path / "it")
    n_open = len(os.listdir("/dev/fd"))  # noqa: PTH208 - a number is wanted
    with pytest.raises(UnreadableError):
        read_bytes(str(tmp_path / "it"), max_bytes=1)
    assert len(os.listdir("/dev/fd")) == n_open  # noqa: PTH208


def test_a_file_that_may_not_be_read_is_unreadable(public_directory):
    touch(public_directory / "a")
    (public_directory / "a").chmod(0)
    with nobody(), pytest.raises(UnreadableError, match="Permission denied"):
        read_bytes(str(public_directory / "a"), max_bytes=1)


def test_an_empty_and_a_large_file_say_so(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "large").write_bytes(b"12345")
    with pytest.raises(EmptyFileError):
        read_bytes(str(tmp_path / "empty"), max_bytes=4)
    with pytest.raises(TooLargeError, match="5 bytes, the limit is 4"):
        read_bytes(str(tmp_path / "large"), max_bytes=4)


def test_messages_about_a_file_do_not_hold_its_name(tmp_path):
    for name in ("Nobody^Test", "missing"):
        if name != "missing":
            (tmp_path / name).mkdir()
        with pytest.raises((UnreadableError, VanishedError)) as caught:
            read_bytes(str(tmp_path / name), max_bytes=1)
        assert name not in str(caught.value)


def test_inside_is_decided_with_links_resolved(tmp_path):
    (tmp_path / "archive" / "inner").mkdir(parents=True)
    (tmp_path / "archive2").mkdir()
    (tmp_path / "link").symlink_to("archive")
    assert is_inside(str(tmp_path / "link" / "inner"), str(tmp_path / "archive"))
    assert is_inside(str(tmp_path / "archive"), str(tmp_path / "archive"))
    assert is_inside("/anything", "/")
    assert not is_inside(str(tmp_path / "archive2"), str(tmp_path / "archive"))
