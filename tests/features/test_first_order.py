import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.measure import shannon_entropy

from medspark.errors import StepError
from medspark.features.first_order import first_order

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)
WHOLE_IMAGES = st.sampled_from([np.uint8, np.uint16, np.int16]).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES))
FLOAT_IMAGES = hnp.arrays(np.float32, SHAPES, elements=st.floats(-3000, 3000, width=32).map(lambda x: round(x, 2)))


def by_numpy_and_scipy(image):
    levels = image.astype(np.float64).ravel()
    p10, p25, p50, p75, p90 = np.percentile(levels, [10, 25, 50, 75, 90])
    varies = levels.min() < levels.max()
    return {
        "first_order_mean": levels.mean(),
        "first_order_std": levels.std(),
        "first_order_minimum": levels.min(),
        "first_order_percentile_10": p10,
        "first_order_median": p50,
        "first_order_percentile_90": p90,
        "first_order_maximum": levels.max(),
        "first_order_interquartile_range": p75 - p25,
        "first_order_mean_absolute_deviation": np.abs(levels - levels.mean()).mean(),
        "first_order_skewness": scipy.stats.skew(levels) if varies else 0,
        "first_order_kurtosis": scipy.stats.kurtosis(levels) if varies else 0,
        "first_order_energy": np.square(levels).sum(),
        "first_order_root_mean_square": np.sqrt(np.square(levels).mean()),
    }


@given(WHOLE_IMAGES | FLOAT_IMAGES)
def test_the_statistics_are_those_of_numpy_and_scipy(image):
    found = first_order(image)
    expected = by_numpy_and_scipy(image)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9, abs=1e-8)


def test_the_ibsi_digital_phantom_gives_the_consensus_values():
    phantom = np.repeat([1, 3, 4, 6], [50, 1, 16, 7]).reshape(2, 37).astype(np.uint8)  # the 74 voxels of its ROI
    consensus = {
        "first_order_mean": 2.15,
        "first_order_skewness": 1.08,
        "first_order_kurtosis": -0.355,
        "first_order_median": 1,
        "first_order_minimum": 1,
        "first_order_percentile_10": 1,
        "first_order_percentile_90": 4,
        "first_order_maximum": 6,
        "first_order_interquartile_range": 3,
        "first_order_mean_absolute_deviation": 1.55,
        "first_order_energy": 567,
        "first_order_root_mean_square": 2.77,
        "first_order_entropy": 1.27,
        "first_order_uniformity": 0.512,
    }
    found = first_order(phantom)
    assert {name: found[name] for name in consensus} == pytest.approx(consensus, rel=5e-3)
    assert found["first_order_std"] ** 2 == pytest.approx(3.05, rel=5e-3)


@given(hnp.arrays(np.uint8, SHAPES))
def test_the_entropy_of_8_bit_is_that_of_scikit_image(image):
    assert first_order(image)["first_order_entropy"] == pytest.approx(shannon_entropy(image), abs=1e-12)


@pytest.mark.parametrize("offset", [0, -1000])
def test_the_entropy_of_floats_is_that_of_256_bins_from_minimum_to_maximum(offset):
    image = np.random.default_rng(1).normal(offset, 50, (60, 70))
    counts, _ = np.histogram(image, bins=256)
    found = first_order(image)
    assert found["first_order_entropy"] == pytest.approx(scipy.stats.entropy(counts, base=2), rel=1e-12)
    assert found["first_order_uniformity"] == pytest.approx(np.square(counts / image.size).sum(), rel=1e-12)


@given(hnp.arrays(np.int16, SHAPES))
def test_equal_values_give_equal_statistics_in_every_dtype(image):
    expected = first_order(image)
    assert first_order(image.astype(np.float32)) == expected
    assert first_order(image.astype(np.float64)) == expected
    if image.min() >= 0:
        assert first_order(image.astype(np.uint16)) == expected


@given(FLOAT_IMAGES)
def test_the_order_of_the_pixels_does_not_matter(image):
    assert first_order(np.ascontiguousarray(image[::-1, ::-1])) == first_order(image)


@pytest.mark.parametrize(
    "value", [np.uint8(255), np.uint16(40_000), np.int16(-1024), np.float32(0.1), np.float64(1e-300)]
)
def test_a_constant_image_has_no_spread_and_no_entropy(value):
    found = first_order(np.full((3, 5), value))
    for name in ("mean", "minimum", "percentile_10", "median", "percentile_90", "maximum"):
        assert found[f"first_order_{name}"] == value
    for name in ("std", "interquartile_range", "mean_absolute_deviation", "skewness", "kurtosis", "entropy"):
        assert found[f"first_order_{name}"] == 0
    assert found["first_order_uniformity"] == 1


def test_a_spread_of_the_last_digit_is_seen():
    image = np.array([[1000.0, np.nextafter(1000.0, 2000.0)]])
    assert first_order(image)["first_order_std"] == np.spacing(1000.0) / 2


def test_more_than_16_million_equal_pixels_are_counted_exactly():
    image = np.zeros((4097, 4096), np.uint8)  # float32 counters stand still at 2**24
    image[0, 0] = 1
    assert first_order(image)["first_order_mean"] == 1 / image.size


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
def test_values_without_finite_statistics_are_refused(value):
    with pytest.raises(StepError, match="NaN, infinity"):
        first_order(np.array([[0.0, value]]))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), r"shape \(4, 4, 3\)"),
        (np.zeros((0, 4), np.uint8), r"shape \(0, 4\)"),
        (np.zeros((4, 4), np.int32), "int32"),
        (np.zeros((4, 4), ">u2"), ">u2"),
        (np.zeros((4, 4), bool), "bool"),
    ],
)
def test_what_is_no_grayscale_image_is_refused_by_name(image, message):
    with pytest.raises(StepError, match=message):
        first_order(image)
