"""DICOM objects as files: encodings, what is missing or broken, and what a message may say."""

import io
import logging
import warnings

import cv2
import numpy as np
import pydicom
import pytest
from builders import make_dicom, make_pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from pydicom import uid
from pydicom.encaps import encapsulate

from medspark.errors import (
    CorruptError,
    ImageError,
    NoPixelDataError,
    TooLargeError,
    TruncatedError,
    UnsupportedTransferSyntaxError,
)
from medspark.readers import dicom, headers, read_image

PIXELS = make_pixels(12, 16, np.uint16) // 7
CANARY = "ZZQ"


def bare(content):
    """Return the data set alone: what is left without preamble and file meta information."""
    return content[132 + 12 + int.from_bytes(content[140:144], "little") :]


def compressed(pixels, syntax, *frames, **attributes):
    return make_dicom(pixels, syntax, PixelData=encapsulate(list(frames)), **attributes)


def rle(pixels, **attributes):
    dataset = pydicom.dcmread(io.BytesIO(make_dicom(pixels, **attributes)))
    dataset.compress(uid.RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def jpeg_2000(pixels):
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "JPEG2000", no_jp2=True)
    return file.getvalue()


def big_endian(pixels):
    return make_dicom(pixels, uid.ExplicitVRBigEndian, PixelData=pixels.astype(">u2").tobytes())


ENCODED = {
    "explicit": make_dicom(PIXELS),
    "implicit": make_dicom(PIXELS, uid.ImplicitVRLittleEndian),
    "big endian": big_endian(PIXELS),
    "deflated": make_dicom(PIXELS, uid.DeflatedExplicitVRLittleEndian),
    "RLE": rle(PIXELS),
    "JPEG 2000": compressed(PIXELS, uid.JPEG2000Lossless, jpeg_2000(PIXELS)),
    "no preamble": make_dicom(PIXELS, preamble=False),
    "bare": bare(make_dicom(PIXELS)),
    "bare, implicit": bare(make_dicom(PIXELS, uid.ImplicitVRLittleEndian)),
    "bare, big endian": bare(big_endian(PIXELS)),
    "bare, a stray byte": b"\0" + bare(make_dicom(PIXELS)),
    "bare, two stray bytes": b"\x01\0" + bare(make_dicom(PIXELS, uid.ImplicitVRLittleEndian)),
    "bytes after the end": make_dicom(PIXELS) + b"\0" * 64,
}


@pytest.mark.parametrize("name", ENCODED)
def test_the_same_pixels_come_out_of_every_encoding(name):
    (frame,) = read_image(ENCODED[name], raw=True)
    np.testing.assert_array_equal(frame.pixels, PIXELS)
    (frame,) = read_image(ENCODED[name])
    np.testing.assert_array_equal(frame.pixels, PIXELS)
    assert frame.identity == {"patient_id": "P1", "study_uid": "1.2.3", "series_uid": "1.2.3.4"}
    assert frame.modality == "CT"


def test_a_lossy_jpeg_is_what_another_decoder_makes_of_it():
    pixels = make_pixels(40, 48)
    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
    (frame,) = read_image(compressed(pixels, uid.JPEGBaseline8Bit, jpeg))
    opencvs = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.abs(frame.pixels.astype(int) - opencvs).max() <= 1  # their inverse transforms may differ


@pytest.mark.parametrize("name", ["explicit", "deflated", "RLE"])
def test_every_frame_comes_with_its_number(name):
    stack = np.stack([PIXELS + 1000 * number for number in range(4)])
    make = {"explicit": make_dicom, "RLE": rle}.get(name) or (
        lambda pixels: make_dicom(pixels, uid.DeflatedExplicitVRLittleEndian)
    )
    frames = read_image(make(stack))
    assert [frame.number for frame in frames] == [0, 1, 2, 3]
    np.testing.assert_array_equal([frame.pixels for frame in frames], stack)


# What is missing or broken


@pytest.mark.parametrize("name", [name for name in ENCODED if name != "bytes after the end"])
def test_no_beginning_of_an_object_passes_for_the_whole(name):
    content = ENCODED[name]
    for size in range(len(content)):
        try:
            (frame,) = read_image(content[:size])
        except ImageError:
            continue
        assert name in {"RLE", "JPEG 2000"}  # what follows the fragments is the end of the sequence
        assert size >= len(content) - 8
        np.testing.assert_array_equal(frame.pixels, PIXELS)


@pytest.mark.parametrize("name", ENCODED)
def test_an_object_cut_in_its_pixels_is_truncated(name):
    expected = (TruncatedError, CorruptError) if name in {"RLE", "JPEG 2000"} else TruncatedError
    with pytest.raises(expected):
        read_image(ENCODED[name][: len(ENCODED[name]) * 3 // 4])


def test_an_object_cut_in_its_header_is_truncated():
    content = make_dicom(PIXELS)
    with pytest.raises(TruncatedError, match="ends inside an element"):
        read_image(content[: content.index(b"Nobody^Test") + 4])


@pytest.mark.parametrize("attributes", [{"PixelData": None}, {"PixelData": None, "Rows": None, "Columns": None}])
def test_a_sound_object_without_an_image_says_so(attributes):
    with pytest.raises(NoPixelDataError):
        read_image(make_dicom(PIXELS, **attributes))


def test_pixel_data_that_are_too_short_are_counted():
    with pytest.raises(TruncatedError, match="the pixel data has 300 of 384 bytes"):
        read_image(make_dicom(PIXELS, PixelData=PIXELS.tobytes()[:300]))
    with pytest.raises(TruncatedError, match="384 of 1152 bytes"):
        read_image(make_dicom(PIXELS, NumberOfFrames=3))
    with pytest.raises(TruncatedError, match="0 of 384 bytes"):
        read_image(make_dicom(PIXELS, PixelData=b""))


@pytest.mark.parametrize("attributes", [{"Rows": None}, {"Columns": None}, {"Rows": 0}, {"BitsAllocated": None}])
def test_pixels_that_the_header_does_not_describe_are_corrupt(attributes):
    with pytest.raises(CorruptError):
        read_image(make_dicom(PIXELS, **attributes))


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEG2000Lossless])
def test_too_many_pixels_are_refused_by_the_header(syntax):
    content = make_dicom(PIXELS, syntax, Rows=65535, Columns=65535, PixelData=encapsulate([b"\0\0"]))
    with pytest.raises(TooLargeError, match="65535 x 65535 pixels, fewer than 400000000"):
        read_image(content)


def test_the_limit_is_the_first_number_of_pixels_that_is_refused():
    assert len(list(dicom.frames(make_dicom(PIXELS), max_pixels=12 * 16 + 1))) == 1
    with pytest.raises(TooLargeError, match="12 x 16 pixels, fewer than 192"):
        list(dicom.frames(make_dicom(PIXELS), max_pixels=12 * 16))


@pytest.mark.parametrize("syntax", ["1.2.3.4.5", uid.MPEG2MPML])
def test_a_transfer_syntax_that_nobody_decodes_is_named(syntax):
    with pytest.raises(UnsupportedTransferSyntaxError, match=str(syntax)):
        read_image(compressed(PIXELS, uid.UID(syntax), b"\0\0"))


def test_a_codestream_that_is_none_is_corrupt_and_its_syntax_is_named():
    for syntax in (uid.JPEGBaseline8Bit, uid.JPEG2000Lossless, uid.RLELossless):
        with pytest.raises(CorruptError, match=uid.UID(syntax).name.split()[0]):
            read_image(compressed(PIXELS, syntax, b"\0" * 80))


def test_fewer_fragments_than_frames_are_told_after_those_that_are_there():
    content = compressed(np.stack([PIXELS] * 3), uid.JPEG2000Lossless, jpeg_2000(PIXELS), jpeg_2000(PIXELS))
    frames = dicom.frames(content, max_pixels=10**6)
    assert [next(frames).number, next(frames).number] == [0, 1]
    with pytest.raises(TruncatedError, match="2 of 3 frames are there"):
        next(frames)


@settings(deadline=None, max_examples=300)
@given(name=st.sampled_from(sorted(ENCODED)), data=st.data())
def test_a_changed_byte_gives_frames_or_an_image_error(name, data):
    content = bytearray(ENCODED[name])
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255))
    headers.header(io.BytesIO(content))
    try:
        frames = read_image(bytes(content))
    except ImageError:
        return
    assert all(frame.pixels.ndim == 2 for frame in frames)


@settings(deadline=None)
@given(noise=st.binary(max_size=300))
def test_noise_behind_the_prefix_is_an_image_error(noise):
    with pytest.raises(ImageError):
        read_image(b"\0" * 128 + b"DICM" + noise)
    headers.header(io.BytesIO(b"\0" * 128 + b"DICM" + noise))


# What the header says


class Counted(io.BytesIO):
    n_read = 0

    def read(self, size=-1, /):
        data = super().read(size)
        self.n_read += len(data)
        return data


FACTS = {
    "modality": "MR",
    "manufacturer": "ACME",
    "sop_class_uid": uid.CTImageStorage,
    "sop_instance_uid": "1.2.3.4.5",
    "frame_of_reference_uid": None,
    "is_localizer": False,
    "rows": 12,
    "columns": 16,
    "n_frames": 1,
    "decoded_bytes": 12 * 16 * 2,
    "placements": None,
    "bits_stored": 12,
    "photometric_interpretation": "MONOCHROME1",
    "patient_id": "P1",
    "study_uid": "1.2.3",
    "series_uid": "1.2.3.4",
}
DESCRIBED = {
    "SOPInstanceUID": "1.2.3.4.5",
    "Modality": "MR",
    "Manufacturer": "ACME ",
    "BitsStored": 12,
    "PhotometricInterpretation": "MONOCHROME1",
}


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ExplicitVRLittleEndian,
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.JPEGLSLossless,
    ],
)
def test_the_header_tells_the_facts_whatever_the_encoding(syntax):
    content = make_dicom(PIXELS, syntax, PixelData=encapsulate([b"\0\0"]), **DESCRIBED)
    assert headers.header(io.BytesIO(content)) == FACTS | {"transfer_syntax_uid": syntax}


def test_a_bare_data_set_has_facts_too_but_no_syntax():
    content = bare(make_dicom(PIXELS, **DESCRIBED))
    for stray in (b"", b"\0", b"\x01\0"):
        assert headers.header(io.BytesIO(stray + content)) == FACTS | {"transfer_syntax_uid": None}


def test_the_header_is_told_without_reading_the_pixels():
    large = np.zeros((2000, 2000), np.uint16)
    file = Counted(make_dicom(large))
    assert headers.header(file)["rows"] == 2000
    assert file.n_read <= 2 << 14  # of 8 MB; without a position the header is searched for functional groups, too


def test_frames_are_counted_by_the_header():
    assert headers.header(io.BytesIO(make_dicom(np.stack([PIXELS] * 5))))["n_frames"] == 5


@pytest.mark.parametrize("number", [b"x", b"inf ", b"nan "])
def test_a_number_that_is_none_is_no_fact_and_no_crash(number):
    content = make_dicom(PIXELS, NumberOfFrames="1234", RescaleSlope="5678", RescaleIntercept="0")
    content = content.replace(b"1234", number.ljust(4)).replace(b"5678", number.ljust(4))
    facts = headers.header(io.BytesIO(content))
    assert facts["rows"] == 12
    with pytest.raises(ImageError):
        read_image(content)


def test_a_rescale_that_is_no_number_is_corrupt_and_never_left_out():
    content = make_dicom(PIXELS, RescaleSlope="5678", RescaleIntercept="0").replace(b"5678", b"five")
    with pytest.raises(CorruptError, match="RescaleSlope is no number"):
        read_image(content)


def test_an_empty_rescale_is_none():
    np.testing.assert_array_equal(
        read_image(make_dicom(PIXELS, RescaleSlope="", RescaleIntercept=""))[0].pixels, PIXELS
    )


def test_warnings_are_silenced_only_while_we_read():
    frames = dicom.frames(make_dicom(np.stack([PIXELS, PIXELS])), max_pixels=10**6)
    before = list(warnings.filters)
    next(frames)
    assert warnings.filters == before
    assert not pydicom.config.logger.disabled


def test_what_is_not_there_is_none():
    facts = headers.header(io.BytesIO(make_dicom(PIXELS, PatientID="", Modality=None, StudyInstanceUID=None)))
    assert (facts["patient_id"], facts["modality"], facts["study_uid"]) == (None, None, None)


# What a message may say

TEXTS = {
    "PatientName": f"{CANARY}^Name",
    "PatientID": f"{CANARY}-ID",
    "PatientBirthDate": "19010203",
    "PatientComments": f"{CANARY} comment",
    "AccessionNumber": f"{CANARY}-ACC",
    "StudyDescription": f"{CANARY} study",
    "InstitutionName": f"{CANARY} hospital",
    "OperatorsName": f"{CANARY}^Operator",
    "ImageComments": f"{CANARY} text\n" * 20,
    "WindowCenter": "40",
    "RescaleSlope": "1.5",
    "RescaleIntercept": "0",
    "PixelSpacing": ["0.5", "0.25"],
}
TOLD = {
    "explicit": make_dicom(PIXELS, **TEXTS),
    "implicit": make_dicom(PIXELS, uid.ImplicitVRLittleEndian, **TEXTS),
    "deflated": make_dicom(PIXELS, uid.DeflatedExplicitVRLittleEndian, **TEXTS),
    "JPEG 2000": compressed(PIXELS, uid.JPEG2000Lossless, jpeg_2000(PIXELS), **TEXTS),
    "numbers": make_dicom(PIXELS, **TEXTS).replace(b"0.25", b"ZZQ.").replace(b"1.5 ", b"ZZQ "),
    "syntax": make_dicom(PIXELS, **TEXTS).replace(b"1.2.840.10008.1.2.1\0", b"ZZQ^Name in a UID..."),
}


@st.composite
def broken(draw):
    content = bytearray(TOLD[draw(st.sampled_from(sorted(TOLD)))])
    at = draw(st.integers(130, len(content) - 1))
    match draw(st.sampled_from(["cut", "change", "insert", "delete", "nothing"])):
        case "cut":
            del content[at:]
        case "change":
            content[at : at + 4] = draw(st.binary(min_size=4, max_size=4))
        case "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=8))
        case "delete":
            del content[at : at + draw(st.integers(1, 40))]
    return bytes(content)


@settings(deadline=None, max_examples=500)
@given(broken())
def test_nothing_of_a_patient_is_ever_said_about_a_broken_object(content):
    said = io.StringIO()
    log = logging.StreamHandler(said)
    logging.getLogger().addHandler(log)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            headers.header(io.BytesIO(content))
            for raw in (False, True):
                try:
                    read_image(content, raw=raw)
                except ImageError as error:
                    said.write(f"{error}")
    finally:
        logging.getLogger().removeHandler(log)
    told = said.getvalue() + "".join(str(warning.message) for warning in warned)
    assert CANARY not in told
    assert "19010203" not in told


@pytest.mark.parametrize(
    "place", ["pydicom.dcmread", "medspark.readers.elements.spacing", "medspark.readers.elements.text"]
)
def test_what_a_library_says_is_not_repeated(place, monkeypatch):
    def fail(*_, **__):
        raise ValueError(f"could not convert {CANARY} to float")

    content = make_dicom(PIXELS)
    monkeypatch.setattr(place, fail)
    with pytest.raises(CorruptError, match="ValueError") as caught:
        read_image(content)
    assert CANARY not in str(caught.value)
    assert caught.value.__suppress_context__


def test_the_objects_with_a_patients_data_are_read_when_nothing_is_broken():
    for name in ("explicit", "implicit", "deflated", "JPEG 2000"):
        np.testing.assert_array_equal(read_image(TOLD[name])[0].pixels, PIXELS * 1.5)
