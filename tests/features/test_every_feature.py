"""What each member of FEATURES promises, tested from the moment it is listed."""

import re

import numpy as np
import pytest

from medspark.errors import StepError
from medspark.features import FEATURES

DTYPES = [np.uint8, np.uint16, np.int16, np.float32, np.float64]
every_feature = pytest.mark.parametrize("feature", FEATURES.values(), ids=FEATURES)


def noise(shape=(37, 41), dtype=np.uint8):
    return np.random.default_rng(7).integers(0, 200, shape).astype(dtype)


def values_or_refusal(feature, image):
    """A StepError is an answer too, and must be the same one each time."""
    try:
        return list(feature(image).items())
    except StepError as error:
        return str(error)


@every_feature
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_8_and_16_bit_images_are_taken(feature, dtype):
    assert feature(noise(dtype=dtype))


@every_feature
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_image_stays_as_it_was(feature, dtype):
    image = noise(dtype=dtype)
    values_or_refusal(feature, image)
    np.testing.assert_array_equal(image, noise(dtype=dtype))


@every_feature
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_read_only_image_is_taken_as_well(feature, dtype):
    image = noise(dtype=dtype)
    image.flags.writeable = False
    assert values_or_refusal(feature, image) == values_or_refusal(feature, noise(dtype=dtype))


@every_feature
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_answer_is_the_same_to_the_last_bit_whatever_ran_before(feature, dtype):
    before = values_or_refusal(feature, noise(dtype=dtype))
    for other in FEATURES.values():
        other(noise((50, 23)))
    assert values_or_refusal(feature, noise(dtype=dtype)) == before


@every_feature
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [1, 3, 8])
def test_the_answer_does_not_depend_on_where_the_image_lies_in_memory(feature, dtype, offset):
    image = noise(dtype=dtype)
    elsewhere = np.empty(image.size + offset, dtype)[offset:].reshape(image.shape)
    elsewhere[:] = image
    assert values_or_refusal(feature, elsewhere) == values_or_refusal(feature, image)


@every_feature
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "view",
    [
        lambda image: image[::2, ::3],
        lambda image: image[::-1],
        lambda image: image[:, ::-1],
        lambda image: image.T,
        lambda image: image[3:-2, 5:-1],
    ],
    ids=["every_other", "upside_down", "mirrored", "transposed", "cut_out"],
)
def test_a_view_gives_what_its_contiguous_copy_gives(feature, dtype, view):
    seen = view(noise((60, 71), dtype))
    assert not seen.flags.c_contiguous
    assert values_or_refusal(feature, seen) == values_or_refusal(feature, seen.copy(order="C"))


@every_feature
def test_the_columns_are_the_same_for_every_image(feature):
    columns = list(feature(noise()))
    images = [
        noise((64, 5)),
        noise((5, 64)),
        noise(dtype=np.uint16),
        np.zeros((9, 9), np.uint8),
        np.full((300, 200), 255, np.uint8),
    ]
    for image in images:
        assert list(feature(image)) == columns


@every_feature
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 2), (30, 30)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", ["black", "gray", "white"])
def test_flat_and_tiny_images_give_finite_floats_or_are_refused(feature, shape, dtype, level):
    white = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1.0
    image = np.full(shape, {"black": 0, "gray": white // 2, "white": white}[level], dtype)
    answer = values_or_refusal(feature, image)
    if isinstance(answer, str):
        assert "got" in answer  # the message names what it was given
        return
    for _, value in answer:
        assert type(value) is float
        assert np.isfinite(value)


@every_feature
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_flat_integer_images_of_a_fair_size_are_never_refused(feature, dtype):
    for level in (0, 1, np.iinfo(dtype).max):
        assert feature(np.full((30, 30), level, dtype))


@every_feature
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_pixel_that_is_no_number_gives_finite_floats_or_is_refused(feature, value):
    image = noise(dtype=np.float32)
    image[3, 4] = value
    answer = values_or_refusal(feature, image)
    assert isinstance(answer, str) or np.isfinite([number for _, number in answer]).all()


@every_feature
def test_a_colour_image_is_refused(feature):
    with pytest.raises(StepError, match=re.escape("(6, 6, 3)")):
        feature(np.zeros((6, 6, 3), np.uint8))


def test_columns_are_snake_case_and_no_two_features_share_one():
    columns = [column for feature in FEATURES.values() for column in feature(noise())]
    assert all(re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", column) for column in columns)
    assert len(set(columns)) == len(columns)
