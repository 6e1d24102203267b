"""What stored values mean: one test for each way in which DICOM says it, on objects of a few pixels."""

import io

import numpy as np
import pydicom
import pytest
from builders import make_dicom
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut, convert_color_space, pixel_array

from medspark.frame import VoiLut, Window
from medspark.readers import read_image
from medspark.steps.intensity import to_uint8

GRID = np.array([[0, 1, 2, 3], [100, 200, 300, 400], [1000, 1500, 2000, 2500], [3000, 3500, 4000, 4095]], np.uint16)
COLOUR = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [90, 120, 150]]], np.uint8)
LUMA = np.array([[76, 150], [29, 114]], np.uint8)  # 0.299 R + 0.587 G + 0.114 B, rounded


def only_frame(content, *, raw=False):
    [frame] = read_image(content, raw=raw)
    return frame


def dataset_of(content):
    return pydicom.dcmread(io.BytesIO(content))


def item(**attributes):
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def table(first, entries, bits=16):
    lut = item(LUTDescriptor=[len(entries), first, bits])
    lut.add_new(0x00283006, "US", [int(entry) for entry in entries])
    return lut


def test_rescale_gives_hounsfield_units_as_whole_numbers():
    frame = only_frame(make_dicom(GRID, RescaleSlope=2, RescaleIntercept=-1024))
    assert frame.pixels[0].tolist() == [-1024, -1022, -1020, -1018]
    assert frame.pixels[3, 3] == 4095 * 2 - 1024
    assert frame.pixels.dtype == np.int32
    assert {key: frame.facts[key] for key in ("modality_transform", "rescale_slope", "rescale_intercept")} == {
        "modality_transform": "rescale",
        "rescale_slope": 2.0,
        "rescale_intercept": -1024.0,
    }


def test_a_fractional_slope_gives_the_float64_of_pydicom():
    content = make_dicom(GRID, RescaleSlope="0.731", RescaleIntercept="-3.25")
    expected = apply_modality_lut(GRID, dataset_of(content))
    assert np.array_equal(only_frame(content).pixels, expected)


def test_a_modality_lut_is_looked_up():
    entries = [10 * index for index in range(4096)]
    content = make_dicom(GRID, ModalityLUTSequence=[table(0, entries)])
    frame = only_frame(content)
    assert np.array_equal(frame.pixels, GRID.astype(int) * 10)
    assert frame.facts["modality_transform"] == "lut"


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_a_window_is_shown_as_pydicom_shows_it(function):
    content = make_dicom(GRID, BitsStored=12, HighBit=11, WindowCenter=1500, WindowWidth=2000, VOILUTFunction=function)
    frame = only_frame(content)
    assert frame.window == Window(1500, 2000, function)
    shown = to_uint8(frame.pixels, window=frame.window)
    expected = apply_voi_lut(GRID, dataset_of(content)) / 4095 * 255  # pydicom gives the range of the stored bits
    assert np.abs(shown - expected).max() <= 0.5 + 1e-9
    assert frame.facts["window_function"] == function


def test_of_several_windows_the_first_counts_and_the_row_says_so():
    frame = only_frame(make_dicom(GRID, WindowCenter=[40, 600], WindowWidth=[400, 1500]))
    assert frame.window == Window(40, 400)
    assert "several_windows" in frame.flags


@pytest.mark.parametrize(("center", "width"), [(40, 0), (40, -3), (40, 0.5), (None, 400)])
def test_a_window_that_the_standard_forbids_is_none(center, width):
    assert only_frame(make_dicom(GRID, WindowCenter=center, WindowWidth=width)).window is None


def test_a_voi_lut_comes_before_a_window_and_is_shown_as_pydicom_shows_it():
    entries = np.linspace(0, 65535, 3000).astype(int) ** 2 // 65535
    content = make_dicom(GRID, VOILUTSequence=[table(500, entries)], WindowCenter=40, WindowWidth=400)
    frame = only_frame(content)
    assert isinstance(frame.window, VoiLut)
    expected = np.rint(apply_voi_lut(GRID, dataset_of(content)) / 257)
    assert np.array_equal(to_uint8(frame.pixels, window=frame.window), expected)
    assert frame.facts["window_function"] == "LUT"


def test_a_voi_lut_of_ten_bits_reaches_white_at_its_last_entry():
    content = make_dicom(GRID, VOILUTSequence=[table(100, [0, 512, 1023], bits=10)])  # pydicom 3.0.2 wraps at 8 bits
    shown = to_uint8(np.array([[0, 100, 101, 102, 999]]), window=only_frame(content).window)
    assert shown.tolist() == [[0, 0, 128, 255, 255]]


def test_a_voi_lut_of_signed_values_begins_below_zero():
    pixels = np.array([[-1000, -999], [-998, 5000]], np.int16)
    content = make_dicom(pixels, VOILUTSequence=[table(-1000, [0, 100, 255, 7], bits=8)])
    assert to_uint8(pixels, window=only_frame(content).window).tolist() == [[0, 100], [255, 7]]


def test_monochrome1_keeps_its_values_and_is_shown_inverted():
    frame = only_frame(make_dicom(GRID, PhotometricInterpretation="MONOCHROME1", WindowCenter=2048, WindowWidth=4096))
    assert np.array_equal(frame.pixels, GRID)
    assert frame.is_inverted
    upright = to_uint8(frame.pixels, window=frame.window)
    assert np.array_equal(to_uint8(frame.pixels, window=frame.window, is_inverted=True), 255 - upright)


def test_palette_color_becomes_luma():
    red, green, blue = (
        [channel * 257 for channel in (255, 0, 0, 90)],
        [0, 65535, 0, 120 * 257],
        [0, 0, 65535, 150 * 257],
    )
    palettes = {
        f"{name}PaletteColorLookupTable{what}": value
        for name, entries in (("Red", red), ("Green", green), ("Blue", blue))
        for what, value in (("Descriptor", [4, 0, 16]), ("Data", np.array(entries, "<u2").tobytes()))
    }
    pixels = np.array([[0, 1], [2, 3]], np.uint8)
    frame = only_frame(make_dicom(pixels, PhotometricInterpretation="PALETTE COLOR", **palettes))
    assert np.abs(frame.pixels / 257 - LUMA).max() < 1


def make_colour(stored, photometric, **attributes):
    return make_dicom(
        stored[0, :, :, 0] if stored.ndim == 4 else stored[..., 0],
        SamplesPerPixel=3,
        PhotometricInterpretation=photometric,
        **{"PlanarConfiguration": 0, "PixelData": stored.tobytes(), **attributes},
    )


def test_rgb_becomes_luma_and_raw_keeps_its_samples():
    content = make_colour(COLOUR, "RGB")
    assert np.array_equal(only_frame(content).pixels, LUMA)
    assert np.array_equal(only_frame(content, raw=True).pixels, COLOUR)


def test_planar_configuration_1_is_the_same_image():
    by_plane = COLOUR.transpose(2, 0, 1).tobytes()
    content = make_colour(COLOUR, "RGB", PlanarConfiguration=1, PixelData=by_plane)
    assert np.array_equal(only_frame(content, raw=True).pixels, COLOUR)
    assert np.array_equal(only_frame(content).pixels, LUMA)


def test_ybr_full_becomes_the_luma_of_its_rgb():
    stored = convert_color_space(COLOUR, "RGB", "YBR_FULL")
    frame = only_frame(make_colour(stored, "YBR_FULL"))
    assert np.abs(frame.pixels.astype(int) - LUMA).max() <= 1
    assert np.array_equal(only_frame(make_colour(stored, "YBR_FULL"), raw=True).pixels, stored)


def test_ybr_full_422_shares_its_chroma_between_two_pixels():
    stored = bytes([76, 150, 128, 128, 29, 114, 128, 128])  # Y Y Cb Cr, chroma of gray
    content = make_colour(COLOUR, "YBR_FULL_422", PixelData=stored)
    assert np.abs(only_frame(content).pixels.astype(int) - LUMA).max() <= 1


def test_signed_values_keep_their_sign():
    pixels = np.array([[-32768, -1], [0, 32767]], np.int16)
    assert np.array_equal(only_frame(make_dicom(pixels)).pixels, pixels)


def test_fewer_bits_stored_than_allocated_are_extended_by_their_sign():
    pixels = np.array([[-2048, -5], [7, 2047]], np.int16)
    content = make_dicom((pixels & 0x0FFF).astype(np.int16), BitsStored=12, HighBit=11)
    assert np.array_equal(only_frame(content).pixels, pixels)


def test_a_high_bit_at_the_left_end_is_shifted_down():
    frame = only_frame(make_dicom(GRID << 4, BitsStored=12, HighBit=15))
    assert np.array_equal(frame.pixels, GRID)
    assert "high_bit" in frame.flags
    signed = np.array([[-2048, -5], [7, 2047]], np.int16)
    assert np.array_equal(only_frame(make_dicom(signed << 4, BitsStored=12, HighBit=15)).pixels, signed)


def test_an_overlay_in_the_unused_bits_is_no_part_of_the_value():
    drawn = (GRID | np.where(GRID > 1000, 0x8000, 0)).astype(np.uint16)
    assert np.array_equal(only_frame(make_dicom(drawn, BitsStored=12, HighBit=11)).pixels, GRID)


def test_pixel_padding_keeps_its_value_and_is_flagged():
    pixels = np.array([[-2000, 0], [1, 2]], np.int16)
    frame = only_frame(make_dicom(pixels, PixelPaddingValue=-2000))
    assert np.array_equal(frame.pixels, pixels)
    assert "pixel_padding" in frame.flags


@pytest.mark.parametrize(("keyword", "dtype"), [("FloatPixelData", np.float32), ("DoubleFloatPixelData", np.float64)])
def test_float_pixel_data_keeps_every_bit(keyword, dtype):
    pixels = np.array([[-1.5, 0.1], [np.pi, 1e30]], dtype)
    bits = 8 * pixels.itemsize
    content = make_dicom(pixels, PixelData=None, BitsAllocated=bits, BitsStored=None, HighBit=None,
                         PixelRepresentation=None, **{keyword: pixels.tobytes()})  # fmt: skip
    frame = only_frame(content)
    assert frame.pixels.dtype == dtype
    assert np.array_equal(frame.pixels, pixels)


def test_one_bit_an_image():
    pixels = np.array([[0, 1, 1, 0, 1, 0, 0, 1], [1, 0, 0, 0, 0, 0, 0, 1]], np.uint8)
    packed = np.packbits(pixels, bitorder="little").tobytes()
    content = make_dicom(pixels, BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=packed)
    assert np.array_equal(only_frame(content).pixels, pixels)


def test_thirty_two_bits_stay_exact():
    pixels = np.array([[0, 1], [2**31, 2**32 - 1]], np.uint32)
    assert np.array_equal(only_frame(make_dicom(pixels)).pixels, pixels)
    scaled = only_frame(make_dicom(pixels, RescaleSlope=2, RescaleIntercept=-1)).pixels
    assert np.array_equal(scaled, pixels.astype(np.float64) * 2 - 1)


def test_where_a_frame_lies_stands_in_its_facts():
    content = make_dicom(GRID, ImagePositionPatient=[1, 2, 3.5], ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
                         PixelSpacing=[0.5, 0.25], SliceThickness=2)  # fmt: skip
    frame = only_frame(content)
    assert frame.spacing_mm == (0.5, 0.25)
    assert frame.facts["image_position_mm"] == [1, 2, 3.5]
    assert frame.facts["image_orientation"] == [1, 0, 0, 0, 1, 0]
    assert frame.facts["slice_thickness_mm"] == 2


def test_each_frame_of_an_enhanced_object_has_its_own_place_and_rescale():
    frames = np.stack([GRID, GRID])
    groups = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 5 * number])],
            PixelValueTransformationSequence=[item(RescaleSlope=number + 1, RescaleIntercept=-number)],
            FrameVOILUTSequence=[item(WindowCenter=10 * number, WindowWidth=100)],
        )
        for number in range(2)
    ]
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[0.7, 0.6], SliceThickness=5)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])],
    )
    first, second = read_image(
        make_dicom(frames, PerFrameFunctionalGroupsSequence=groups, SharedFunctionalGroupsSequence=[shared])
    )
    assert np.array_equal(first.pixels, GRID)
    assert np.array_equal(second.pixels, GRID.astype(int) * 2 - 1)
    assert [frame.facts["image_position_mm"] for frame in (first, second)] == [[0, 0, 0], [0, 0, 5]]
    assert [frame.window for frame in (first, second)] == [Window(0, 100), Window(10, 100)]
    assert second.spacing_mm == (0.7, 0.6)
    assert second.facts["image_orientation"] == [0, 1, 0, 0, 0, -1]


def test_concatenations_and_mosaics_are_flagged():
    assert "concatenation" in only_frame(make_dicom(GRID, ConcatenationUID="1.2.3.9")).flags
    assert "mosaic" in only_frame(make_dicom(GRID, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])).flags
    assert only_frame(make_dicom(GRID, ImageType=["ORIGINAL", "PRIMARY"])).flags == ()


def test_raw_values_are_those_of_pydicom():
    content = make_dicom(GRID, RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=0, WindowWidth=10)
    assert np.array_equal(only_frame(content, raw=True).pixels, pixel_array(dataset_of(content), raw=True))
