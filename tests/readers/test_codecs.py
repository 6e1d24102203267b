"""Every transfer syntax, with the core alone and with medspark[codecs], against pixels that are known otherwise."""

import csv
import hashlib
import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from builders import make_dicom
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import Decoder
from pydicom.pixels.encoders.base import RLELosslessEncoder

from medspark.errors import CorruptError, ImageError, TruncatedError, UnsupportedTransferSyntaxError
from medspark.readers import codecs, read_image

EXTRAS = ("imagecodecs", "jpeg_ls", "openjpeg", "rle", "rle.utils")


@pytest.fixture(params=["core", "codecs"])
def installed(request, monkeypatch):
    """Read with what is installed, then as if medspark[codecs] were not."""
    if request.param == "core":
        hide(monkeypatch, EXTRAS)
    else:
        pytest.importorskip("imagecodecs")
    return request.param


def hide(monkeypatch, modules):
    found = codecs._module
    monkeypatch.setattr(codecs, "_module", lambda name: None if name in modules else found(name))


def outcome(source, *, raw=True):
    """Return the pixels of all frames, or the reason why there are none."""
    try:
        frames = read_image(source, raw=raw)
    except ImageError as error:
        return error.reason
    return frames[0].pixels if len(frames) == 1 else np.stack([frame.pixels for frame in frames])


def made(pixels, syntax, *frames, **attributes):
    """Return an object with these compressed frames, that says what fits ``pixels``, one of them."""
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    values = {
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": samples,
        "PhotometricInterpretation": "RGB" if samples == 3 else "MONOCHROME2",
        "PlanarConfiguration": 0 if samples == 3 else None,
        "NumberOfFrames": len(frames) if len(frames) > 1 else None,
        "PixelData": encapsulate(list(frames)),
        **attributes,
    }
    return make_dicom(pixels[..., 0] if samples == 3 else pixels, syntax, **values)


def noise(bits, *, samples=1, seed=0):
    """A picture of 7 x 9 pixels with all values that the depth has; negative ``bits``: signed."""
    shape = (7, 9, samples) if samples > 1 else (7, 9)
    size, low = (-bits, -(1 << (-bits - 1))) if bits < 0 else (bits, 0)
    values = np.random.default_rng(seed).integers(low, low + (1 << size), shape)
    values.flat[:2] = low, low + (1 << size) - 1
    return values.astype(f"{'i' if bits < 0 else 'u'}{1 if size <= 8 else 2 if size <= 16 else 4}")


# The files of other makers. Of each, the table tells the pixels on which at least two other programs agree.


def files(data):
    with (data / "dicom" / "expected.csv").open(newline="") as file:
        return [(row, data / "dicom" / row["path"]) for row in csv.DictReader(file)]


def is_beyond_the_core(row):
    """Tell what the core has no decoder for: JPEG-LS, and JPEG of more than 8 bits."""
    tail = row["ts"].rpartition(".")[2]
    return tail in {"80", "81"} or (tail in {"51", "57", "70"} and row["ba"] == "16")


def test_every_file_is_read_to_the_bit_or_its_syntax_is_told_to_need_the_extra(shared_data, installed):
    wrong, refused = [], set()
    for row, path in files(shared_data):
        if row["policy"] not in {"exact", "tol1", "tol2"} and not (row["policy"] == "optional" and "4.20" in row["ts"]):
            continue
        pixels = outcome(path)
        if isinstance(pixels, str):
            refused.add((row["path"], pixels))
            continue
        assert "x".join(map(str, pixels.shape)) == row["shape"], row["path"]
        # The lossy ones too: Pillow's libjpeg computes what dcmtk's and gdcm's do.
        same = hashlib.sha256(pixels.astype(pixels.dtype.newbyteorder("<"))).hexdigest() == row["pixel_sha256"]
        if pixels.dtype != row["dtype"] or not same or isinstance(outcome(path, raw=False), str):
            wrong.append(row["path"])
    assert wrong == []
    images = [row for row, _ in files(shared_data) if row["policy"] in {"exact", "tol1"}]
    expected = {(row["path"], "unsupported_transfer_syntax") for row in images if is_beyond_the_core(row)}
    assert len(expected) == 16
    assert refused == (expected if installed == "core" else set())


def test_every_file_that_is_to_be_refused_has_its_reason(shared_data, installed):
    assert installed
    rejected = {row["path"]: outcome(path) for row, path in files(shared_data) if row["policy"] == "reject"}
    assert len(rejected) == 5
    assert {type(reason) for reason in rejected.values()} == {str}
    assert rejected["pydicom/JPEG2000-embedded-sequence-delimiter.dcm"] == "corrupt"


@pytest.mark.parametrize(
    ("name", "sibling"),
    [("liver_rle", "liver"), ("liver_nonbyte_aligned_rle", "liver_nonbyte_aligned"), ("liver_deflate", "liver")],
)
def test_one_bit_frames_equal_those_of_the_uncompressed_sibling(shared_data, installed, name, sibling):
    assert installed
    folder = shared_data / "dicom" / "pydicom-data"
    pixels = outcome(folder / f"{name}.dcm")
    assert set(np.unique(pixels)) == {0, 1}
    np.testing.assert_array_equal(pixels, outcome(folder / f"{sibling}.dcm"))


def test_what_needs_the_extra_says_so_with_its_depth(shared_data, monkeypatch):
    hide(monkeypatch, EXTRAS)
    with pytest.raises(
        UnsupportedTransferSyntaxError, match=r"12-bit JPEG Extended .*: pip install 'medspark\[codecs\]'"
    ):
        read_image(shared_data / "dicom" / "pydicom" / "JPGExtended.dcm")
    with pytest.raises(UnsupportedTransferSyntaxError, match=r"for JPEG-LS .*: pip install 'medspark\[codecs\]'"):
        read_image(shared_data / "dicom" / "pydicom" / "JPEGLSNearLossless_08.dcm")


def test_signed_values_in_an_unsigned_codestream_get_their_sign(shared_data, installed):
    assert installed
    pixels = outcome(shared_data / "dicom" / "pydicom" / "J2K_pixelrep_mismatch.dcm", raw=False)
    assert (pixels.min(), pixels.max()) == (-2000, 1896)  # by dcmtk and gdcm; no rescale in this file


# Every depth, against the array that was encoded


@settings(deadline=None, max_examples=60)
@given(bits=st.integers(2, 16), predictor=st.integers(1, 7), samples=st.sampled_from([1, 3]), seed=st.integers(0, 99))
def test_jpeg_lossless_gives_back_every_depth_and_prediction(bits, predictor, samples, seed):
    imagecodecs = pytest.importorskip("imagecodecs")
    pixels = noise(bits, samples=samples, seed=seed)
    jpeg = imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=predictor, bitspersample=bits)
    syntax = uid.JPEGLosslessSV1 if predictor == 1 else uid.JPEGLossless
    np.testing.assert_array_equal(outcome(made(pixels, syntax, jpeg, BitsStored=bits, HighBit=bits - 1)), pixels)


@pytest.mark.parametrize(
    "marker", [b"", b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0", b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\1"]
)
@pytest.mark.parametrize("bits", [8, 12])
def test_jpeg_lossless_is_never_converted_whatever_its_markers_say(marker, bits):
    imagecodecs = pytest.importorskip("imagecodecs")
    pixels = noise(bits, samples=3)
    jpeg = imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=1, bitspersample=bits)
    assert jpeg[2:4] == b"\xff\xee"  # the one imagecodecs writes, which is taken out
    jpeg = jpeg[:2] + marker + jpeg[4 + int.from_bytes(jpeg[4:6], "big") :]
    stored = outcome(made(pixels, uid.JPEGLosslessSV1, jpeg, BitsStored=bits, HighBit=bits - 1))
    np.testing.assert_array_equal(stored, pixels)


@settings(deadline=None, max_examples=60)
@given(
    bits=st.sampled_from([1, 2, 5, 8, 9, 12, 15, 16, -8, -12, -16]),
    syntax=st.sampled_from([uid.JPEG2000Lossless, uid.HTJ2KLossless]),
    samples=st.sampled_from([1, 3]),
    with_extra=st.booleans(),
)
def test_jpeg_2000_gives_back_every_depth_and_sign(bits, syntax, samples, with_extra):
    imagecodecs = pytest.importorskip("imagecodecs")
    if samples == 3 and not 8 <= bits <= 16:
        samples = 1
    pixels = noise(bits, samples=samples)
    if syntax == uid.HTJ2KLossless:
        pixels = pixels if abs(bits) in (8, 16) else noise(16 if bits > 0 else -16, samples=samples)
        bits = 8 * pixels.itemsize * (1 if bits > 0 else -1)
        code = imagecodecs.htj2k_encode(pixels, reversible=True, resolutions=1)
    else:
        options = {"level": 0, "reversible": True, "codecformat": "j2k", "resolutions": 1}
        code = imagecodecs.jpeg2k_encode(pixels, bitspersample=abs(bits), **options)
    content = made(pixels, syntax, bytes(code), BitsStored=abs(bits), HighBit=abs(bits) - 1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        hide(monkeypatch, () if with_extra else EXTRAS)
        np.testing.assert_array_equal(outcome(content), pixels)


@settings(deadline=None, max_examples=30)
@given(bits=st.sampled_from([2, 7, 8, 12, 16]), samples=st.sampled_from([1, 3]), by_plane=st.booleans())
def test_jpeg_ls_gives_back_every_depth_by_pixel_and_by_plane(bits, samples, by_plane):
    jpeg_ls = pytest.importorskip("jpeg_ls")
    pixels = np.tile(noise(bits, samples=samples), (4, 4, 1)[: 3 if samples == 3 else 2])
    stored = pixels.transpose(2, 0, 1) if samples == 3 and by_plane else pixels
    code = jpeg_ls.encode_pixel_data(
        stored.tobytes(), rows=pixels.shape[0], columns=pixels.shape[1], samples_per_pixel=samples, bits_stored=bits,
        planar_configuration=int(by_plane),
    )  # fmt: skip
    content = made(pixels, uid.JPEGLSLossless, bytes(code), BitsStored=bits, HighBit=bits - 1)
    np.testing.assert_array_equal(outcome(content), pixels)


def rle(pixels):
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    bits = 8 * pixels.itemsize
    return RLELosslessEncoder.encode(
        pixels.tobytes(), rows=pixels.shape[0], columns=pixels.shape[1], samples_per_pixel=samples, bits_allocated=bits,
        bits_stored=bits, pixel_representation=0, number_of_frames=1, planar_configuration=0,
        photometric_interpretation="RGB" if samples == 3 else "MONOCHROME2", encoding_plugin="pydicom",
    )  # fmt: skip


def deflated(pixels):
    deflate = zlib.compressobj(wbits=-15)
    return deflate.compress(pixels.tobytes()) + deflate.flush()


ENCODERS = {uid.RLELossless: rle, codecs.DEFLATED_FRAME: deflated, codecs.ENCAPSULATED: lambda pixels: pixels.tobytes()}


@pytest.mark.parametrize("syntax", ENCODERS)
@pytest.mark.parametrize(("bits", "samples"), [(8, 1), (8, 3), (16, 1), (16, 3)])
def test_every_frame_of_several_comes_back(syntax, bits, samples, installed):
    assert installed
    frames = [noise(bits, samples=samples, seed=seed) for seed in range(3)]
    content = made(frames[0], syntax, *map(ENCODERS[syntax], frames))
    np.testing.assert_array_equal(outcome(content), np.stack(frames))


@pytest.mark.parametrize("syntax", ENCODERS)
def test_frames_of_single_bits_are_unpacked_each_from_a_byte_of_its_own(syntax, installed):
    assert installed
    frames = [noise(1, seed=seed) for seed in range(3)]  # 63 bits: the last of the eight bytes is not full
    packed = [np.packbits(pixels, bitorder="little")[None] for pixels in frames]
    content = made(frames[0], syntax, *map(ENCODERS[syntax], packed), BitsAllocated=1, BitsStored=1, HighBit=0)
    np.testing.assert_array_equal(outcome(content), np.stack(frames))


@pytest.mark.parametrize("syntax", [codecs.DEFLATED_FRAME, codecs.ENCAPSULATED])
def test_planes_stay_planes_in_every_frame(syntax):
    frames = [noise(8, samples=3, seed=seed) for seed in range(2)]
    planes = [np.ascontiguousarray(pixels.transpose(2, 0, 1)) for pixels in frames]
    content = made(frames[0], syntax, *map(ENCODERS[syntax], planes), PlanarConfiguration=1)
    np.testing.assert_array_equal(outcome(content), np.stack(frames))


# Colour


def colour_jpeg(transform):
    """A JPEG of one colour with luma and chroma in it, and an Adobe marker or none."""
    file = io.BytesIO()
    Pillow.new("RGB", (16, 16), (200, 60, 20)).save(file, "JPEG", quality=100, subsampling=0)
    jpeg = file.getvalue()
    assert jpeg[2:4] == b"\xff\xe0"
    marker = b"" if transform is None else b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])
    return jpeg[:2] + marker + jpeg[4 + int.from_bytes(jpeg[4:6], "big") :]


@pytest.mark.parametrize(
    ("transform", "photometric", "stored"),
    [
        (None, "YBR_FULL_422", (97, 84, 201)),  # 0.299 R + 0.587 G + 0.114 B and the like (PS3.3 C.7.6.3.1.2)
        (1, "YBR_FULL_422", (97, 84, 201)),
        (1, "YBR_FULL", (97, 84, 201)),
        (1, "RGB", (200, 60, 20)),
    ],
)
def test_a_jpeg_is_converted_once_whoever_does_it(transform, photometric, stored):
    pixels = np.zeros((16, 16, 3), np.uint8)
    content = made(pixels, uid.JPEGBaseline8Bit, colour_jpeg(transform), PhotometricInterpretation=photometric)
    np.testing.assert_allclose(outcome(content)[3, 5], stored, atol=1)
    np.testing.assert_allclose(outcome(content, raw=False)[3, 5], 0.299 * 200 + 0.587 * 60 + 0.114 * 20, atol=1.5)


@pytest.mark.parametrize("space", ["SRGB", "SYCC"])
def test_a_color_space_around_a_jpeg_2000_codestream_changes_no_stored_value(space, installed):
    assert installed  # OpenCV and OpenJPEG would both convert
    imagecodecs = pytest.importorskip("imagecodecs")
    pixels = noise(8, samples=3)
    code = imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="jp2", colorspace=space)
    assert b"colr\x01\0\0\0\0\0" + {"SRGB": b"\x10", "SYCC": b"\x12"}[space] in code
    np.testing.assert_array_equal(outcome(made(pixels, uid.JPEG2000Lossless, bytes(code))), pixels)


# What is refused


def jpeg_2000(pixels):
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "JPEG2000", no_jp2=True)
    return file.getvalue()


def test_a_compressed_image_of_another_size_is_refused_before_it_costs_memory(installed, monkeypatch):
    assert installed
    pixels = noise(8)
    bomb = bytearray(jpeg_2000(pixels))
    bomb[8:16] = struct.pack(">2I", 60_000, 60_000)
    for name in ("_pillow_jpeg", "_opencv", "_openjpeg"):
        monkeypatch.setattr(codecs, name, None)
    with pytest.raises(CorruptError, match=r"\(7, 9, 1\) in the header, \(60000, 60000, 1\) in the compressed image"):
        read_image(made(pixels, uid.JPEG2000Lossless, bytes(bomb)))


@pytest.mark.parametrize(
    "syntax", [uid.JPEGBaseline8Bit, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless]
)
def test_no_beginning_of_a_compressed_frame_passes_for_the_whole(syntax):
    imagecodecs = pytest.importorskip("imagecodecs")
    pixels = noise(16)
    code = {
        uid.JPEGBaseline8Bit: lambda: imagecodecs.jpeg8_encode(noise(8)),
        uid.JPEGLosslessSV1: lambda: imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=16),
        uid.JPEGLSLossless: lambda: imagecodecs.jpegls_encode(pixels),
        uid.JPEG2000Lossless: lambda: imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="j2k"),
    }[syntax]()
    for size in range(2, len(code) - 4, 3):
        assert outcome(made(pixels, syntax, code[:size])) in {"truncated", "corrupt"}, size


def segments(*parts):
    starts = np.cumsum([64, *map(len, parts)])[:-1]
    return struct.pack("<16I", len(parts), *starts, *[0] * (15 - len(parts))) + b"".join(parts)


def test_a_run_beyond_the_end_of_an_rle_segment_is_cut_off_as_by_pydicom(installed):
    assert installed  # pylibjpeg-rle panics: a BaseException, which no `except Exception` would stop
    pixels = noise(16)
    octets = pixels.astype(">u2").view(np.uint8).reshape(-1, 2)
    content = made(pixels, uid.RLELossless, segments(*(bytes([65]) + octets[:, n].tobytes() + b"abc" for n in (0, 1))))
    np.testing.assert_array_equal(outcome(content), pixels)


@pytest.mark.parametrize(
    "frame",
    [
        b"\0" * 63,
        segments(b"\x3e" + bytes(63)),  # one segment, of two
        segments(b"\x3e" + bytes(63), b"\x3d" + bytes(62)),  # short of a byte
        struct.pack("<16I", 2, 64, 4000, *[0] * 13) + bytes(200),
        struct.pack("<16I", 2, 100, 64, *[0] * 13) + bytes(200),
        struct.pack("<16I", 258, 64, 128, *[0] * 13) + (b"\x3e" + bytes(63)) * 2,  # of which pylibjpeg-rle sees the 2
        struct.pack("<16I", 2, 66, 130, *[0] * 13) + b"\0\0" + (b"\x3e" + bytes(63)) * 2,  # not behind the header
    ],
)
def test_an_rle_frame_that_contradicts_itself_is_corrupt(frame, installed):
    assert installed
    assert outcome(made(noise(16), uid.RLELossless, frame)) == "corrupt"


def test_an_encapsulated_frame_too_short_is_truncated():
    pixels = noise(16)
    with pytest.raises(TruncatedError, match="a frame has 124 of 126 bytes"):
        read_image(made(pixels, codecs.ENCAPSULATED, pixels.tobytes()[:-2]))


def test_a_deflated_frame_is_inflated_no_further_than_the_header_says():
    pixels = np.zeros((7, 9), np.uint8)
    content = made(pixels, codecs.DEFLATED_FRAME, deflated(np.zeros(50_000_000, np.uint8)))
    outcome(content)  # what is imported for the first time does not count
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(outcome(content), pixels)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("tail", [b"100", b"110", b"1.2"])  # MPEG-2, JPEG XL, none at all
def test_a_transfer_syntax_without_any_decoder_is_unsupported(tail):
    content = made(noise(8), uid.MPEG2MPML, b"\0\0")
    assert uid.MPEG2MPML.endswith(".100")
    content = content.replace(uid.MPEG2MPML.encode(), uid.MPEG2MPML.encode()[:-3] + tail)
    assert outcome(content) == "unsupported_transfer_syntax"


def test_a_depth_without_any_decoder_is_unsupported():
    imagecodecs = pytest.importorskip("imagecodecs")
    jpeg = bytearray(imagecodecs.jpeg8_encode(noise(8)))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 1] = 0xC5  # hierarchical
    with pytest.raises(UnsupportedTransferSyntaxError, match="no decoder for 8-bit JPEG Extended"):
        read_image(made(noise(8), uid.JPEGExtended12Bit, bytes(jpeg)))


# Who decodes


def test_the_best_installed_library_that_takes_an_image_decodes_it(monkeypatch):
    facts = {"rows": 7, "columns": 9, "samples": 1}
    plain, signed = codecs.Stream(**facts, bits=12), codecs.Stream(**facts, bits=12, is_signed=True)
    monkeypatch.setattr(codecs, "_module", lambda name: name)
    assert codecs.choose(uid.JPEG2000, plain).library == "pylibjpeg-openjpeg"
    hide(monkeypatch, EXTRAS)
    assert codecs.choose(uid.JPEG2000, plain).library == "opencv"
    assert codecs.choose(uid.JPEG2000, signed).library == "pillow"


def test_no_decoder_is_taken_from_pydicom_and_none_is_given_to_it():
    for syntax in codecs.SYNTAXES:
        if any(codec.is_installed for codec in codecs.SYNTAXES[syntax]):
            assert codecs.decoder(uid.UID(syntax)).available_plugins == ("medspark",)
    for syntax in (uid.RLELossless, uid.JPEG2000):
        assert "medspark" not in get_decoder(syntax).available_plugins


def test_out_of_memory_is_told_as_such(monkeypatch):
    def greedy(*_args, **_kwargs):
        raise MemoryError

    codec = codecs.Codec("greedy", "numpy", greedy, lambda _: True)
    monkeypatch.setitem(codecs.SYNTAXES, uid.RLELossless, (codec,))
    with pytest.raises(MemoryError):
        read_image(made(noise(8), uid.RLELossless, rle(noise(8))))
    monkeypatch.setattr(Decoder, "iter_array", lambda *_, **__: (greedy() for _ in [0]))  # pydicom's own
    with pytest.raises(MemoryError):
        read_image(make_dicom())


def flipped(jpeg, share=0.6):
    """Return a JPEG with a few bits of its scan changed, so that a decoder has to skip some."""
    start = jpeg.index(b"\xff\xda")
    at = start + int((len(jpeg) - start) * share)
    return jpeg[:at] + bytes(byte ^ 0x55 for byte in jpeg[at : at + 8]) + jpeg[at + 8 :]


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "RGB", "YBR_FULL_422"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2}])
def test_a_jpeg_whose_scan_is_damaged_is_corrupt_and_not_a_gray_smear(photometric, options):
    pixels = np.random.default_rng(0).integers(0, 255, (96, 80, 3)).astype(np.uint8)
    pixels = pixels if photometric != "MONOCHROME2" else pixels[..., 0]
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "JPEG", **options)
    attributes = {"PhotometricInterpretation": photometric}
    sound = made(pixels, uid.JPEGBaseline8Bit, file.getvalue(), **attributes)
    damaged = made(pixels, uid.JPEGBaseline8Bit, flipped(file.getvalue()), **attributes)
    assert outcome(sound).shape == pixels.shape
    np.asarray(Pillow.open(io.BytesIO(flipped(file.getvalue()))))  # Pillow says nothing
    assert outcome(damaged) in {"corrupt", "truncated"}


def test_a_lossless_jpeg_that_is_taken_for_luma_and_chroma_is_read_as_it_is_stored():
    imagecodecs = pytest.importorskip("imagecodecs")
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    jpeg = imagecodecs.jpeg8_encode(pixels, lossless=True, colorspace="RGB", outcolorspace="RGB")
    jfif = b"\xff\xe0" + struct.pack(">H5sHBHHBB", 16, b"JFIF\0", 0x0102, 0, 1, 1, 0, 0)
    for header in (b"", jfif):
        content = made(pixels, uid.JPEGLosslessSV1, jpeg[:2] + header + jpeg[2:])
        np.testing.assert_array_equal(outcome(content), pixels)
