import csv
import gzip
import hashlib

import numpy as np
import pytest

from medspark.errors import CorruptError, ImageError, TooLargeError, TruncatedError, UnsupportedFormatError
from medspark.readers import nifti, read_image

nibabel = pytest.importorskip("nibabel", reason="needs medspark[nifti]")

VOLUME = np.arange(4 * 3 * 2, dtype=np.int16).reshape(4, 3, 2)


def saved(array, kind=nibabel.Nifti1Image, slope=None, intercept=None):
    image = kind(array, np.diag([2.0, 3.0, 4.0, 1.0]))
    image.header.set_slope_inter(slope, intercept)
    return image.to_bytes()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_volume_is_its_slices_along_the_third_axis(kind, pack):
    found = read_image(pack(saved(VOLUME, kind)))
    assert np.array_equal(np.stack([frame.pixels for frame in found], axis=-1), VOLUME)
    assert [frame.number for frame in found] == [0, 1]
    assert found[0].spacing_mm == (2, 3)


def test_four_axes_are_volume_after_volume():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    found = [frame.pixels for frame in read_image(saved(array))]
    assert [pixels.tolist() for pixels in found] == [
        array[:, :, slice_, volume].tolist() for volume in range(2) for slice_ in range(2)
    ]


def test_scaling_is_applied_but_not_to_raw_values():
    content = saved(VOLUME, slope=0.5, intercept=-10)
    [first, _] = read_image(content)
    assert np.array_equal(first.pixels, VOLUME[:, :, 0] * 0.5 - 10)
    assert first.facts == {"modality_transform": "rescale", "rescale_slope": 0.5, "rescale_intercept": -10.0}
    raw = read_image(content, raw=True)[0].pixels
    assert raw.dtype == np.int16


def test_the_size_is_checked_by_the_header():
    with pytest.raises(TooLargeError):
        next(nifti.frames(saved(VOLUME), max_pixels=24))


def test_a_pair_of_files_is_refused_with_the_way_out():
    content = bytearray(saved(VOLUME))
    content[344:348] = b"ni1\0"
    with pytest.raises(UnsupportedFormatError, match=r"\.nii"):
        read_image(bytes(content))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_cut_volume_is_truncated(pack):
    with pytest.raises(TruncatedError):
        read_image(pack(saved(VOLUME))[:-9])


def test_a_changed_byte_in_a_gzip_stream_is_found():
    rng = np.random.default_rng(0)
    content = bytearray(gzip.compress(saved(rng.integers(0, 1000, (30, 30, 5)).astype(np.int16))))
    content[-4000] ^= 0xFF
    with pytest.raises((CorruptError, TruncatedError)):
        read_image(bytes(content))


def test_the_shared_volumes_are_as_their_table_says(shared_data):
    folder = shared_data / "nifti"
    with (folder / "expected.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 9
    for row in rows:
        if row["policy"] == "reject":
            with pytest.raises(ImageError):
                read_image(folder / row["path"], raw=True)
            continue
        stack = np.stack([frame.pixels for frame in read_image(folder / row["path"], raw=True)], axis=-1)
        shape = [int(side) for side in row["shape"].split("x")]
        array = np.ascontiguousarray(stack.reshape(shape, order="F"))
        assert (str(array.dtype), hashlib.sha256(array.tobytes()).hexdigest()) == (row["dtype"], row["pixel_sha256"])
