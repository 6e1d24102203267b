import hashlib
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from builders import make_dicom, make_pixels, make_png
from skimage import feature, transform

import medspark
from medspark import Recipe, op, readers
from medspark.errors import ConfigError, StepError
from medspark.features.lbp import lbp
from medspark.features.regions import density
from medspark.frame import Frame, Limits, Window
from medspark.ops import Op
from medspark.readers import read_image
from medspark.recipe import Outcome, describe
from medspark.steps.denoise import median
from medspark.steps.edges import canny
from medspark.steps.intensity import to_uint8

THIS = __name__
LIMITS = Limits()
IMAGE = make_pixels()
SMALL = Recipe((op(median, size=3), op(canny, low=50, high=150).writes("edges")), (op(density).reads("edges"),))


def leak(image):
    if image.shape != (64, 64):  # the rehearsal's is fine
        raise ValueError("ZZQ secret")
    return image


def refuse(image):
    if image.shape != (64, 64):
        raise StepError("refuse: too wide for me")
    return image


def add_one(image):
    return image + 1


def size(image):
    return {"size": float(image.size)}


def moody(image):
    return {f"rows_{len(image)}": 1.0}


def infinite(image):
    return {"share": 1.0 if image.shape == (64, 64) else float("inf")}


def a_list(image):  # noqa: ARG001
    return [1.0]


def facts_told(image, *, window=None, is_inverted=False):  # noqa: ARG001
    return {"center": 0.0 if window is None else window.center, "inverted": float(is_inverted)}


def run(recipe, content):
    """Return {feature: value} of the one frame of a file."""
    (outcome,) = recipe.run(content)
    assert outcome.reason is None, outcome
    return dict(zip(recipe.feature_names, outcome.features, strict=True))


def histogram(codes, n_codes):
    return np.bincount(codes.astype(int).ravel(), minlength=n_codes) / codes.size


def region_areas(mask, connectivity):
    return cv2.connectedComponentsWithStats(mask, connectivity=connectivity)[2][1:, cv2.CC_STAT_AREA]


# What the packaged recipes do


def articles_planes(image):
    """The two articles' calls, each rounded back to 8 bit."""
    image = np.rint(transform.resize(image, (256, 256), preserve_range=True)).astype(np.uint8)
    image = np.rint(transform.rotate(image, 45, preserve_range=True)).astype(np.uint8)
    image = cv2.medianBlur(np.ascontiguousarray(np.fliplr(image)), 5)
    edges = cv2.Canny(image, 100, 200)
    return image, edges, cv2.connectedComponentsWithStats(edges, connectivity=8)


@pytest.mark.parametrize("content", [make_png(IMAGE), make_png(make_pixels(300, 280, seed=1))], ids=["small", "large"])
def test_the_seed_recipe_does_what_the_articles_do(content):
    image, edges, (n_labels, labels, stats, _) = articles_planes(cv2.imdecode(np.frombuffer(content, np.uint8), 0))
    recipe = Recipe.from_toml("seed")
    planes = recipe.planes(read_image(content)[0])
    np.testing.assert_array_equal(planes["image"], image)
    np.testing.assert_array_equal(planes["edges"], labels)
    found = run(recipe, content)
    assert edges.any()
    assert found["edges_density"] == np.count_nonzero(edges) / edges.size
    assert found["edges_n_regions"] == n_labels - 1
    assert found["edges_region_area_max"] == stats[1:, cv2.CC_STAT_AREA].max()
    codes = histogram(feature.local_binary_pattern(image, 8, 1), 256)
    assert [found[f"lbp_p8_r1_default_{code:03}"] for code in range(256)] == list(codes)


def test_keeping_8_bits_between_the_articles_steps_moves_no_pixel_by_more_than_a_grey_level():
    smooth = transform.rotate(transform.resize(IMAGE, (256, 256)), 45)[:, ::-1]  # exactly as they call them
    geometry_only = replace(Recipe.from_toml("seed"), steps=Recipe.from_toml("seed").steps[:4])
    pixels = geometry_only.planes(Frame(IMAGE))["image"]
    assert np.abs(pixels - smooth * 255).max() <= 1


def test_the_default_recipe_equals_opencv_and_scikit_image():
    image = cv2.medianBlur(IMAGE, 5)
    edges = cv2.Canny(image, 100, 200)
    mask = cv2.threshold(image, 0, 255, cv2.THRESH_OTSU)[1]
    areas = region_areas(mask, 8)
    recipe = Recipe.from_toml("default")
    found = run(recipe, make_png(IMAGE))
    np.testing.assert_array_equal(recipe.planes(Frame(IMAGE))["mask"] > 0, mask > 0)
    assert found["first_order_mean"] == pytest.approx(image.mean())
    assert found["edges_density"] == np.count_nonzero(edges) / edges.size > 0
    assert found["mask_n_regions"] == len(areas) > 0
    assert found["mask_region_area_mean"] == areas.mean()
    for points, radius in ((8, 1), (16, 2), (24, 3)):
        codes = histogram(feature.local_binary_pattern(image, points, radius, "uniform"), points + 2)
        assert [found[f"lbp_p{points}_r{radius}_{code:02}"] for code in range(points + 2)] == list(codes)


@pytest.mark.parametrize("name", ["default", "seed"])
def test_packaged_recipes_see_a_dicom_file_through_its_window(name):
    stored = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) % 2000
    content = make_dicom(stored, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400)
    units = stored.astype(float) - 1024
    shown = np.rint(np.clip((units - 39.5) / 399 + 0.5, 0, 1) * 255).astype(np.uint8)  # PS3.3 C.11.2.1.2.1
    recipe = Recipe.from_toml(name)
    assert run(recipe, content) == run(recipe, make_png(shown))
    white = make_dicom(
        stored,
        RescaleSlope=1,
        RescaleIntercept=-1024,
        WindowCenter=40,
        WindowWidth=400,
        PhotometricInterpretation="MONOCHROME1",
    )
    assert run(recipe, white) == run(recipe, make_png(255 - shown))


# Writing a recipe down


TOML = """
[[steps]]
use = "median"
size = 3
[[steps]]
use = "canny"
low = 50
high = 150
to = "edges"
[[features]]
use = "density"
of = "edges"
"""


def from_text(text, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(text, "utf-8")
    return Recipe.from_toml(path)


def test_a_recipe_in_python_equals_the_one_in_toml(tmp_path):
    recipe = from_text(TOML, tmp_path)
    assert recipe == SMALL
    assert recipe.recipe_id == SMALL.recipe_id


@pytest.mark.parametrize("recipe", [SMALL, Recipe.from_toml("default"), Recipe.from_toml("seed")])
def test_a_recipe_is_written_and_read_back(recipe):
    again = Recipe.from_dict(recipe.to_dict())
    assert again == recipe
    assert again.recipe_id == recipe.recipe_id


def test_the_order_of_keys_does_not_change_the_id(tmp_path):
    swapped = TOML.replace("low = 50\nhigh = 150\n", "high = 150\nlow = 50\n")
    assert swapped != TOML
    assert from_text(swapped, tmp_path).recipe_id == SMALL.recipe_id


@pytest.mark.parametrize(
    ("old", "new"),
    [("size = 3", "size = 5"), ("low = 50", "low = 51"), ('"density"', '"regions"'), ('"edges"', '"rims"'), (TOML, "")],
)
def test_any_other_change_does(old, new, tmp_path):
    assert from_text(TOML.replace(old, new), tmp_path).recipe_id != SMALL.recipe_id


def test_so_do_the_order_of_operations_and_the_version(monkeypatch):
    assert Recipe(SMALL.steps[::-1], SMALL.features).recipe_id != SMALL.recipe_id
    monkeypatch.setattr(medspark, "__version__", "0.0.0")
    assert Recipe(SMALL.steps, SMALL.features).recipe_id != SMALL.recipe_id


def test_ids_are_16_hexadecimal_digits_and_no_two_packaged_recipes_share_one():
    ids = {Recipe.from_toml(name).recipe_id for name in ("default", "seed")}
    assert len(ids) == 2
    assert all(len(recipe_id) == 16 and int(recipe_id, 16) >= 0 for recipe_id in ids)


# Feature names


def test_feature_names_carry_the_plane_and_keep_the_order_of_the_recipe():
    recipe = Recipe(SMALL.steps, (op(density).reads("edges"), op(lbp, points=4, radius=1), op(density)))
    lbp_names = tuple(f"lbp_p4_r1_{code:02}" for code in range(6))
    assert recipe.feature_names == ("edges_density", *lbp_names, "density")


@pytest.mark.parametrize("content", [make_png(np.zeros((1, 1), np.uint8)), make_png(IMAGE), make_dicom()])
@pytest.mark.parametrize("name", ["default", "seed"])
def test_every_image_has_a_value_for_every_name(name, content):
    recipe = Recipe.from_toml(name)
    (outcome,) = recipe.run(content)
    assert len(outcome.features) == len(recipe.feature_names) == len(set(recipe.feature_names))
    assert np.isfinite(outcome.features).all()
    assert {type(value) for value in outcome.features} == {float}


# What is refused before any file is read


@pytest.mark.parametrize(
    ("steps", "features", "message"),
    [
        ([], [], "it has no features"),
        ([Op("medain")], [op(density)], "'medain'; did you mean 'median'?"),
        ([Op("density")], [op(density)], "no step or feature is called 'density'"),  # a feature is no step
        ([Op("median", {"sise": 3})], [op(density)], "median: no parameter 'sise'; did you mean 'size'?"),
        ([Op("median", {"size": "3"})], [op(density)], "median: size = '3' must be a whole number"),
        ([Op("median", {"size": 4})], [op(density)], "recipe, median: median: size must be odd and positive, got 4"),
        (
            [],
            [op(density).reads("edges")],
            "recipe, density: no step before it writes the plane 'edges'; there are: im",
        ),
        ([op(density)], [op(density)], "no step or feature is called 'density'"),
        ([], [op(density), op(density)], "the feature density is made twice"),
        ([], [Op("median")], "no step or feature is called 'median'"),
        ([], [Op(f"{THIS}:a_list")], "a_list: a feature must return {name: number}"),
        ([Op("no_such_package:x")], [op(density)], "no_such_package:x: cannot be imported"),
    ],
)
def test_a_wrong_recipe_is_told_apart_before_any_file_is_read(steps, features, message):
    recipe = Recipe(tuple(steps), tuple(features))
    with pytest.raises(ConfigError) as caught:
        _ = recipe.feature_names
    assert message in str(caught.value)
    with pytest.raises(ConfigError):  # and never passes for a bad image
        list(recipe.run(make_png()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[steps]\n", "recipe .*recipe.toml: "),
        ("steps = 3", r"steps: a list of tables is needed, as in \[\[steps\]\]"),
        ("features = ['lbp']", r"features: a list of tables is needed"),
        ("[[features]]\nsize = 3", 'a recipe entry needs use = "name"'),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(text, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        from_text(text, tmp_path)


def test_a_recipe_file_that_is_not_there_names_the_packaged_ones(tmp_path):
    with pytest.raises(ConfigError, match="No such file or directory; packaged are: default, seed"):
        Recipe.from_toml(tmp_path / "none.toml")


# Running


def test_the_window_of_the_file_is_applied_once():
    pixels = np.arange(4096, dtype=np.int16).reshape(64, 64)
    frame = Frame(pixels, window=Window(2048, 1000), is_inverted=True)
    once = to_uint8(pixels, window=Window(2048, 1000), is_inverted=True)
    for steps in (
        (op(to_uint8),),
        (op(to_uint8), op(to_uint8)),
        (op(to_uint8).writes("shown"), op(to_uint8).reads("shown").writes("image")),
    ):
        np.testing.assert_array_equal(Recipe(steps, (op(density),)).planes(frame)["image"], once)


def test_a_feature_is_told_the_window_only_of_the_values_that_it_was_meant_for():
    content = make_dicom(WindowCenter=40, WindowWidth=400, PhotometricInterpretation="MONOCHROME1")
    told = Op(f"{THIS}:facts_told")
    assert run(Recipe((), (told,)), content) == {"center": 40, "inverted": 1}
    assert run(Recipe((op(to_uint8),), (told,)), content) == {"center": 0, "inverted": 0}


def test_planes_stand_beside_the_image_and_can_be_replaced():
    recipe = Recipe(
        (op(canny, low=50, high=150).writes("edges"), op(median, size=3).reads("edges").writes("edges")), ()
    )
    planes = recipe.planes(Frame(IMAGE))
    np.testing.assert_array_equal(planes["image"], IMAGE)
    np.testing.assert_array_equal(planes["edges"], cv2.medianBlur(cv2.Canny(IMAGE, 50, 150), 3))


def test_a_file_with_several_frames_has_an_outcome_for_each():
    frames = np.stack([make_pixels(seed=seed) for seed in range(3)])
    outcomes = list(SMALL.run(make_dicom(frames)))
    assert [outcome.frame for outcome in outcomes] == [0, 1, 2]
    for outcome, pixels in zip(outcomes, frames, strict=True):
        assert outcome.features == tuple(run(SMALL, make_png(pixels)).values())
    assert len({outcome.features for outcome in outcomes}) == 3


def test_an_outcome_says_what_the_file_says_about_the_frame():
    (outcome,) = SMALL.run(make_dicom(IMAGE, Modality="MR", PixelSpacing=[0.5, 0.25]))
    told = {
        "patient_id": "P1",
        "study_uid": "1.2.3",
        "series_uid": "1.2.3.4",
        "modality": "MR",
        "rows": 48,
        "columns": 64,
        "row_spacing_mm": 0.5,
        "column_spacing_mm": 0.25,
    }
    assert {name: outcome.facts[name] for name in told} == told


def test_a_path_and_its_content_give_the_same(tmp_path):
    path = tmp_path / "caf\udce9 x.png"  # not UTF-8
    path.write_bytes(make_png())
    assert list(SMALL.run(path)) == list(SMALL.run(str(path))) == list(SMALL.run(make_png()))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty_file"),
        (b"<html>", "not_an_image"),
        (make_png()[:-40], "truncated"),
        (b"%PDF-1.4", "unsupported_format"),
    ],
)
def test_a_bad_file_is_one_outcome_with_its_reason(content, reason):
    (outcome,) = SMALL.run(content)
    assert (outcome.frame, outcome.failed_stage, outcome.reason) == (None, "decode", reason)
    assert outcome.features is None
    assert outcome.error


def test_a_file_that_cannot_be_read_fails_at_reading(tmp_path):
    (outcome,) = SMALL.run(tmp_path / "gone.png")
    assert (outcome.frame, outcome.failed_stage, outcome.reason) == (None, "read", "vanished")


def test_the_limits_count(tmp_path):
    (tmp_path / "a.png").write_bytes(make_png())
    (outcome,) = SMALL.run(tmp_path / "a.png", limits=Limits(memory_mb=0))
    assert (outcome.failed_stage, outcome.reason) == ("read", "too_large")
    (outcome,) = SMALL.run(make_png(), limits=Limits(max_pixels=48 * 64))
    assert (outcome.failed_stage, outcome.reason) == ("decode", "too_large")
    (outcome,) = SMALL.run(make_png(), limits=Limits(max_pixels=48 * 64 + 1))
    assert outcome.reason is None


def test_frames_before_one_that_cannot_be_decoded_are_kept():
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless

    good = cv2.imencode(".jp2", IMAGE, [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])[1].tobytes()
    content = make_dicom(
        np.stack([IMAGE, IMAGE]), JPEG2000Lossless, PixelData=encapsulate([good[85:], b"\xff\x4f\xff\x51 broken"])
    )
    first, second = SMALL.run(content)
    assert (first.frame, first.reason) == (0, None)
    assert (second.frame, second.failed_stage, second.reason) == (1, "decode", "corrupt")


def test_a_step_that_fails_is_named_and_no_foreign_text_is_told():
    recipe = Recipe((op(median, size=3), Op(f"{THIS}:leak")), (op(density),))
    (outcome,) = recipe.run(make_dicom(IMAGE))
    assert (outcome.frame, outcome.failed_stage, outcome.reason) == (0, f"{THIS}:leak", "step_failed")
    assert "ZZQ" not in repr(outcome)
    assert outcome.error.startswith("ValueError in test_recipe.py:")
    assert outcome.facts["rows"] == 48


def test_a_step_that_refuses_says_why():
    (outcome,) = Recipe((Op(f"{THIS}:refuse"),), (op(density),)).run(make_png())
    assert (outcome.failed_stage, outcome.reason, outcome.error) == (
        f"{THIS}:refuse",
        "step_failed",
        "refuse: too wide for me",
    )


def test_steps_and_features_from_outside_are_used_by_their_import_path():
    recipe = Recipe((op(add_one),), (op(size), op(density)))
    assert recipe.steps[0].name == f"{THIS}:add_one"
    assert sys.modules[THIS].add_one is add_one
    assert run(recipe, make_png(np.full((4, 5), 255, np.uint8))) == {"size": 20.0, "density": 0.0}


def test_a_value_that_is_not_finite_fails_the_frame_and_names_the_column():
    (outcome,) = Recipe((), (Op(f"{THIS}:infinite"),)).run(make_png())
    assert (outcome.failed_stage, outcome.reason, outcome.error) == (f"{THIS}:infinite", "step_failed", "share is inf")


def test_a_feature_whose_names_depend_on_the_image_fails_the_frame():
    (outcome,) = Recipe((), (Op(f"{THIS}:moody"),)).run(make_png())
    assert (outcome.frame, outcome.reason) == (0, "step_failed")
    assert "not those of the rehearsal" in outcome.error


def test_the_planes_of_an_image_that_a_step_refuses_raise_its_error():
    with pytest.raises(StepError, match="too wide for me"):
        Recipe((Op(f"{THIS}:refuse"),), ()).planes(Frame(IMAGE))


def test_a_foreign_error_is_described_by_its_kind_and_place_only():
    with pytest.raises(ValueError, match="ZZQ secret") as caught:
        leak(IMAGE)
    assert describe(caught.value) == f"ValueError in test_recipe.py:{leak.__code__.co_firstlineno + 2}"
    assert describe(StepError("ours")) == "ours"
    assert describe(KeyError("Nobody^Test")) == "KeyError"


def test_the_same_content_gives_the_same_outcome_twice():
    recipe = Recipe.from_toml("default")
    first, second = (list(recipe.run_content(make_dicom(), limits=LIMITS)) for _ in range(2))
    assert first == second
    assert isinstance(first[0], Outcome)


# Files, large ones too, and memory


@pytest.mark.parametrize("large_bytes", [0, 1 << 20])
def test_a_file_has_its_digest_and_an_outcome_for_each_frame(large_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LARGE_BYTES", large_bytes)
    for content in (make_png(), make_dicom(np.stack([make_pixels(seed=seed) for seed in range(3)])), b"no image"):
        (tmp_path / "it").write_bytes(content)
        digest, outcomes = SMALL.run_file(str(tmp_path / "it"), limits=LIMITS)
        assert digest == hashlib.sha256(content).hexdigest()
        assert outcomes == list(SMALL.run(tmp_path / "it")) == list(SMALL.run(content))


def test_a_file_that_cannot_be_read_has_no_digest(tmp_path):
    (tmp_path / "large").write_bytes(b"GIF89a" + bytes(2 << 20))
    for name, reason in (("gone", "vanished"), ("large", "too_large")):
        digest, (outcome,) = SMALL.run_file(str(tmp_path / name), limits=Limits(memory_mb=1))
        assert (digest, outcome.frame, outcome.failed_stage, outcome.reason) == (None, None, "read", reason)


def greedy(image):
    if image.shape != (64, 64):
        raise MemoryError
    return image


def greedy_opencv(image):
    side = 64 if image.shape == (64, 64) else 2**24 - 1  # 256 TiB
    return cv2.resize(image, (side, side))


@pytest.mark.parametrize("step", ["greedy", "greedy_opencv"])
def test_a_lack_of_memory_passes_with_its_stage_and_is_an_outcome_in_a_notebook(step, tmp_path):
    recipe = Recipe((Op(f"{THIS}:{step}"),), (op(density),))
    (tmp_path / "it").write_bytes(make_png())
    with pytest.raises(MemoryError, match=f"{THIS}:{step}"):
        list(recipe.run_content(make_png(), limits=LIMITS))
    with pytest.raises(MemoryError):
        recipe.run_file(str(tmp_path / "it"), limits=LIMITS)
    for source in (make_png(), tmp_path / "it"):
        (outcome,) = recipe.run(source)
        assert (outcome.frame, outcome.failed_stage, outcome.reason) == (None, f"{THIS}:{step}", "out_of_memory")


def test_a_lack_of_memory_while_decoding_names_the_frame_after_those_that_are_there(monkeypatch):
    def two(*_, **__):
        yield Frame(IMAGE, number=0)
        yield Frame(IMAGE, number=1)
        raise MemoryError

    monkeypatch.setattr("medspark.recipe.read_frames", two)
    *good, bad = SMALL.run(make_png())
    assert [outcome.reason for outcome in good] == [None, None]
    assert (bad.frame, bad.failed_stage, bad.reason) == (2, "decode", "out_of_memory")


def test_the_seed_recipe_sees_a_16_bit_file_as_the_articles_do():
    pixels = make_pixels(300, 280, np.uint16) + np.arange(280, dtype=np.uint16)
    content = make_png(pixels)
    gray = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    seed = Recipe.from_toml("seed")
    assert run(seed, content) == run(seed, make_png(gray))
