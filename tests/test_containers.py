import gzip
import io
import tarfile
import zipfile

import pytest
from builders import make_png
from hypothesis import given
from hypothesis import strategies as st

from medspark.containers import Archive, read_source, split_path, why_not
from medspark.errors import ImageError
from medspark.files import show_path
from medspark.readers import read_image

PNG = make_png()


def make_zip(members, **options):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, **options) as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return file.getvalue()


def make_tar(members, mode="w:gz"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tape:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tape.addfile(info, io.BytesIO(content))
    return file.getvalue()


def reason_of(path, max_bytes=1 << 20):
    with pytest.raises(ImageError) as caught:
        read_source(str(path), max_bytes=max_bytes)
    return caught.value.reason


@pytest.mark.parametrize("make", [make_zip, make_tar, lambda members: make_tar(members, "w")])
def test_members_are_read_by_the_name_of_the_archive_and_their_own(tmp_path, make):
    members = {"scans/a b.png": PNG, "scans/größe.png": PNG + b"\0", "c.txt": b"text"}
    (tmp_path / "archive").write_bytes(make(members))
    for name, content in members.items():
        assert read_source(f"{tmp_path}/archive!/{name}", max_bytes=1 << 20) == content
    [frame] = read_image(f"{tmp_path}/archive!/scans/a b.png")
    assert (frame.pixels == read_image(PNG)[0].pixels).all()


NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(st.dictionaries(NAMES, st.binary(max_size=50), max_size=4))
def test_an_archive_lists_every_member_with_its_size(members):
    archive = Archive.read(io.BytesIO(make_tar(members, "w")))
    assert {name: archive.size(name) for name in archive.members} == {
        show_path(name.encode()): len(content) for name, content in members.items()
    }
    archive.close()


def test_a_name_that_is_not_utf_8_is_shown_and_read(tmp_path):
    (tmp_path / "a.tar").write_bytes(make_tar({"caf\udce9.png": PNG}, "w"))
    assert read_source(f"{tmp_path}/a.tar!/caf\\xe9.png", max_bytes=1 << 20) == PNG


def test_a_directory_whose_name_looks_like_an_archive_is_a_directory(tmp_path):
    (tmp_path / "odd.zip!").mkdir()
    (tmp_path / "odd.zip!" / "a.png").write_bytes(PNG)
    assert split_path(f"{tmp_path}/odd.zip!/a.png") is None
    assert read_source(f"{tmp_path}/odd.zip!/a.png", max_bytes=1 << 20) == PNG


def test_what_cannot_be_read_has_its_reason(tmp_path):
    (tmp_path / "a.zip").write_bytes(make_zip({"a.png": PNG, "empty.png": b"", "large.png": bytes(5000)}))
    assert reason_of(tmp_path / "gone.zip!/a.png") == "vanished"
    assert reason_of(tmp_path / "a.zip!/gone.png") == "vanished"
    assert reason_of(tmp_path / "a.zip!/empty.png") == "empty_file"
    assert reason_of(tmp_path / "a.zip!/large.png", max_bytes=4999) == "too_large"
    assert read_source(f"{tmp_path}/a.zip!/large.png", max_bytes=5000) == bytes(5000)


def test_a_changed_byte_in_a_member_is_found_by_its_checksum(tmp_path):
    data = bytearray(make_zip({"a.png": PNG}))
    data[60] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(data)
    assert reason_of(tmp_path / "a.zip!/a.png") == "corrupt"


def test_an_archive_that_was_replaced_is_opened_again(tmp_path):
    for content in (b"first", b"second, longer"):
        (tmp_path / "a.zip").write_bytes(make_zip({"a": content}))
        assert read_source(f"{tmp_path}/a.zip!/a", max_bytes=1 << 20) == content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (make_zip({"a.png": PNG})[:-40], "truncated"),
        (make_tar({"a.png": PNG})[:-40], "truncated"),
        (gzip.compress(b"only text"), "unsupported_format"),
        (make_zip({}), "unsupported_format"),
        (make_zip({"inner.zip": make_zip({"a.png": PNG})}), "unsupported_format"),
    ],
)
def test_an_archive_that_gives_no_members_says_why(content, reason):
    assert why_not(content).reason == reason


def test_damage_anywhere_ends_in_a_reason_and_never_in_a_foreign_exception(tmp_path):
    for kind, whole in (("zip", make_zip({"a.png": PNG})), ("tar", make_tar({"a.png": PNG}))):
        for cut in range(4, len(whole), 97):
            damaged = whole[:cut] + bytes([whole[cut] ^ 0x55]) + whole[cut + 1 :]
            (tmp_path / f"{cut}.{kind}").write_bytes(damaged)
            try:
                content = read_source(f"{tmp_path}/{cut}.{kind}!/a.png", max_bytes=1 << 20)
            except ImageError:
                continue
            assert content == PNG  # the changed byte was one that says nothing about the content
