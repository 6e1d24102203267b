import io

import cv2
import numpy as np
import pytest
from builders import make_jpeg, make_pixels
from PIL import Image

from medspark.errors import CorruptError, ImageError, TooLargeError, TruncatedError
from medspark.readers import jpeg, read_image

PIXELS = make_pixels(60, 80)
COLOUR = np.dstack([PIXELS, PIXELS[::-1], PIXELS[:, ::-1]])


def only_frame(content, **options):
    [frame] = jpeg.frames(content, max_pixels=1 << 20, **options)
    return frame.pixels


def pillow_jpeg(mode, **options):
    file = io.BytesIO()
    Image.fromarray(COLOUR).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:2:2"}, {"quality": 20}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_gray_is_what_the_articles_read_and_raw_is_what_opencv_reads(mode, options):
    content = pillow_jpeg(mode, **options)
    data = np.frombuffer(content, np.uint8)
    assert np.array_equal(only_frame(content), cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))
    stored = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert np.array_equal(only_frame(content, raw=True), stored if mode == "L" else stored[..., ::-1])


def test_cmyk_keeps_its_four_samples():
    content = pillow_jpeg("CMYK")
    assert np.array_equal(only_frame(content, raw=True), np.asarray(Image.open(io.BytesIO(content))))


def test_exif_orientation_is_left_alone():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert only_frame(pillow_jpeg("L", exif=exif)).shape == PIXELS.shape


def test_damage_that_other_decoders_smear_over_is_corrupt():
    content = bytearray(make_jpeg(make_pixels(200, 200)))
    start = content.rfind(b"\xff\xda") + 20
    content[start + 500 : start + 540] = bytes(40)
    assert cv2.imdecode(np.frombuffer(bytes(content), np.uint8), cv2.IMREAD_GRAYSCALE) is not None
    with pytest.raises(CorruptError):
        read_image(bytes(content))


@pytest.mark.parametrize("left", [0.3, 0.6, 0.95])
def test_a_cut_scan_is_truncated(left):
    content = make_jpeg(make_pixels(200, 200))
    with pytest.raises(TruncatedError):
        read_image(content[: int(len(content) * left)])


def test_every_prefix_is_an_image_error():
    content = make_jpeg(make_pixels(16, 16))
    for length in range(4, len(content) - 2):
        with pytest.raises(ImageError):
            read_image(content[:length])


def test_the_size_in_the_header_is_checked_before_decoding():
    content = bytearray(make_jpeg(PIXELS))
    frame_header = content.find(b"\xff\xc0")
    content[frame_header + 5 : frame_header + 9] = b"\xff\xdc\xff\xdc"  # 65500 x 65500
    with pytest.raises(TooLargeError, match="65500 x 65500"):
        read_image(bytes(content))


def test_bit_rot_in_the_shared_archive_is_found(shared_data):
    with pytest.raises(CorruptError):
        read_image(shared_data / "formats" / "jpeg_bitrot.jpg")
