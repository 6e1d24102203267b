import os
import re
import subprocess
import sys
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_curve

from medspark.report import CalibrationCurve, Histogram, RocCurve
from medspark.report.charts import DASHES, PALETTE, Look, calibration, histogram, looks, roc

SVG = "{http://www.w3.org/2000/svg}"


def path(svg, name):
    """The vertices and the style of the path drawn under that name, in points."""
    (group,) = (found for found in ET.fromstring(svg).iter(f"{SVG}g") if found.get("id") == name)  # noqa: S314
    (drawn,) = group.iter(f"{SVG}path")
    return np.array(re.findall(r"[ML] (\S+) (\S+)", drawn.get("d")), float), drawn.get("style")


def points(svg, name):
    """The middles and the widths of the points drawn under that name, in points."""
    (group,) = (found for found in ET.fromstring(svg).iter(f"{SVG}g") if found.get("id") == name)  # noqa: S314
    corners = [
        np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", drawn.get("d")), float) for drawn in group.iter(f"{SVG}path")
    ]
    return np.array([(c.min(0) + c.max(0)) / 2 for c in corners]), np.array([np.ptp(c[:, 0]) for c in corners])


def tick_labels(svg):
    return ["".join(found.itertext()) for found in ET.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314


def test_the_roc_goes_through_the_points_given():
    rng = np.random.default_rng(3)
    truth = rng.random(60) < 0.4
    fpr, tpr, _ = roc_curve(truth, truth + rng.normal(0, 1, 60))
    points, _ = path(roc([RocCurve("sick", fpr, tpr, 0.7)], looks(["sick"])), "roc-0")

    corner, size = points[0], points[-1] - points[0]  # (0, 0) and (1, 1) of the unit square
    np.testing.assert_allclose((points - corner) / size, np.column_stack([fpr, tpr]), atol=1e-6)
    assert size[0] > 200
    assert size[1] < -200  # up


def test_a_roc_of_a_hundred_thousand_points_stays_small():
    fpr = np.linspace(0, 1, 100_000)

    assert len(roc([RocCurve("sick", fpr, np.sqrt(fpr), 2 / 3)], looks(["sick"]))) < 50_000


def test_the_calibration_goes_through_the_points_given_and_their_areas_are_the_counts():
    rng = np.random.default_rng(5)
    probability = np.concatenate([[0.0], rng.random(400) ** 2, [1.0]])
    truth = np.concatenate([[False], rng.random(400) < probability[1:-1], [True]])
    share, mean = calibration_curve(truth, probability, n_bins=10)
    n = np.histogram(probability, 10, (0, 1))[0]
    svg = calibration([CalibrationCurve("sick", mean, share, n)], looks(["sick"]))
    line, style = path(svg, "calibration-0")
    middles, widths = points(svg, "calibration-n-0")

    corner, size = path(roc([RocCurve("sick", [0, 1], [0, 1], 0.5)], looks(["sick"])), "roc-0")[0]  # the same square
    np.testing.assert_allclose((line - corner) / (size - corner), np.column_stack([mean, share]), atol=1e-6)
    np.testing.assert_allclose(middles, line, atol=1e-3)
    np.testing.assert_allclose(widths**2 / np.sum(widths**2), n / n.sum(), atol=1e-4)
    assert looks(["sick"])["sick"].css in style


def test_a_calibration_of_one_part_and_one_of_no_frame_are_drawn():
    svg = calibration([CalibrationCurve("a", [0.5], [0.25], [7]), CalibrationCurve("b", [], [], [])], looks(["a", "b"]))

    assert len(points(svg, "calibration-n-0")[0]) == 1


@settings(max_examples=15, deadline=None)
@given(counts=st.lists(st.integers(0, 10**6), min_size=2, max_size=12).filter(lambda counts: max(counts) > 0))
def test_the_height_of_a_bin_is_its_share_of_the_class(counts):
    table = Histogram(np.arange(len(counts) + 1), {"a": counts, "b": [1, *counts[1:]]})
    points, _ = path(histogram(table, looks(["a", "b"]), name="f"), "f-0")

    baseline = points[0, 1]
    heights = (baseline - points[1:-1:2, 1])[: len(counts)]  # each bin is drawn by two vertices
    np.testing.assert_allclose(
        heights * sum(counts), np.array(counts) * heights.sum(), rtol=1e-4, atol=1e-2 * sum(counts)
    )
    assert np.argmax(heights) == np.argmax(counts)


def test_classes_keep_their_look_and_a_lone_distribution_is_neutral():
    known = looks(["a", "b"])
    two = histogram(Histogram([0, 1, 2], {"b": [1, 2], "a": [3, 4]}), known, name="two")
    lone = histogram(Histogram([0, 1, 2], {"a": [3, 4]}), known, name="lone")

    assert known["b"].css in path(two, "two-0")[1]
    assert known["a"].css in path(two, "two-1")[1]
    assert Look().css in path(lone, "lone-0")[1]


def test_no_two_of_twenty_four_classes_look_alike():
    found = looks([str(i) for i in range(24)])

    assert len(set(found.values())) == len(PALETTE) * len(DASHES) == 24


@pytest.mark.parametrize("counts", [[0, 0], [7, 0]])
def test_an_empty_class_and_a_constant_feature_are_drawn(counts):
    svg = histogram(Histogram(np.array([2.5, 3.0, 3.5]), {"a": counts}), {}, name="f")

    assert np.isfinite(path(svg, "f-0")[0]).all()


def test_ticks_are_written_out_in_full():
    labels = tick_labels(histogram(Histogram([0, 500_000, 1_000_000], {"a": [1, 3]}), {}, name="f", xlabel="area"))

    assert labels == ["0", "500,000", "1,000,000", "area", "0 %", "50 %"]


def test_charts_are_the_same_in_every_process():
    code = (
        "from medspark.report.charts import *\n"
        "print(roc([RocCurve('a', [0, 1], [0, 1], 0.5)], looks(['a'])))\n"
        "print(histogram(Histogram([0, 1], {'a': [1], 'b': [2]}), looks(['a', 'b']), name='f'))\n"
        "import sys; assert 'matplotlib.pyplot' not in sys.modules"
    )
    pages = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }

    assert len(pages) == 1
    assert b"roc-0" in pages.pop()
