"""Fingerprints: what they are, what they overlook, and which keys bring copies together."""

import cv2
import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from medspark import fingerprint as module
from medspark.errors import ContractError, StepError
from medspark.fingerprint import THRESHOLD, axes, distance, fingerprint, keys, moments, summed, unpack


def picture(seed, rows=224, columns=224):
    """Structures of all sizes, as 8 bits."""
    rng = np.random.default_rng(seed)
    layers = (size**-1.0 * cv2.resize(rng.normal(size=(size, size)), (columns, rows), interpolation=cv2.INTER_CUBIC)
              for size in (4, 8, 16, 32))  # fmt: skip
    image = sum(layers)
    return np.rint((image - image.min()) / np.ptp(image) * 255).astype(np.uint8)


def taken(*images):
    return unpack([fingerprint(image) for image in images])


def jpeg(image, quality):
    content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)


def resized(image, factor):
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


COPIES = {
    "half the size": lambda image: resized(image, 0.5),
    "twice the size": lambda image: resized(image, 2),
    "JPEG 30": lambda image: jpeg(image, 30),
    "cropped by 8 at each side": lambda image: image[8:-8, 8:-8],
    "cropped at one side": lambda image: image[:, 8:],
    "cropped, smaller": lambda image: resized(image[3:-7, 8:-1], 0.6),
    "cropped, JPEG 40": lambda image: jpeg(image[1:-8, 2:-6], 40),
    "smaller, JPEG 30": lambda image: jpeg(resized(image, 0.7), 30),
    "another window": lambda image: image.astype(np.int16) * 9 - 1000,
}


def test_it_is_the_blurred_image_in_16_x_16_averages_of_32_levels_a_deviation():
    image = picture(0, 64, 64).astype(np.float64)
    smooth = scipy.ndimage.gaussian_filter(image, 0.65 * 4, mode="reflect")
    cells = smooth.reshape(16, 4, 16, 4).mean((1, 3))
    expected = (cells - cells.mean()) / cells.std() * 32
    assert len(fingerprint(image)) == 256
    assert np.abs(taken(image)[0] - expected).max() <= 0.51


def test_what_is_far_from_the_mean_is_cut_off_at_127():
    image = np.zeros((64, 64))
    image[:4, :4] = 1
    assert taken(image).max() == 127


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64])
def test_a_flat_image_has_none(dtype):
    assert fingerprint(np.ones((30, 40), dtype)) is None
    assert fingerprint(np.zeros((1, 1), dtype)) is None


def test_an_image_whose_structures_are_too_fine_for_it_has_none():
    assert fingerprint(np.indices((128, 128)).sum(0) % 2) is None


def test_faint_structures_on_a_high_level_count():
    image = picture(2)
    assert distance(taken(image), taken(image * 1e-6 + 1000))[0] < 1e-4


def test_values_that_are_no_numbers_count_as_the_mean_of_the_others():
    image = picture(1).astype(np.float64)
    image[20:60, 30:80] = np.nan
    image[100, 100] = np.inf
    filled = np.where(np.isfinite(image), image, image[np.isfinite(image)].mean())
    assert fingerprint(image) == fingerprint(filled)
    assert fingerprint(np.full((20, 20), np.nan)) is None


@pytest.mark.parametrize("image", [np.zeros((2, 3, 3)), np.zeros(9), np.zeros((0, 5)), np.zeros((4, 4), complex)])
def test_what_is_no_grayscale_image_is_refused(image):
    with pytest.raises(StepError, match=r"rows x columns of real numbers, got \w+ \(.*\)"):
        fingerprint(image)


def test_another_number_of_bytes_is_refused():
    with pytest.raises(ContractError, match="255 bytes, not 256"):
        unpack([bytes(256), bytes(255)])


sizes = st.tuples(st.integers(1, 500), st.integers(1, 500))


@settings(max_examples=25)
@given(st.integers(0, 99), sizes, st.sampled_from([np.uint8, np.uint16, np.int16, np.float32]))
def test_it_is_the_same_to_the_last_bit_wherever_the_image_lies_and_leaves_it_alone(seed, size, dtype):
    image = (
        picture(seed, *size).astype(dtype) if min(size) > 1 else np.arange(size[0] * size[1], dtype=dtype).reshape(size)
    )
    apart = np.zeros((2 * size[0], 3 * size[1]), dtype)[::2, ::3]
    apart[...] = image
    before = image.copy()
    assert fingerprint(image) == fingerprint(apart) == fingerprint(np.asfortranarray(image))
    assert np.array_equal(image, before)


@settings(max_examples=25)
@given(st.integers(0, 99), st.floats(0.01, 100), st.floats(-1000, 1000))
def test_a_linear_change_of_the_values_changes_nothing(seed, gain, offset):
    image = picture(seed)
    changed = image * gain + offset
    assert np.abs(taken(image).astype(int) - taken(changed)).max() <= 1  # a value at the border of two levels
    assert distance(taken(image), taken(changed))[0] < 1e-4


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_within_the_threshold_and_other_images_are_not(name):
    images = [picture(seed) for seed in range(20)]
    originals, copies = taken(*images), taken(*map(COPIES[name], images))
    assert distance(originals, copies).max() <= THRESHOLD
    assert distance(originals, np.roll(copies, 1, axis=0)).min() > 10 * THRESHOLD


def test_the_search_ends_where_it_is_as_good_as_with_the_true_margins():
    images = [picture(seed) for seed in range(40)]
    originals, crops = taken(*images), taken(*(image[8:-8, 8:-8] for image in images))
    true = np.tile(np.full(4, 8 / 224, np.float32), (40, 1))
    overlap = module._overlap(originals.astype(np.float32), crops.astype(np.float32), true)
    assert np.all(distance(originals, crops) <= 1.1 * module._difference(*overlap))


def test_a_larger_crop_is_another_image():
    image = picture(5)
    assert distance(taken(image), taken(image[40:, 40:]))[0] > THRESHOLD


def test_the_distance_is_nothing_to_itself_and_the_same_from_either_side():
    some = taken(*(picture(seed) for seed in range(8)))
    others = taken(*(picture(seed)[5:, :-4] for seed in (0, 1, 2, 13, 14, 15, 16, 17)))
    assert np.allclose(distance(some, some), 0, atol=1e-12)
    assert np.array_equal(distance(some, others), distance(others, some))
    assert len(distance(some[:0], some[:0])) == 0


def test_pairs_do_not_know_of_each_other():
    some, others = (taken(*(picture(seed + more) for seed in range(5))) for more in (0, 1))
    many = module._BLOCK // 5 + 3
    together = distance(np.tile(some, (many, 1, 1)), np.tile(others, (many, 1, 1)))
    assert np.array_equal(together.reshape(many, 5), np.tile(distance(some, others), (many, 1)))


def test_without_a_crop_the_distance_is_one_minus_the_correlation_of_values_and_doubled_differences():
    a, b = (taken(picture(seed))[0, 1:-1, 1:-1].astype(float) for seed in (3, 4))
    described = [
        np.concatenate([(x - x.mean()).ravel(), *(2 * np.diff(x, axis=axis).ravel() for axis in (0, 1))])
        for x in (a, b)
    ]
    correlation = described[0] @ described[1] / np.prod([np.linalg.norm(x) for x in described])
    assert module._difference(a[None].astype(np.float32), b[None].astype(np.float32))[0] == pytest.approx(
        1 - correlation
    )


def test_an_image_with_nothing_within_its_border_is_like_nothing():
    framed = np.zeros((1, 16, 16), np.int8)
    framed[:, 0] = 90
    assert distance(framed, framed)[0] == 1


def test_the_cells_of_a_cropped_parabola_are_its_averages():
    def averages(low, high):
        edges = np.linspace(low, high, 17)
        return np.diff(edges**3 / 3) / np.diff(edges)

    for before, after in ((0, 0), (3, 0), (0, 20), (7, 14)):
        matrix = module._resamplings()[before, after]
        expected = averages(before * 0.0025, 1 - after * 0.0025)
        assert np.allclose(matrix @ averages(0, 1), expected, atol=1e-6)


def test_the_sums_are_the_same_to_the_last_bit_however_they_are_cut():
    many = taken(*(picture(seed) for seed in range(30)))
    whole = moments(many).to_bytes()
    shuffled = many[np.random.default_rng(0).permutation(30)]
    assert (
        summed(moments(part).to_bytes() for part in (shuffled[:1], shuffled[1:11], shuffled[11:])).to_bytes() == whole
    )
    assert summed([]).to_bytes() == moments(many[:0]).to_bytes()


def test_the_sums_are_those_of_numpy():
    many = taken(*(picture(seed) for seed in range(12)))
    coarse = many.astype(int).reshape(12, 8, 2, 8, 2).sum((2, 4)).reshape(12, 64)
    values = moments(many).values
    assert values[-1, -1] == 12
    assert np.array_equal(values[-1, :-1], coarse.sum(0))
    covariance = values[:-1, :-1] / 12 - np.outer(values[-1, :-1], values[-1, :-1]) / 144
    assert np.allclose(covariance, np.cov(coarse.T, bias=True))


def test_the_axes_are_where_images_differ_most_by_what_a_margin_changes():
    many = taken(*(picture(seed) for seed in range(60)))
    along, sums = axes(moments(many)), moments(many)
    coarse = many.astype(float).reshape(60, 8, 2, 8, 2).sum((2, 4)).reshape(60, 64)
    within = sums.changes / 60 * (56 / 3 / 49) + 4 * np.eye(64)
    gains = scipy.linalg.eigvals(np.linalg.solve(within, np.cov(coarse.T, bias=True))).real
    assert np.allclose(np.var(coarse @ along, axis=0), np.sort(gains)[::-1][: along.shape[1]])
    assert np.allclose(along.T @ within @ along, np.eye(along.shape[1]))


def test_copies_have_a_key_in_common_and_other_images_have_none():
    images = [picture(seed) for seed in range(150)]
    change = list(COPIES.values())
    originals = taken(*images)
    copies = taken(*(change[number % len(change)](image) for number, image in enumerate(images)))
    along = axes(moments(np.concatenate([originals, copies])))
    mine, theirs = (keys(some, along)[0] for some in (originals, copies))
    meet = np.array([[bool(set(one) & set(other)) for other in theirs] for one in mine.tolist()])
    assert mine.shape == (150, module.KEYS)
    assert np.diagonal(meet).mean() >= 0.99
    assert meet[~np.eye(150, dtype=bool)].mean() < 0.01


def test_the_keys_without_a_margin_are_those_of_the_crop():
    images = [picture(seed) for seed in range(80)]
    originals, crops = taken(*images), taken(*(image[4:-4, 4:-4] for image in images))
    along = axes(moments(originals))
    (mine, _), (theirs, _) = keys(originals, along), keys(crops, along)
    half = module.KEYS // 2
    assert np.mean(mine[:, half:] == theirs[:, :half]) > 0.7
    assert np.mean(mine[:, :half] == theirs[:, :half]) < 0.5


def test_the_places_of_copies_are_close():
    originals = taken(*(picture(seed) for seed in range(60)))
    smaller = taken(*(resized(picture(seed), 0.5) for seed in range(60)))
    along = axes(moments(originals))
    places, others = keys(originals, along)[1], keys(smaller, along)[1]
    assert np.abs(places - others).max() < 0.2 * places.std()


def test_keys_of_equal_fingerprints_are_equal_and_of_none_are_none():
    some = taken(picture(1), picture(2), picture(1))
    found, places = keys(some, axes(moments(some)))
    assert np.array_equal(found[0], found[2])
    assert places[0] == places[2] != places[1]
    assert keys(some[:0], axes(moments(some[:0])))[0].shape == (0, module.KEYS)
