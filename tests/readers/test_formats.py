import io
import tarfile
import zipfile

import numpy as np
import pytest
import tifffile
from builders import make_dicom, make_jpeg, make_pixels, make_png
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from medspark.readers.formats import HEAD_BYTES, bare_dicom_offset, sniff


def by_pillow(kind, **options):
    file = io.BytesIO()
    Pillow.fromarray(make_pixels()).save(file, kind, **options)
    return file.getvalue()


def by_tifffile(**options):
    file = io.BytesIO()
    tifffile.imwrite(file, make_pixels(), **options)
    return file.getvalue()


def by_numpy(pixels):
    file = io.BytesIO()
    np.save(file, pixels)
    return file.getvalue()


def archive(kind):
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as made:
            made.writestr("a", b"b")
    else:
        with tarfile.open(fileobj=file, mode=kind) as made:
            made.addfile(tarfile.TarInfo("a"))
    return file.getvalue()


def bare(syntax=None, **attributes):
    """A data set as a careless tool leaves it: no preamble, no file meta information."""
    content = make_dicom(preamble=True, **attributes) if syntax is None else make_dicom(syntax=syntax, **attributes)
    start = 132 + 12 + int.from_bytes(content[140:144], "little")  # (0002,0000) tells how long the group is
    return content[start:]


BIG_ENDIAN_BARE = bare(ExplicitVRBigEndian, pixels=make_pixels().astype(">u2"))

CONTENTS = {
    "png": [make_png(), make_png(make_pixels(dtype=np.uint16))],
    "jpeg": [make_jpeg(), by_pillow("JPEG", progressive=True)],
    "tiff": [by_tifffile(byteorder=order, bigtiff=big) for order in "<>" for big in (False, True)],
    "bmp": [by_pillow("BMP")],
    "gif": [by_pillow("GIF"), b"GIF87a" + by_pillow("GIF")[6:]],
    "webp": [by_pillow("WEBP"), by_pillow("WEBP", lossless=True)],
    "jpeg2000": [by_pillow("JPEG2000"), by_pillow("JPEG2000", no_jp2=True)],
    "pnm": [
        by_pillow("PPM"),
        b"P2 1 1 255 7",
        b"P3\n1 1 255 7 8 9",
        b"P6 1 1 255\n789",
        b"P1 1 1 0",
        b"P4\n# by hand\n1 1\n\0",
    ],
    "pam": [b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nENDHDR\n\0"],
    "dicom": [
        make_dicom(),
        make_dicom(syntax=ImplicitVRLittleEndian),
        make_dicom(preamble=False),
        bare(),
        bare(ImplicitVRLittleEndian),
        BIG_ENDIAN_BARE,
        b"\0" + bare(),
        b"\x01\0" + bare(),
    ],
    "nifti": [b"\0" * 344 + b"n+1\0", b"\0" * 344 + b"ni1\0", b"\x1c\x02\0\0n+2\0\r\n\x1a\n"],
    "npy": [by_numpy(make_pixels())],
    "zip": [archive("zip")],
    "tar": [archive("w")],
    "gzip": [archive("w:gz")],
    "pdf": [b"%PDF-1.7\n"],
    "unknown": [
        b"",
        b"\0",
        b"\0" * 600,
        b"\xff" * 600,
        b"<!DOCTYPE html><html><body>404</body></html>",
        b"path,label\nBMW.png,car\n",
        b"BMW,1,2,3,4,5,6,7,8,9",
        b"P5",
        b"P1 patient, P2 control",
        b"Patient names and other text",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"\x89PNG",
        bare()[4:],
    ],
}


@pytest.mark.parametrize(
    ("kind", "content"), [(kind, content) for kind, contents in CONTENTS.items() for content in contents]
)
def test_the_first_bytes_tell_the_format(kind, content):
    assert sniff(content[:HEAD_BYTES]) == kind


@pytest.mark.parametrize("n_stray", [0, 1, 2])
def test_a_bare_data_set_is_found_behind_a_stray_byte_or_two(n_stray):
    for content in (bare(), bare(ImplicitVRLittleEndian), BIG_ENDIAN_BARE):
        assert bare_dicom_offset(b"\x01\0"[:n_stray] + content) == n_stray


def test_three_stray_bytes_are_none_of_our_guesses():
    assert bare_dicom_offset(b"\1\0\1" + bare()) is None


@given(st.binary(max_size=HEAD_BYTES))
def test_any_bytes_have_one_of_the_names(head):
    assert sniff(head) in CONTENTS


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_text_is_never_taken_for_a_dicom_object_or_a_picture(text):
    assert sniff(b"Report: " + text.encode()) == "unknown"
