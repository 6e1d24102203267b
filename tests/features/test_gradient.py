import numpy as np
import pytest
import skimage.feature

from medspark.errors import StepError
from medspark.features.gradient import hog

NOISE = np.random.default_rng(4).integers(0, 256, (64, 48), dtype=np.uint8)


@pytest.mark.parametrize(("orientations", "cells"), [(9, 4), (1, 1), (6, 3), (12, 7)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_the_values_are_those_of_scikit_image(dtype, orientations, cells):
    image = NOISE.astype(dtype)
    height, width = 64 // cells, 48 // cells
    expected = skimage.feature.hog(
        image[: height * cells, : width * cells].astype(np.float64),
        orientations,
        (height, width),
        (cells, cells),
        "L2-Hys",
    )
    found = hog(image, orientations=orientations, cells=cells)
    assert list(found.values()) == expected.tolist()
    assert len(found) == cells * cells * orientations


@pytest.mark.parametrize("shape", [(4, 4), (7, 11), (512, 511), (5, 300)])
def test_every_size_of_image_gives_the_same_columns(shape):
    image = np.random.default_rng(6).integers(0, 256, shape, dtype=np.uint8)
    assert list(hog(image)) == [f"hog_{number:03}" for number in range(144)]


def test_the_columns_have_as_many_digits_as_the_last():
    assert list(hog(NOISE, orientations=3, cells=2)) == [f"hog_{number:02}" for number in range(12)]


def test_a_vertical_edge_speaks_in_its_own_cells_and_direction():
    image = np.zeros((32, 32), np.uint8)
    image[:, 12:] = 200  # inside the second column of cells
    grid = np.array(list(hog(image).values())).reshape(4, 4, 9)
    assert (grid[:, 1, 0] > 0).all()
    assert np.count_nonzero(grid) == 4


def test_the_contrast_of_the_image_does_not_matter_but_that_between_cells_does():
    image = np.zeros((32, 32))
    image[:, 4], image[:, 20] = 1000, 100
    grid = np.array(list(hog(image).values())).reshape(4, 4, 9)
    np.testing.assert_allclose(list(hog(image * 3).values()), grid.ravel(), rtol=1e-6)
    assert (grid[:, 0].sum(axis=-1) > grid[:, 2].sum(axis=-1)).all()


@pytest.mark.parametrize("value", [0, 255])
def test_a_constant_image_has_no_gradients(value):
    assert set(hog(np.full((20, 20), value, np.uint8)).values()) == {0.0}


@pytest.mark.parametrize("shape", [(1, 1), (3, 100), (100, 3)])
def test_an_image_smaller_than_its_grid_is_refused_with_the_smallest_size(shape):
    with pytest.raises(StepError, match="4 x 4 cells need at least as many pixels"):
        hog(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("parameters", [{"orientations": 0}, {"cells": 0}])
def test_an_empty_grid_is_refused(parameters):
    with pytest.raises(StepError, match="must be 1 or more"):
        hog(NOISE, **parameters)
