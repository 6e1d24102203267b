import io
import logging
import struct
import time
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from builders import make_jpeg, make_pixels, make_png
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from medspark.errors import CorruptError, ImageError, TooLargeError, TruncatedError, UnsupportedFormatError
from medspark.readers import jpeg, raster, read_image

GRAY = make_pixels(12, 17)
GRAY16 = make_pixels(12, 17, np.uint16) + np.arange(17, dtype=np.uint16)  # bits in both bytes
RGB = np.dstack([GRAY, GRAY[::-1], GRAY[:, ::-1]])
RGBA = np.dstack([RGB, GRAY // 2 + 50])
GRAY_ALPHA = np.ascontiguousarray(RGBA[..., 2:])
MASK = GRAY > 100


def by_pillow(kind, pixels, **options):
    image = pixels if isinstance(pixels, Pillow.Image) else Pillow.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def by_tifffile(pixels, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **{"photometric": "minisblack", **options})
    return file.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_by_hand(rows, columns, *, bits=8, colour=0, data=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def pillows(content):
    return np.asarray(Pillow.open(io.BytesIO(content)))


def tifffiles(content):
    return tifffile.imread(io.BytesIO(content))


PALETTE = Pillow.fromarray(RGB).quantize(16)
PALETTE_RGB = np.asarray(PALETTE.convert("RGB"))
GRAY_ALPHA16 = np.array([[[1000, 65535], [60000, 300]]], np.uint16)

# Content, and its pixels by somebody else: the array that was written (lossless) or another decoder's.
STORED = {
    "png": (by_pillow("PNG", GRAY), GRAY),
    "png rgb": (by_pillow("PNG", RGB), RGB),
    "png rgba": (by_pillow("PNG", RGBA), RGBA),
    "png gray and alpha": (by_pillow("PNG", GRAY_ALPHA), GRAY_ALPHA),
    "png 16-bit gray and alpha": (
        png_by_hand(1, 2, bits=16, colour=4, data=b"\0" + GRAY_ALPHA16.astype(">u2").tobytes()),
        GRAY_ALPHA16,
    ),
    "png palette": (by_pillow("PNG", PALETTE), PALETTE_RGB),
    "png 1-bit": (by_pillow("PNG", MASK), MASK * np.uint8(255)),
    "png 16-bit": (by_pillow("PNG", GRAY16), GRAY16),
    "png 16-bit rgb": (make_png(np.dstack([GRAY16] * 3)), np.dstack([GRAY16] * 3)),
    "bmp": (by_pillow("BMP", GRAY), GRAY),
    "bmp rgb": (by_pillow("BMP", RGB), RGB),
    "bmp palette": (by_pillow("BMP", PALETTE), PALETTE_RGB),
    "pgm": (by_pillow("PPM", GRAY), GRAY),
    "ppm": (by_pillow("PPM", RGB), RGB),
    "pgm ascii, a comment": (b"P2 # one\n2 2\n255\n1 2\n3 4\n", np.array([[1, 2], [3, 4]], np.uint8)),
    "pgm 12-bit": (b"P5 2 1 4095\n\x0f\xff\x00\x01", np.array([[4095, 1]], np.uint16)),  # not stretched to 65535
    "pbm": (by_pillow("PPM", MASK), MASK * np.uint8(255)),
    "pbm ascii": (b"P1\n# one\n3 2\n1 0 1\n011\n", np.array([[0, 255, 0], [255, 0, 0]], np.uint8)),
    "webp": (by_pillow("WEBP", RGB, lossless=True), RGB),
    "webp rgba": (by_pillow("WEBP", RGBA, lossless=True, exact=True), RGBA),
    "jpeg 2000": (by_pillow("JPEG2000", GRAY), GRAY),
    "jpeg 2000 rgb": (by_pillow("JPEG2000", RGB), RGB),
    "jpeg 2000 16-bit": (by_pillow("JPEG2000", GRAY16), GRAY16),
    "tiff rgb": (by_tifffile(RGB, photometric="rgb"), RGB),
    "tiff rgb by planes": (
        by_tifffile(np.moveaxis(RGB, 2, 0).copy(), photometric="rgb", planarconfig="separate"),
        RGB,
    ),
    "tiff palette": (by_pillow("TIFF", PALETTE), PALETTE_RGB),
    "tiff lzw": (by_pillow("TIFF", GRAY16, compression="tiff_lzw"), GRAY16),
    "tiff packbits": (by_pillow("TIFF", GRAY, compression="packbits"), GRAY),
    "tiff fax": (by_pillow("TIFF", MASK, compression="group4"), MASK * np.uint8(255)),
    "tiff deflate in tiles": (
        by_tifffile(np.tile(GRAY16, (4, 4)), compression="deflate", tile=(16, 16)),
        np.tile(GRAY16, (4, 4)),
    ),
    "jpeg cmyk": (by_pillow("JPEG", Pillow.fromarray(RGB).convert("CMYK")), None),
    "jpeg": (make_jpeg(GRAY), None),
    "jpeg rgb": (make_jpeg(RGB), None),
    "jpeg rgb, progressive": (by_pillow("JPEG", RGB, progressive=True), None),
}
TIFF_DTYPES = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64]


@pytest.mark.parametrize("name", STORED)
def test_raw_pixels_are_those_that_were_stored(name):
    content, pixels = STORED[name]
    expected = pillows(content) if pixels is None else pixels
    (frame,) = read_image(content, raw=True)
    assert frame.pixels.dtype == expected.dtype
    np.testing.assert_array_equal(frame.pixels, expected)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("dtype", TIFF_DTYPES)
def test_every_depth_of_a_gray_tiff_is_kept(dtype, bigtiff, byteorder):
    pixels = ((GRAY.astype(float) - 100) * 1.5).astype(dtype)
    content = by_tifffile(pixels, bigtiff=bigtiff, byteorder=byteorder)
    np.testing.assert_array_equal(tifffiles(content), pixels)
    for raw in (True, False):
        (frame,) = read_image(content, raw=raw)
        assert frame.pixels.dtype == dtype
        np.testing.assert_array_equal(frame.pixels, pixels)


@pytest.mark.parametrize(
    "name", [name for name in STORED if STORED[name][1] is None or STORED[name][1].dtype == np.uint8]
)
def test_gray_of_an_8_bit_file_is_what_the_articles_read(name):
    content, _ = STORED[name]
    (frame,) = read_image(content)
    np.testing.assert_array_equal(
        frame.pixels, cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE), strict=True
    )


def test_gray_is_the_luma_of_the_colours_within_one_level():
    expected = np.asarray(Pillow.fromarray(RGB).convert("L")).astype(int)
    for name in ("png rgb", "bmp rgb", "ppm", "webp", "tiff rgb", "png rgba"):
        (frame,) = read_image(STORED[name][0])
        assert np.abs(frame.pixels - expected).max() <= 1, name


def test_gray_beside_alpha_is_the_gray():
    np.testing.assert_array_equal(read_image(STORED["png gray and alpha"][0])[0].pixels, GRAY_ALPHA[..., 0])
    np.testing.assert_array_equal(read_image(STORED["png 16-bit gray and alpha"][0])[0].pixels, GRAY_ALPHA16[..., 0])


def test_a_16_bit_png_keeps_its_bits_which_the_articles_call_would_lose():
    content = by_pillow("PNG", GRAY16)
    np.testing.assert_array_equal(read_image(content)[0].pixels, GRAY16)
    assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE).dtype == np.uint8


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_an_image_is_not_turned_by_its_orientation(kind, options):
    exif = Pillow.Exif()
    exif[0x0112] = 6  # Orientation: turn by 90 degrees
    gray = np.dstack([GRAY] * 3) if kind == "WEBP" else GRAY
    (frame,) = read_image(by_pillow(kind, gray, exif=exif, **options))
    (unturned,) = read_image(by_pillow(kind, gray, **options))
    np.testing.assert_array_equal(frame.pixels, unturned.pixels)


@pytest.mark.parametrize("pixels", [GRAY, GRAY16, GRAY.astype(np.float32)], ids=["8 bit", "16 bit", "float"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_lies_as_it_was_stored_whatever_its_orientation(orientation, pixels):
    content = by_tifffile(pixels, extratags=[(274, "H", 1, orientation, True)])
    np.testing.assert_array_equal(tifffiles(content), pixels)
    for raw in (True, False):
        np.testing.assert_array_equal(read_image(content, raw=raw)[0].pixels, pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_where_zero_is_white_the_frame_is_dark_on_white_or_says_so(dtype):
    pixels = GRAY.astype(dtype)
    (frame,) = read_image(by_tifffile(pixels, photometric="miniswhite"))
    shown = np.iinfo(dtype).max - frame.pixels if frame.is_inverted else frame.pixels
    np.testing.assert_array_equal(shown, np.iinfo(dtype).max - pixels)


# What OpenCV would change without a word, or does not know: planes apart, alpha that is not in the colours yet, ink.
RGB16 = np.dstack([GRAY16, GRAY16[::-1], GRAY16[:, ::-1]])
BEYOND_OPENCV = {
    "16-bit rgb by planes": (np.moveaxis(RGB16, 2, 0), {"photometric": "rgb", "planarconfig": "separate"}),
    "rgb and alpha": (RGBA, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "rgb and alpha by planes": (
        np.moveaxis(RGBA, 2, 0),
        {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ["unassalpha"]},
    ),
    "ink": (RGBA, {"photometric": "separated"}),
    "gray and alpha": (GRAY_ALPHA, {"planarconfig": "contig", "extrasamples": ["unassalpha"]}),
    "16-bit gray and alpha": (RGB16[..., :2], {"planarconfig": "contig", "extrasamples": ["unassalpha"]}),
    "five samples": (np.dstack([RGBA, GRAY]), {"planarconfig": "contig"}),
    "dark on white": (GRAY, {"photometric": "miniswhite"}),
    "signed, dark on white": (GRAY.astype(np.int8), {"photometric": "miniswhite"}),
    "32-bit rgb": (RGB16.astype(np.int32) * 1000, {"photometric": "rgb"}),
    "float rgb": (RGB16.astype(np.float32), {"photometric": "rgb"}),
}


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("options", [{}, {"compression": "deflate"}, {"tile": (16, 16)}])
@pytest.mark.parametrize("name", BEYOND_OPENCV)
def test_a_tiff_that_opencv_would_change_is_read_as_it_is_stored(name, options, byteorder):
    pixels, layout = BEYOND_OPENCV[name]
    if "compression" in options:
        pytest.importorskip("imagecodecs")
    (frame,) = read_image(by_tifffile(pixels.copy(), byteorder=byteorder, **layout, **options), raw=True)
    stored = np.moveaxis(pixels, 0, 2) if layout.get("planarconfig") == "separate" else pixels
    np.testing.assert_array_equal(frame.pixels, stored, strict=True)
    assert frame.is_inverted == (layout.get("photometric") == "miniswhite")


@pytest.mark.parametrize("name", ["16-bit rgb by planes", "32-bit rgb", "float rgb"])
def test_gray_of_deep_colours_is_their_luma_however_they_are_laid_out(name):
    pixels, layout = BEYOND_OPENCV[name]
    colours = np.moveaxis(pixels, 0, 2) if "planarconfig" in layout else pixels
    (frame,) = read_image(by_tifffile(pixels.copy(), **layout))
    np.testing.assert_allclose(frame.pixels, colours @ np.array([0.299, 0.587, 0.114]), atol=1)


def test_gray_beside_a_deep_alpha_is_the_gray():
    pixels, layout = BEYOND_OPENCV["16-bit gray and alpha"]
    (frame,) = read_image(by_tifffile(pixels, **layout))
    np.testing.assert_array_equal(frame.pixels, GRAY16, strict=True)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("layout", [{}, {"photometric": "rgb"}])
def test_packed_values_of_a_tiff_are_not_stretched_to_16_bits(bits, layout):
    pytest.importorskip("imagecodecs")  # which packs them
    pixels = (RGB16 if layout else GRAY16) >> (16 - bits)
    (frame,) = read_image(by_tifffile(pixels, bitspersample=bits, **layout), raw=True)
    np.testing.assert_array_equal(frame.pixels, pixels, strict=True)


@pytest.mark.parametrize("compression", ["lzma", "zstd", "jpeg2000", "jpegxl", "jpegxr", "png", "lerc"])
def test_a_compression_that_opencv_does_not_know_is_refused_and_not_read_as_noise(compression):
    pytest.importorskip("imagecodecs")
    content = by_tifffile(GRAY, compression=compression)
    for raw in (True, False):
        with pytest.raises(UnsupportedFormatError, match="a tiff of uint8, compression"):
            read_image(content, raw=raw)


@pytest.mark.parametrize("dtype", [np.float16, np.complex64])
def test_values_that_no_step_takes_are_an_unsupported_variant(dtype):
    with pytest.raises(UnsupportedFormatError, match=f"a tiff of {np.dtype(dtype)}"):
        read_image(by_tifffile(GRAY.astype(dtype)))


def test_ink_of_16_bits_is_an_unsupported_variant_where_gray_is_wanted():
    with pytest.raises(UnsupportedFormatError, match="neither gray nor RGB"):
        read_image(by_tifffile(np.dstack([RGB16, GRAY16]), photometric="separated"))


def test_every_page_of_a_tiff_is_a_frame():
    pages = np.stack([GRAY16 + page for page in range(4)])
    frames = read_image(by_tifffile(pages), raw=True)
    assert [frame.number for frame in frames] == [0, 1, 2, 3]
    np.testing.assert_array_equal([frame.pixels for frame in frames], pages)


def test_pages_may_differ():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tiff:
        for page in (GRAY, GRAY16[:5], RGB):
            tiff.write(page)
    found = read_image(file.getvalue(), raw=True)
    for frame, page in zip(found, (GRAY, GRAY16[:5], RGB), strict=True):
        assert frame.pixels.dtype == page.dtype
        np.testing.assert_array_equal(frame.pixels, page)


def test_every_picture_of_a_gif_is_a_frame():
    pictures = [GRAY, GRAY[::-1], GRAY[:, ::-1]]
    rest = [Pillow.fromarray(picture) for picture in pictures[1:]]
    frames = read_image(by_pillow("GIF", GRAY, save_all=True, append_images=rest))
    np.testing.assert_array_equal([frame.pixels for frame in frames], pictures)


def test_a_directory_of_a_tiff_that_points_to_itself_ends():
    content = bytearray(by_tifffile(GRAY))
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        start = tiff.pages.first.offset
    next_at = start + 2 + 12 * int.from_bytes(content[start : start + 2], "little")
    assert content[next_at : next_at + 4] == b"\0\0\0\0"
    content[next_at : next_at + 4] = start.to_bytes(4, "little")
    np.testing.assert_array_equal(read_image(bytes(content))[0].pixels, GRAY)


# What goes wrong


@pytest.mark.parametrize(
    "name", ["png", "png 16-bit", "jpeg", "jpeg rgb, progressive", "bmp", "pgm", "webp", "jpeg 2000"]
)
def test_no_beginning_of_a_file_passes_for_the_whole(name):
    content, _ = STORED[name]
    for size in range(len(content)):
        with pytest.raises(ImageError):
            read_image(content[:size])


@pytest.mark.parametrize("name", ["png", "jpeg", "bmp", "webp", "tiff rgb", "tiff lzw"])
def test_half_a_file_is_truncated(name):
    content, _ = STORED[name]
    with pytest.raises(TruncatedError, match=f"ends before its end .{len(content) // 2} bytes"):
        read_image(content[: len(content) // 2])


def test_half_an_animation_is_truncated():
    content = by_pillow("GIF", GRAY, save_all=True, append_images=[Pillow.fromarray(GRAY[::-1])])
    with pytest.raises(TruncatedError):
        read_image(content[: len(content) // 2])


@pytest.mark.parametrize("name", ["tiff lzw", "tiff rgb", "tiff deflate in tiles"])
def test_a_cut_tiff_is_refused_or_whole(name):
    content, pixels = STORED[name]
    for size in range(0, len(content), 5):
        try:
            (frame,) = read_image(content[:size], raw=True)
        except ImageError:
            continue
        np.testing.assert_array_equal(frame.pixels, pixels)  # what was missing held no pixels


def test_a_byte_that_fails_its_checksum_makes_a_png_corrupt():
    content = bytearray(make_png())
    content[len(content) // 2] ^= 0x10
    with pytest.raises(CorruptError):
        read_image(bytes(content))


def test_a_chunk_that_promises_more_than_there_is_is_found_before_room_is_made_for_it(monkeypatch):
    content = bytearray(make_png())
    content[33] = 0x7F  # the length of IDAT, now of 2 GB
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("OpenCV was asked"))
    with pytest.raises(TruncatedError):
        read_image(bytes(content))


def test_pixels_that_a_png_header_promises_and_does_not_have_are_missed():
    with pytest.raises(ImageError):
        read_image(png_by_hand(100, 100, data=b"\0" * 50))


@pytest.mark.parametrize("name", STORED)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_changed_byte_gives_frames_or_an_image_error(name, data):
    content = bytearray(STORED[name][0])
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255))
    try:
        frames = list(raster.frames(bytes(content), max_pixels=10**6)) if raster.can_read(content) else []
    except ImageError:
        return
    assert all(frame.pixels.ndim == 2 for frame in frames)


@pytest.mark.parametrize(
    "head",
    [
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"II*\0",
        b"MM\0+",
        b"BM" + b"\0" * 12 + b"(",
        b"GIF89a",
        b"P5 ",
        b"\xff\x4f\xff\x51",
    ],
)
@settings(deadline=None)
@given(noise=st.binary(max_size=300))
def test_noise_behind_a_signature_is_an_image_error(head, noise):
    with pytest.raises(ImageError):
        read_image(head + noise)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_an_image_error(noise):
    with pytest.raises(ImageError):
        read_image(noise)


def jpeg_of(rows, columns):
    content = bytearray(make_jpeg(GRAY))
    at = content.index(b"\xff\xc0")  # SOF0: length, depth, rows, columns
    content[at + 5 : at + 9] = struct.pack(">HH", rows, columns)
    return bytes(content)


def tiff_of(rows, columns, tile=None):
    entries = [(256, columns), (257, rows), (258, 8), (259, 1), (262, 1), (277, 1)]
    if tile:
        entries += [(322, tile), (323, tile), (324, 8), (325, 4)]
    else:
        entries += [(273, 8), (278, rows), (279, 4)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + b"\0" * 4


@pytest.mark.parametrize(
    "content",
    [
        png_by_hand(40000, 40000, bits=1, data=b"\0" * 200),
        png_by_hand(2**31 - 1, 2**31 - 1, bits=16, colour=6),
        jpeg_of(65500, 65500),
        tiff_of(2**31, 2**31),
        b"BM" + struct.pack("<IIIIiiHHIIIIII", 1078, 0, 1078, 40, 40000, 40000, 1, 8, 0, 0, 0, 0, 0, 0),
        b"P5 40000 40000 255 \0",
        tiff_of(4, 4, tile=2**16),
        by_tifffile(np.stack([GRAY, GRAY])).replace(*[struct.pack("<HHII", 256, 4, 1, size) for size in (17, 2**31)]),
    ],
    ids=["png", "png beyond 32 bits", "jpeg", "tiff", "bmp", "pgm", "tile of a tiff", "page of a tiff"],
)
def test_a_bomb_is_refused_by_its_header(content):
    began = time.process_time()
    with pytest.raises(TooLargeError, match=r"pixels, fewer than 400000000 are allowed \(limits.max_pixels\)"):
        read_image(content)
    assert time.process_time() - began < 1


def test_the_limit_is_the_first_number_of_pixels_that_is_refused():
    content = make_png(np.zeros((20, 30), np.uint8))
    assert len(list(raster.frames(content, max_pixels=601))) == 1
    with pytest.raises(TooLargeError, match="20 x 30 pixels"):
        list(raster.frames(content, max_pixels=600))


@pytest.mark.parametrize(
    ("content", "n_bytes"),
    [
        (make_png(GRAY16), 2 * GRAY.size),
        (make_png(GRAY), GRAY.size),
        (by_tifffile(np.stack([GRAY16] * 3)), 6 * GRAY.size),
        (by_pillow("GIF", GRAY, save_all=True, append_images=[Pillow.fromarray(GRAY[::-1])]), 2 * GRAY.size),
        (make_jpeg(GRAY), GRAY.size),
    ],
    ids=["16-bit png", "png", "pages of a tiff", "gif", "jpeg"],
)
def test_what_does_not_fit_the_memory_is_refused_by_the_header(content, n_bytes):
    frames = jpeg.frames if jpeg.can_read(content) else raster.frames
    assert list(frames(content, max_pixels=10**6, max_bytes=n_bytes))
    with pytest.raises(TooLargeError, match=rf"{n_bytes} bytes when decoded.*limits\.memory_mb"):
        next(frames(content, max_pixels=10**6, max_bytes=n_bytes - 1))


def test_a_limit_above_pillows_own_counts_and_pillows_is_put_back(monkeypatch):
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 10)
    assert read_image(make_png())[0].pixels.shape == (48, 64)
    assert Pillow.MAX_IMAGE_PIXELS == 10


def test_messages_and_logs_do_not_quote_the_file(caplog, capfd):
    text = "Nobody^Test"
    exif = Pillow.Exif()
    exif[0x010E] = text
    files = [
        by_pillow("JPEG", GRAY, exif=exif),
        by_tifffile(GRAY, description=text),
        by_pillow("TIFF", GRAY, exif=exif),
    ]
    said = []
    with caplog.at_level(logging.DEBUG, "tifffile"):
        for content in files:
            assert text.encode() in content
            for size in range(8, len(content), 3):
                try:
                    read_image(content[:size])
                except ImageError as error:
                    said.append(f"{error!r} {error.__cause__!r}")
    assert len(said) > 100
    assert text not in "".join([*said, caplog.text, *capfd.readouterr()])
    assert not logging.getLogger("tifffile").disabled


# Writing


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_an_encoded_image_is_read_back_unchanged(dtype):
    pixels = GRAY.astype(dtype) * (1 if np.dtype(dtype).kind == "u" else -1)
    (frame,) = read_image(raster.encode(pixels[::-1]))
    assert frame.pixels.dtype == dtype
    np.testing.assert_array_equal(frame.pixels, pixels[::-1])


def test_masks_and_labels_are_encoded_with_their_values():
    np.testing.assert_array_equal(read_image(raster.encode(MASK))[0].pixels, MASK * np.uint8(255))
    labels = (GRAY.astype(np.int32) - 100) * 100_000
    np.testing.assert_array_equal(read_image(raster.encode(labels))[0].pixels, labels)
