"""The contact sheet: few images, small, and only when asked for."""

import numpy as np
import pytest
from builders import make_dicom, make_pixels, make_png

from medspark.frame import Limits
from medspark.recipe import Recipe
from medspark.spark.preview import contact_sheet

RECIPE = Recipe.from_dict(
    {
        "steps": [{"use": "to_uint8"}, {"use": "median", "size": 5}, {"use": "otsu", "to": "mask"}],
        "features": [{"use": "density", "of": "mask"}],
    }
)


@pytest.fixture(scope="module")
def features(spark, tmp_path_factory):
    """What a table of features says of a wide PNG, a DICOM of two frames, a small image and one that is gone."""
    root = tmp_path_factory.mktemp("preview")
    (root / "wide.png").write_bytes(make_png(make_pixels(100, 400)))
    (root / "ct").write_bytes(make_dicom(np.stack([make_pixels(300, 200, np.uint16, seed) // 64 for seed in (1, 2)])))
    (root / "small.png").write_bytes(make_png(make_pixels(20, 30)))
    rows = [("wide.png", 0, "1"), ("ct", 0, "2"), ("ct", 1, "2"), ("gone.png", 0, "3"), ("small.png", 0, "4")]
    return spark.createDataFrame([(f"{root}/{name}", frame, sha) for name, frame, sha in rows],
                                 "path string, frame int, content_sha256 string")  # fmt: skip


def sheet(features, n):
    return contact_sheet(features, RECIPE, n=n, limits=Limits())


def test_the_planes_of_each_image_are_shown_no_larger_than_160(features):
    wide, ct, small = sheet(features, 4)
    assert [sample.caption for sample in (wide, ct, small)] == ["1: image", "2: CT", "3: image"]
    assert [sample.planes["original"].shape for sample in (wide, ct, small)] == [(40, 160), (160, 107), (20, 30)]
    for sample in (wide, ct, small):
        assert sample.planes.keys() == {"original", "mask"}
        assert {plane.dtype for plane in sample.planes.values()} == {np.dtype(np.uint8)}
    np.testing.assert_array_equal(small.planes["original"], make_pixels(20, 30))


def test_the_images_are_the_same_whatever_the_partitions(features):
    first = sheet(features.repartition(1), 2)
    again = sheet(features.repartition(4), 2)
    assert [sample.caption for sample in first] == [sample.caption for sample in again] == ["1: image", "2: CT"]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.planes["mask"], other.planes["mask"])


def test_no_pixel_leaves_the_executors_when_none_is_asked_for(features):
    assert sheet(features, 0) == []


def test_captions_do_not_say_whose_image_it_is(features):
    assert not any("png" in sample.caption or "P1" in sample.caption for sample in sheet(features, 4))
