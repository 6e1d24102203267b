"""What each member of STEPS promises, tested from the moment it is listed."""

from functools import partial

import numpy as np
import pytest

from medspark.errors import StepError
from medspark.steps import STEPS
from medspark.steps.intensity import to_uint8

REQUIRED = {
    "window": {"center": 100, "width": 150},
    "resize": {"rows": 20, "columns": 33},
    "rotate": {"degrees": 10},
}
STEPS_WITH_PARAMETERS = [partial(step, **REQUIRED.get(name, {})) for name, step in STEPS.items()]
DTYPES = [np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64]

every_step = pytest.mark.parametrize("step", STEPS_WITH_PARAMETERS, ids=STEPS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def noise(dtype=np.uint8, shape=(37, 41)):
    return np.random.default_rng(12).integers(0, 200, shape).astype(dtype)


def result_or_refusal(step, image):
    """A StepError is an answer too, and must be the same one each time."""
    try:
        return step(image)
    except StepError as error:
        return str(error)


def assert_same(answer, other):
    if isinstance(answer, str):
        assert answer == other
        return
    assert answer.dtype == other.dtype
    np.testing.assert_array_equal(answer, other)


@every_step
def test_8_bit_images_are_taken_and_stay_images(step):
    result = step(noise())
    assert result.ndim == 2
    assert result.dtype in DTYPES


@every_step
def test_16_bit_images_are_taken_or_told_to_go_through_to_uint8(step):
    answer = result_or_refusal(step, noise(np.uint16))
    if isinstance(answer, str):
        assert "got uint16: put to_uint8 before it" in answer
        assert step.func.__name__ in answer
        answer = step(to_uint8(noise(np.uint16)))
    assert answer.ndim == 2


@every_step
@every_dtype
def test_the_image_stays_as_it_was(step, dtype):
    image = noise(dtype)
    result_or_refusal(step, image)
    np.testing.assert_array_equal(image, noise(dtype))


@every_step
@every_dtype
def test_a_read_only_image_is_taken_as_well(step, dtype):
    image = noise(dtype)
    image.flags.writeable = False
    assert_same(result_or_refusal(step, image), result_or_refusal(step, noise(dtype)))


@every_step
@every_dtype
def test_the_answer_is_the_same_each_time_wherever_it_comes_to_lie_in_memory(step, dtype):
    answers = []  # all are kept, so that each has a place of its own
    for offset in range(6):
        image = np.empty(37 * 41 + offset, dtype)[offset:].reshape(37, 41)
        image[:] = noise(dtype)
        answers.append(result_or_refusal(step, image))
        step(noise(shape=(50, 23 + offset)))
    for answer in answers[1:]:
        assert_same(answer, answers[0])


@every_step
@every_dtype
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
@pytest.mark.parametrize("value", [0, 1, 200])
def test_images_of_a_pixel_or_a_line_are_taken_or_refused(step, dtype, shape, value):
    answer = result_or_refusal(step, np.full(shape, value, dtype))
    if isinstance(answer, str):
        assert f"got {np.dtype(dtype)}" in answer  # the dtype, never the size
    else:
        assert np.isfinite(answer).all()


@every_step
@every_dtype
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
def test_a_view_gives_what_its_contiguous_copy_gives(step, dtype, view):
    seen = view(noise(dtype, (60, 71)))
    assert not seen.flags.c_contiguous
    assert_same(result_or_refusal(step, seen), result_or_refusal(step, seen.copy(order="C")))


@every_step
def test_swapped_bytes_are_read_right_or_refused(step):
    answer = result_or_refusal(step, noise(">u2"))  # OpenCV would take them as they lie
    if isinstance(answer, str):
        assert "got >u2" in answer
    else:
        np.testing.assert_array_equal(answer, step(noise(np.uint16)))
