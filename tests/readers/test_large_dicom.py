"""DICOM files that are too large for memory: read from the open file, one frame at a time."""

import io
import json
import struct
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pydicom
import pytest
from builders import make_dicom, make_pixels, make_png
from pydicom import uid
from pydicom.encaps import encapsulate, encapsulate_extended

from medspark import readers
from medspark.errors import CorruptError, ImageError, NoPixelDataError, TooLargeError, TruncatedError, UnreadableError
from medspark.frame import Limits
from medspark.readers import dicom, opened, read_frames, read_image

STACK = np.stack([make_pixels(9, 13, np.uint16, seed) // 7 for seed in range(5)])  # an odd number of pixels in a frame
BYTES = (STACK >> 6).astype(np.uint8)
BITS = STACK > 4000


def packed(bits):
    return np.packbits(bits.ravel(), bitorder="little").tobytes()


def rle_frames():
    dataset = pydicom.dcmread(io.BytesIO(make_dicom(STACK)))
    dataset.compress(uid.RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    return list(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=len(STACK)))


def with_extended_offsets():
    value, offsets, lengths = encapsulate_extended(rle_frames())
    tables = {"ExtendedOffsetTable": offsets, "ExtendedOffsetTableLengths": lengths}
    return make_dicom(STACK, uid.RLELossless, PixelData=value, **tables)


COLOURS = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
RGB = np.stack([BYTES, BYTES // 2, BYTES // 3], axis=-1)
CONTENTS = {
    "native": make_dicom(STACK),
    "implicit": make_dicom(STACK, uid.ImplicitVRLittleEndian),
    "big endian": make_dicom(STACK, uid.ExplicitVRBigEndian, PixelData=STACK.astype(">u2").tobytes()),
    "no preamble": make_dicom(STACK, preamble=False),
    "8 bits, odd length": make_dicom(BYTES[:3], PixelData=BYTES[:3].tobytes() + b"\0"),
    "8 bits, big endian words": make_dicom(
        BYTES[:4], uid.ExplicitVRBigEndian, PixelData=np.frombuffer(BYTES[:4].tobytes(), ">u2").astype("<u2").tobytes()
    ),
    "1 bit": make_dicom(BYTES, PixelData=packed(BITS), BitsAllocated=1, BitsStored=1, HighBit=0),
    "high bit": make_dicom(STACK << 4, BitsStored=12),
    "float": make_dicom(STACK.astype(np.float32), PixelData=None, FloatPixelData=STACK.astype(np.float32).tobytes()),
    "double": make_dicom(STACK.astype(float), PixelData=None, DoubleFloatPixelData=STACK.astype(float).tobytes()),
    "rgb": make_dicom(BYTES, PixelData=RGB.tobytes(), **COLOURS),
    "rgb by planes": make_dicom(
        BYTES, PixelData=np.moveaxis(RGB, -1, 1).tobytes(), **{**COLOURS, "PlanarConfiguration": 1}
    ),
    "subsampled": make_dicom(
        BYTES[..., :12],
        PixelData=np.arange(5 * 9 * 12 * 2, dtype=np.uint8).tobytes(),
        **{**COLOURS, "PhotometricInterpretation": "YBR_FULL_422"},
    ),
    "deflated": make_dicom(STACK, uid.DeflatedExplicitVRLittleEndian),
    "basic offsets": make_dicom(STACK, uid.RLELossless, PixelData=encapsulate(rle_frames())),
    "no offsets": make_dicom(STACK, uid.RLELossless, PixelData=encapsulate(rle_frames(), has_bot=False)),
    "extended offsets": with_extended_offsets(),
    "a fragment is missing": make_dicom(STACK, uid.RLELossless, PixelData=encapsulate(rle_frames()[:3])),
    "more frames than it says": make_dicom(STACK, NumberOfFrames=3),
    "no pixels": make_dicom(STACK, PixelData=None),
}
EXPECTED = {
    **dict.fromkeys(CONTENTS, STACK),
    "8 bits, odd length": BYTES[:3],
    "8 bits, big endian words": BYTES[:4],
    "1 bit": BITS,
    "high bit": STACK % 4096,
    "rgb": RGB,
    "rgb by planes": RGB,
}
OTHERWISE = {"subsampled", "a fragment is missing", "no pixels"}


def found(content, **options):
    """Return what comes out, frame by frame, and how it ends."""
    frames = []
    try:
        for frame in read_frames(content, **options):
            pixels = frame.pixels
            frames.append((frame.number, pixels.dtype, pixels.shape, pixels.tobytes(), frame.flags, dict(frame.facts)))
    except ImageError as error:
        return [*frames, (error.reason, str(error))]
    return frames


def found_in_file(path, content, **options):
    path.write_bytes(content)
    with path.open("rb") as file:
        return found(file, **options)


@pytest.mark.parametrize("name", [name for name in CONTENTS if name not in OTHERWISE])
def test_the_stored_values_of_every_frame_come_out_of_an_open_file(name, tmp_path):
    (tmp_path / "it").write_bytes(CONTENTS[name])
    with (tmp_path / "it").open("rb") as file:
        pixels = [frame.pixels for frame in read_frames(file, raw=True)]
    np.testing.assert_array_equal(pixels, EXPECTED[name])


@pytest.mark.parametrize("share", [1, 0.99, 0.7, 0.2])
@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_gives_what_its_bytes_give_whole_or_cut(name, raw, share, tmp_path):
    content = CONTENTS[name][: max(600, int(len(CONTENTS[name]) * share))]
    assert found_in_file(tmp_path / "it", content, raw=raw) == found(content, raw=raw)


def test_the_shared_objects_give_the_same_from_a_file_and_from_bytes(shared_data):
    paths = [path for path in sorted((shared_data / "dicom").rglob("*")) if path.is_file()]
    contents = [(path, path.read_bytes()) for path in paths]
    objects = [(path, content) for path, content in contents if dicom.can_read(content)]
    assert len(objects) > 200
    for path, content in objects:
        with path.open("rb") as file:
            assert found(file) == found(content), path.name


def test_only_a_large_dicom_file_stays_open(tmp_path, monkeypatch):
    (tmp_path / "a.dcm").write_bytes(CONTENTS["native"])
    (tmp_path / "b.png").write_bytes(make_png())
    with opened(str(tmp_path / "a.dcm")) as content:
        assert content == CONTENTS["native"]
    monkeypatch.setattr(readers, "LARGE_BYTES", len(CONTENTS["native"]) - 1)
    with opened(str(tmp_path / "a.dcm")) as content:
        assert content.name != ""
        assert [frame.number for frame in read_frames(content)] == [0, 1, 2, 3, 4]
    assert content.closed
    monkeypatch.setattr(readers, "LARGE_BYTES", 0)
    with opened(str(tmp_path / "b.png")) as content:
        assert content == make_png()
    np.testing.assert_array_equal([frame.pixels for frame in read_image(tmp_path / "a.dcm")], STACK)


# Three GiB, most of it a hole in a sparse file

SIDE, N_FRAMES = 4096, 96
FRAME_BYTES = SIDE * SIDE * 2
READ = """
import json, resource, sys
from itertools import islice
from medspark.frame import Limits
from medspark.readers import opened, read_frames
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
limits = Limits(memory_mb=300)
before = peak()
with opened(sys.argv[1], limits=limits) as content:
    frames = islice(read_frames(content, limits=limits), int(sys.argv[2]))
    found = [[frame.number, int(frame.pixels[0, 0]), int(frame.pixels[-1, -1])] for frame in frames]
print(json.dumps([found, peak() - before]))
"""


def read_apart(path, n_frames):
    """Return frames as [number, first pixel, last pixel], and how much memory another process took for them."""
    run = subprocess.run([sys.executable, "-c", READ, path, str(n_frames)], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def write_sparse(path, side, n_frames, *, n_before=0):
    """Write an object whose first, second and last frame have values at their ends; the rest are holes."""
    content = make_dicom(np.zeros((1, 1), np.uint16), Rows=side, Columns=side, NumberOfFrames=n_frames)
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 2)
    head = content[: content.index(pixels)]
    if n_before:
        head += struct.pack("<HH2sHI", 0x6FFF, 0x1010, b"OB", 0, n_before)
    start = len(head) + n_before + len(pixels)
    size = 2 * side * side
    with path.open("wb") as file:
        file.write(head)
        file.seek(n_before, 1)
        file.write(pixels[:-4] + struct.pack("<I", n_frames * size))
        for number in (0, 1, n_frames - 1):
            file.seek(start + number * size)
            file.write(struct.pack("<H", 100 + number))
            file.seek(start + (number + 1) * size - 2)
            file.write(struct.pack("<H", 200 + number))


def test_of_a_file_of_3_gib_only_the_frames_that_are_asked_for_are_read(tmp_path):
    write_sparse(tmp_path / "large", SIDE, N_FRAMES)
    assert (tmp_path / "large").stat().st_size > 3 << 30
    frames, n_bytes = read_apart(tmp_path / "large", 3)
    assert frames == [[0, 100, 200], [1, 101, 201], [2, 0, 0]]
    assert n_bytes < 6 * FRAME_BYTES  # of 96


def test_frames_behind_3_gib_are_read_from_there(tmp_path):
    write_sparse(tmp_path / "large", 64, 3, n_before=3 << 30)
    frames, n_bytes = read_apart(tmp_path / "large", 9)
    assert frames == [[0, 100, 200], [1, 101, 201], [2, 102, 202]]
    assert n_bytes < 64 << 20


def test_from_the_first_to_the_last_frame_the_memory_stays_that_of_a_few(tmp_path):
    write_sparse(tmp_path / "large", 1024, 200)
    assert (tmp_path / "large").stat().st_size > readers.LARGE_BYTES
    frames, n_bytes = read_apart(tmp_path / "large", 999)
    assert (len(frames), frames[-1]) == (200, [199, 299, 399])
    assert n_bytes < 64 << 20  # of 400 MB


def test_a_large_file_that_is_cut_says_so_before_the_first_frame(tmp_path):
    path = tmp_path / "large"
    write_sparse(path, SIDE, N_FRAMES)
    with path.open("r+b") as file:
        file.truncate(1 << 30)
    with opened(str(path)) as content, pytest.raises(TruncatedError, match=r"of 3221225472 bytes"):
        next(read_frames(content))


# Limits


def test_a_frame_that_does_not_fit_is_refused_by_the_header():
    content = make_dicom(np.zeros((1024, 1024), np.uint16))
    assert len(list(read_frames(content, limits=Limits(memory_mb=2)))) == 1
    with pytest.raises(TooLargeError, match=r"2097152 bytes when decoded, the limit is 1048576 .limits\.memory_mb"):
        next(read_frames(content, limits=Limits(memory_mb=1)))


def test_the_file_may_be_larger_than_the_memory_if_a_frame_fits(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LARGE_BYTES", 1 << 20)
    (tmp_path / "it").write_bytes(make_dicom(np.zeros((3, 700, 700), np.uint16)))
    with opened(str(tmp_path / "it"), limits=Limits(memory_mb=1)) as content:
        assert len(list(read_frames(content, limits=Limits(memory_mb=1)))) == 3


def test_a_fragment_that_does_not_fit_is_refused():
    fragment = bytes(1 << 21)
    content = make_dicom(np.zeros((4, 4), np.uint8), uid.JPEG2000Lossless, PixelData=encapsulate([fragment]))
    with pytest.raises(TooLargeError, match=r"a value of 2097152 bytes, the limit is 1048576 .limits\.memory_mb"):
        next(read_frames(content, limits=Limits(memory_mb=1)))


def test_a_deflated_bomb_is_refused_before_it_unfolds():
    content = make_dicom(np.zeros((6000, 6000), np.uint16), uid.DeflatedExplicitVRLittleEndian)
    assert len(content) < 1 << 18
    tracemalloc.start()
    with pytest.raises(TooLargeError, match=r"more than 16777216 bytes when inflated .limits\.memory_mb"):
        next(read_frames(content, limits=Limits(memory_mb=16)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20  # of 72 MB


def test_a_deflated_object_within_the_limit_is_read_though_it_might_have_been_a_bomb():
    pixels = np.arange(300 * 400, dtype=np.uint16).reshape(300, 400)
    content = make_dicom(pixels, uid.DeflatedExplicitVRLittleEndian)
    assert len(content) * 1032 > 1 << 20
    (frame,) = read_frames(content, limits=Limits(memory_mb=1))
    np.testing.assert_array_equal(frame.pixels, pixels)


# What is odd


def private(content, n_bytes):
    """Return an explicit object with a long private element before its pixel data."""
    at = content.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
    return content[:at] + struct.pack("<HH2sHI", 0x6FFF, 0x1010, b"OB", 0, n_bytes) + bytes(n_bytes) + content[at:]


def test_a_long_value_before_the_pixels_is_passed_by_and_missed_where_it_is_cut():
    content = private(CONTENTS["native"], 3 << 20)
    np.testing.assert_array_equal([frame.pixels for frame in read_frames(content)], STACK)
    with pytest.raises(TruncatedError, match="ends inside an element"):
        next(read_frames(content[: 2 << 20]))
    with pytest.raises(NoPixelDataError):
        next(read_frames(private(CONTENTS["native"], 3 << 20)[: -12 - STACK.nbytes]))


def test_a_long_table_is_read_when_it_is_asked_for():
    """The sequence with the lookup table is longer than what is read while the header is parsed."""
    table = np.arange(1 << 16, dtype=np.uint16)[::-1]
    padding = pydicom.Dataset()
    padding.LUTDescriptor, padding.LUTData = [0, 0, 16], table.tobytes()
    padding.add_new(0x00091001, "OB", bytes(2 << 20))
    padding.add_new(0x00090010, "LO", "TEST")
    content = make_dicom(STACK[0], ModalityLUTSequence=[padding])
    (frame,) = read_frames(content)
    np.testing.assert_array_equal(frame.pixels, table[STACK[0]])


def test_zeros_behind_the_pixels_are_not_taken_for_millions_of_elements():
    content = CONTENTS["native"] + bytes(64 << 20)
    began = time.process_time()
    np.testing.assert_array_equal([frame.pixels for frame in read_frames(content)], STACK)
    assert time.process_time() - began < 2  # pydicom alone: 25 s


def test_an_object_that_turns_into_zeros_before_its_pixels_is_truncated():
    content = CONTENTS["native"]
    for size in (content.index(b"Nobody^Test") + 11, content.index(b"1.2.3.4")):
        with pytest.raises(TruncatedError):
            list(read_frames(content[:size] + bytes(1 << 16)))


def test_frames_of_eight_zeros_are_frames_and_no_padding():
    stack = np.zeros((1000, 2, 2), np.uint16)
    stack[-1] = 7
    np.testing.assert_array_equal([frame.pixels for frame in read_frames(make_dicom(stack))], stack)
    np.testing.assert_array_equal([frame.pixels for frame in read_frames(make_dicom(stack[:999]))], stack[:999])


def test_a_bit_less_than_all_pixels_is_truncated():
    content = make_dicom(BYTES, PixelData=packed(BITS)[:-2], BitsAllocated=1, BitsStored=1, HighBit=0)
    with pytest.raises(TruncatedError, match="the pixel data has 72 of 74 bytes"):
        next(read_frames(content))


def test_pixel_data_as_long_as_if_they_were_not_subsampled_are_corrupt():
    content = make_dicom(BYTES, PixelData=RGB.tobytes(), **{**COLOURS, "PhotometricInterpretation": "YBR_FULL_422"})
    with pytest.raises(CorruptError, match="are not subsampled"):
        next(read_frames(content))


@pytest.mark.parametrize("attributes", [{"NumberOfFrames": -3}, {"FloatPixelData": STACK.tobytes()}])
def test_a_header_that_contradicts_itself_is_corrupt(attributes):
    with pytest.raises(CorruptError):
        next(read_frames(make_dicom(STACK, **attributes)))


class Failing(io.BytesIO):
    """A file on a disk that fails behind a place."""

    def read(self, size=-1, /):
        if self.tell() >= 600:
            raise OSError(5, "ZZQ secret")
        return super().read(size)


def test_a_disk_that_fails_makes_a_file_unreadable_and_not_corrupt():
    with pytest.raises(UnreadableError, match="cannot be read: Input/output error") as caught:
        list(read_frames(Failing(CONTENTS["native"])))
    assert "ZZQ" not in str(caught.value)
