import numpy as np
import pytest
from skimage.feature import graycomatrix, graycoprops

from medspark.errors import StepError
from medspark.features.texture import glcm

ANGLES = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
NOISE = np.random.default_rng(3).integers(0, 256, (40, 30), dtype=np.uint8)


def by_scikit_image(binned, levels, distance=1):
    matrices = graycomatrix(binned, [distance], ANGLES, levels, symmetric=True, normed=True)
    names = ("contrast", "dissimilarity", "homogeneity", "ASM", "energy", "correlation", "entropy")
    return {f"glcm_{name.lower()}": graycoprops(matrices, name).mean() for name in names}


def by_counting_pairs(binned, levels):
    """Haralick's definitions, pair by pair."""
    rows, columns = binned.shape
    results = []
    for down, right in ((0, 1), (-1, 1), (-1, 0), (-1, -1)):
        p = np.zeros((levels, levels))
        for row in range(rows):
            for column in range(columns):
                if 0 <= row + down < rows and 0 <= column + right < columns:
                    here, there = binned[row, column], binned[row + down, column + right]
                    p[here, there] += 1
                    p[there, here] += 1
        p /= p.sum()
        i, j = np.indices(p.shape)
        mean = (i * p).sum()
        results.append(
            {
                "glcm_contrast": (p * (i - j) ** 2).sum(),
                "glcm_dissimilarity": (p * abs(i - j)).sum(),
                "glcm_homogeneity": (p / (1 + (i - j) ** 2)).sum(),
                "glcm_asm": (p**2).sum(),
                "glcm_energy": np.sqrt((p**2).sum()),
                "glcm_correlation": (p * (i - mean) * (j - mean)).sum() / (p * (i - mean) ** 2).sum(),
                "glcm_entropy": -(p[p > 0] * np.log(p[p > 0])).sum(),
            }
        )
    return {name: np.mean([result[name] for result in results]) for name in results[0]}


@pytest.mark.parametrize(("levels", "shift"), [(2, 7), (32, 3), (256, 0)])
@pytest.mark.parametrize("distance", [1, 2, 5])
def test_the_values_are_those_of_scikit_image_on_the_binned_image(levels, shift, distance):
    assert glcm(NOISE, levels=levels, distance=distance) == by_scikit_image(NOISE >> shift, levels, distance)


def test_the_values_are_those_of_the_definitions():
    assert glcm(NOISE, levels=8) == pytest.approx(by_counting_pairs(NOISE >> 5, 8), rel=1e-9)


def test_a_chessboard_differs_along_rows_and_columns_and_not_along_diagonals():
    board = np.indices((8, 8)).sum(axis=0).astype(np.uint8) % 2 * 255
    found = glcm(board)
    assert found["glcm_contrast"] == pytest.approx((31**2 + 0 + 31**2 + 0) / 4)
    assert found["glcm_correlation"] == pytest.approx(0)
    assert found["glcm_asm"] == pytest.approx(0.5, abs=1e-3)
    assert found["glcm_entropy"] == pytest.approx(np.log(2), abs=1e-3)


def test_integers_are_binned_over_the_range_of_their_dtype():
    in_16_bit = NOISE.astype(np.uint16) << 8
    assert glcm(in_16_bit) == glcm(NOISE)
    assert glcm((in_16_bit.astype(np.int32) - 2**15).astype(np.int16)) == glcm(NOISE)


def test_a_number_of_levels_that_divides_nothing_gives_equal_bins():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert glcm(ramp, levels=10) == by_scikit_image((np.arange(256).reshape(16, 16) * 10 // 256), 10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_are_binned_from_their_own_minimum_to_maximum(dtype):
    image = np.array([[0, 1, 2, 3], [4, 5, 6, 8]], dtype)
    expected = by_scikit_image(np.array([[0, 0, 1, 1], [2, 2, 3, 3]]), 4)
    assert glcm(image, levels=4) == expected
    assert glcm(image * 2 - 1024, levels=4) == expected


@pytest.mark.parametrize("value", [np.uint8(0), np.uint8(255), np.float32(0.3)])
def test_a_constant_image_is_one_pair_of_levels(value):
    assert glcm(np.full((5, 5), value)) == {
        "glcm_contrast": 0,
        "glcm_dissimilarity": 0,
        "glcm_homogeneity": 1,
        "glcm_asm": 1,
        "glcm_energy": 1,
        "glcm_correlation": 1,
        "glcm_entropy": 0,
    }


def test_a_single_pixel_has_no_pairs():
    found = glcm(np.full((1, 1), 7, np.uint8))
    assert found.pop("glcm_correlation") == 1
    assert set(found.values()) == {0}


@pytest.mark.parametrize(("name", "value"), [("levels", 1), ("levels", 257), ("distance", 0)])
def test_parameters_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(StepError, match=f"{name} must be .* got {value}"):
        glcm(NOISE, **{name: value})
