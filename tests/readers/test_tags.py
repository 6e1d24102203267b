import io

import numpy as np
import pydicom
import pytest
from builders import make_dicom
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medspark.readers import elements, headers, tags

PIXELS = np.zeros((4, 6), np.uint16)


def both(content):
    """The facts by the walk and by pydicom."""
    walked = headers._walked_header(io.BytesIO(content))
    with elements.quiet():
        return walked, headers._parsed_header(io.BytesIO(content))


def item(**attributes):
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_the_walk_finds_what_pydicom_finds_in_every_encoding(syntax):
    pixels = PIXELS.astype(">u2") if syntax == ExplicitVRBigEndian else PIXELS
    nested = [item(ReferencedSOPInstanceUID="1.2", PurposeOfReferenceCodeSequence=[item(CodeValue="121")])]
    walked, parsed = both(make_dicom(pixels, syntax, Manufacturer="ACME ", ReferencedImageSequence=nested))
    assert walked == parsed
    assert walked["rows"] == 4
    assert walked["columns"] == 6
    assert walked["manufacturer"] == "ACME"
    assert walked["patient_id"] == "P1"


def test_sequences_of_undefined_length_are_stepped_over():
    inner = item(CodeValue="1")
    inner.is_undefined_length_sequence_item = True
    outer = item(PurposeOfReferenceCodeSequence=[inner])
    outer.is_undefined_length_sequence_item = True
    outer["PurposeOfReferenceCodeSequence"].is_undefined_length = True
    content = make_dicom(PIXELS, ReferencedImageSequence=[outer])
    walked, parsed = both(content)
    assert walked == parsed


def test_a_long_private_element_before_the_wanted_ones_is_read_past():
    long = Dataset()
    long.add_new(0x00090010, "LO", "MEDSPARK")
    long.add_new(0x00091001, "OB", bytes(200_001 + 1))
    content = make_dicom(PIXELS, ImageComments="x" * 9000)
    dataset = pydicom.dcmread(io.BytesIO(content))
    dataset.update(long)
    file = io.BytesIO()
    dataset.save_as(file)
    walked, parsed = both(file.getvalue())
    assert walked == parsed
    assert walked["rows"] == 4


PLACED = {
    "ImagePositionPatient": [-10.5, 5, 100.25],
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    "PixelSpacing": [0.5, 0.25],
    "SliceThickness": 2.5,
}


def test_the_place_of_a_slice_is_told_without_pydicom():
    walked, parsed = both(make_dicom(PIXELS, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], **PLACED))
    assert walked == parsed
    assert walked["is_localizer"]
    assert walked["placements"] == [
        {
            "image_position_mm": [-10.5, 5.0, 100.25],
            "image_orientation": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            "spacing_mm": [0.5, 0.25],
            "slice_thickness_mm": 2.5,
        }
    ]


def test_the_frames_of_an_object_lie_where_its_groups_say():
    def place(z):
        return item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, z])])

    measures = item(PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.25], SliceThickness=2)])
    groups = {
        "SharedFunctionalGroupsSequence": [measures],
        "PerFrameFunctionalGroupsSequence": [place(7), place(9)],
    }
    for content in (make_dicom(np.stack([PIXELS] * 2), **groups), make_dicom(PIXELS, **groups)):
        with pytest.raises(tags.UnusualError):
            headers._walked_header(io.BytesIO(content))
        placements = headers.header(io.BytesIO(content))["placements"]
        heights = [placement["image_position_mm"] for placement in placements]
        assert heights == [[0, 0, 7], [0, 0, 9]][: len(heights)]
        assert {tuple(placement["spacing_mm"]) for placement in placements} == {(0.5, 0.25)}
        assert {placement["slice_thickness_mm"] for placement in placements} == {2}


def test_the_decoded_bytes_are_those_of_all_samples_of_all_frames():
    colour = make_dicom(PIXELS.astype(np.uint8), SamplesPerPixel=3, NumberOfFrames=3)  # its pixels are not looked at
    assert headers.header(io.BytesIO(colour))["decoded_bytes"] == 3 * 4 * 6 * 3
    assert headers.header(io.BytesIO(make_dicom(PIXELS)))["decoded_bytes"] == PIXELS.nbytes


@given(st.lists(st.one_of(st.floats(), st.text("0123456789.eE+- ", max_size=8)), max_size=4))
def test_decimal_numbers_are_those_that_pydicom_reads(values):
    text = "\\".join(map(str, values)).encode()
    dataset = Dataset()
    dataset.add_new("PixelSpacing", "LO", text.decode())  # not checked until it is asked for
    with elements.quiet():
        wanted = elements.numbers(dataset, "PixelSpacing", 2)
    try:
        assert tags.numbers(text, 2) == wanted
    except tags.UnusualError:
        return


def test_text_beyond_ascii_is_left_to_pydicom():
    content = make_dicom(PIXELS, SpecificCharacterSet="ISO_IR 192", Manufacturer="Müller")
    with pytest.raises(tags.UnusualError):
        headers._walked_header(io.BytesIO(content))
    assert headers.header(io.BytesIO(content))["manufacturer"] == "Müller"


@given(at=st.integers(0, 700), bits=st.integers(1, 255))
def test_damage_never_gives_anything_but_the_unusual_error_or_facts(at, bits):
    content = bytearray(make_dicom(PIXELS))
    content[at % len(content)] ^= bits
    try:
        facts = headers._walked_header(io.BytesIO(bytes(content)))
    except tags.UnusualError:
        return
    assert set(facts) == set(headers._walked_header(io.BytesIO(make_dicom(PIXELS))))


def test_every_object_of_the_shared_archive_has_the_same_facts_either_way(shared_data):
    n_walked = 0
    for path in sorted((shared_data / "dicom").rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        if content[128:132] != b"DICM":
            continue
        try:
            walked, parsed = both(content)
        except Exception:  # noqa: BLE001, S112 - one of the two gives up; header() then asks the other
            continue
        assert walked == parsed, path.name
        n_walked += 1
    assert n_walked > 150  # the others have functional groups, or are unusual
