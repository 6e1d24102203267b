import csv
import hashlib
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from builders import make_dicom, make_jpeg, make_pixels, make_png

import medspark
from medspark import errors, read_image
from medspark.errors import ImageError, UnsupportedFormatError
from medspark.frame import DEFAULT_LIMITS
from medspark.readers import read_frames

PIXELS = make_pixels()

# What the packages of a plain install do not decode: refused with this reason, and never decoded to other pixels.
NEEDS_CODECS = {
    "1.2.840.10008.1.2.4.51",  # JPEG, 12-bit
    "1.2.840.10008.1.2.4.57",  # JPEG Lossless
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",  # JPEG-LS
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.201",  # HTJ2K
    "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.4.203",
}


def test_a_path_as_text_as_path_and_its_content_give_the_same(tmp_path):
    path = tmp_path / "Gr\xfc\xdfe 100% \udce9"  # with a byte that is not UTF-8
    path.write_bytes(make_png())
    for source in (path, str(path), make_png()):
        (frame,) = read_image(source)
        np.testing.assert_array_equal(frame.pixels, PIXELS)


def test_the_content_decides_and_not_the_name(tmp_path):
    (tmp_path / "a.png").write_bytes(make_dicom(PIXELS))
    (tmp_path / "b.dcm").write_bytes(make_png())
    (tmp_path / "c").write_bytes(make_jpeg())
    assert [read_image(tmp_path / name)[0].modality for name in ("a.png", "b.dcm", "c")] == ["CT", None, None]


def test_raw_gives_stored_values_and_else_gray_after_the_modality_transform():
    content = make_dicom(PIXELS, RescaleSlope=2, RescaleIntercept=-1024)
    np.testing.assert_array_equal(read_image(content, raw=True)[0].pixels, PIXELS)
    np.testing.assert_array_equal(read_image(content)[0].pixels, PIXELS.astype(int) * 2 - 1024)
    colours = np.dstack([PIXELS, PIXELS // 2, PIXELS // 3])
    assert read_image(make_png(colours), raw=True)[0].pixels.shape == (48, 64, 3)
    assert read_image(make_png(colours))[0].pixels.shape == (48, 64)


def test_a_plain_image_says_nothing_about_a_patient():
    (frame,) = read_image(make_png())
    assert (frame.modality, frame.window, frame.spacing_mm, dict(frame.identity)) == (None, None, None, {})
    assert not frame.is_inverted


@pytest.mark.parametrize("content", [make_png(), make_dicom(PIXELS)], ids=["png", "dicom"])
def test_the_limit_on_pixels_counts_for_every_reader(content):
    with pytest.raises(errors.TooLargeError):
        list(read_frames(content, limits=replace(DEFAULT_LIMITS, max_pixels=100)))


@pytest.mark.parametrize(("head", "kind"), [(b"%PDF-1.7", "pdf"), (b"P7\nWIDTH 1\n", "pam")])
def test_a_known_format_without_a_reader_is_named(head, kind):
    with pytest.raises(UnsupportedFormatError, match=f"no reader for {kind}"):
        read_image(head + b"\0" * 600)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty_file"),
        (b"<html>404</html>", "not_an_image"),
        (make_png()[:100], "truncated"),
        (make_png().replace(b"IDAT", b"IDAX"), "corrupt"),
        (b"%PDF-1.7", "unsupported_format"),
        (make_dicom(PixelData=None), "no_pixel_data"),
        (make_dicom(Rows=65535, Columns=65535), "too_large"),
    ],
)
def test_bad_content_raises_an_image_error_with_its_reason(content, reason):
    with pytest.raises(ImageError) as caught:
        read_image(content)
    assert caught.value.reason == reason


def test_bad_paths_raise_an_image_error_with_their_reason(tmp_path):
    for path, reason in ((tmp_path / "gone", "vanished"), (tmp_path, "unreadable")):
        with pytest.raises(ImageError) as caught:
            read_image(path)
        assert caught.value.reason == reason


def test_every_image_error_has_a_reason_of_its_own():
    kinds = ImageError.__subclasses__()
    assert len(kinds) >= 10
    assert Counter(kind.reason for kind in kinds).most_common(1)[0][1] == 1
    assert all(kind.__name__ in errors.__doc__ and kind.reason in errors.__doc__ for kind in kinds)


def test_read_image_is_a_name_of_the_package():
    assert medspark.read_image is read_image


# The shared data


def digest(frames):
    pixels = np.stack([frame.pixels for frame in frames]) if len(frames) > 1 else frames[0].pixels
    little_endian = pixels.astype(pixels.dtype.newbyteorder("<"))
    return hashlib.sha256(little_endian.tobytes()).hexdigest()


def problem(row, folder):
    """Return what is wrong with the way in which a file is read, by the policy of its row."""
    try:
        frames = read_image(folder / row["path"], raw=True)
    except ImageError as error:
        return None if may_be_refused(row, error.reason) else f"refused: {error.reason}, {error}"
    expected = row["pixel_sha256"]
    if row["policy"] == "reject_or_equal_uncompressed":
        expected = digest(read_image(folder / re.sub("_(deflate|rle)", "", row["path"]), raw=True))
    if expected:  # a lossy JPEG too, though its policy allows a difference: decoders that all build on libjpeg agree
        return None if digest(frames) == expected else f"other pixels than {row['shape']} {row['dtype']}"
    is_allowed = row["policy"] == "optional" or (row["policy"] == "reject_or_flag" and frames[0].flags)
    return None if is_allowed else f"read, though the policy is {row['policy']}"


def may_be_refused(row, reason):
    if row["policy"] == "not_image":
        return reason in {"no_pixel_data", "truncated"}
    if row["policy"] in {"reject", "reject_or_flag", "reject_or_equal_uncompressed", "optional"}:
        return True
    return reason == "unsupported_transfer_syntax" and row["ts"] in NEEDS_CODECS


@pytest.mark.parametrize("table", ["dicom", "formats"])
def test_every_file_of_the_shared_data_is_read_or_refused_as_its_table_says(table, shared_data):
    folder = shared_data / table
    with (folder / "expected.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    problems = {row["path"]: said for row in rows if (said := problem(row, folder))}
    assert len(rows) > 60
    assert problems == {}
