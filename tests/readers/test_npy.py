import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from medspark.errors import ImageError, TooLargeError, TruncatedError, UnsupportedFormatError
from medspark.readers import npy, read_image


def saved(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


@given(
    npst.arrays(
        st.sampled_from(["u1", "<u2", ">i2", "<f4", ">f8"]), npst.array_shapes(min_dims=2, max_dims=3, max_side=5)
    )
)
def test_an_array_comes_back_frame_by_frame(array):
    found = [frame.pixels for frame in npy.frames(saved(array), max_pixels=1 << 20)]
    assert np.array_equal(np.stack(found), array if array.ndim == 3 else array[None], equal_nan=array.dtype.kind == "f")
    assert all(pixels.dtype.isnative for pixels in found)


def test_an_array_in_columns_order_keeps_its_rows():
    array = np.asfortranarray(np.arange(6).reshape(2, 3))
    assert np.array_equal(read_image(saved(array))[0].pixels, array)


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros((1, 2, 3, 4)), np.zeros((2, 2), complex), np.zeros((0, 3))])
def test_what_is_no_image_is_refused(array):
    with pytest.raises(UnsupportedFormatError):
        read_image(saved(array))


def test_objects_are_never_unpickled():
    with pytest.raises(UnsupportedFormatError):
        read_image(saved(np.array([[{}]], dtype=object), allow_pickle=True))


def test_the_size_is_checked_by_the_header():
    with pytest.raises(TooLargeError):
        next(npy.frames(saved(np.zeros((10, 10))), max_pixels=100))
    header = saved(np.zeros((10, 10))).replace(b"(10, 10)", b"(9999, 9999)"[:12])
    with pytest.raises(ImageError):
        read_image(header)


def test_every_prefix_is_an_image_error():
    content = saved(np.arange(12, dtype=np.int16).reshape(3, 4))
    with pytest.raises(TruncatedError):
        read_image(content[:-1])
    for length in range(1, len(content)):
        with pytest.raises(ImageError):
            read_image(content[:length])
