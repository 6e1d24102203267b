"""Drift against hand-computed cases and SciPy's two-sample Kolmogorov-Smirnov statistic."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from medspark.drift import compare, counts, is_drifted, reference, references

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300)


def test_the_population_stability_index_of_a_case_by_hand():
    before = reference(np.arange(1, 101))  # a tenth in each tenth
    now = np.concatenate([np.full(50, 5), np.full(50, 95)])  # half in the first, half in the last
    found = compare(before, counts(now, before["edges"]))
    least = 1e-4
    expected = 2 * (0.5 - 0.1) * np.log(0.5 / 0.1) + 8 * (least - 0.1) * np.log(least / 0.1)
    assert found["psi"] == pytest.approx(expected, rel=1e-12)
    assert found["n"] == 100


def _distance(old, new):
    """Return the largest difference of the two empirical distributions, at any of the values."""
    return max(abs(np.mean(old <= value) - np.mean(new <= value)) for value in np.concatenate([old, new]))


@given(NUMBERS, NUMBERS)
@settings(deadline=None)
def test_the_distance_is_exact_up_to_one_percentile(old, new):
    before = reference(old)
    found = compare(before, counts(np.array(new), before["edges"]))
    exact = _distance(np.array(old), np.array(new))
    assert exact - 0.01 - 1 / len(old) - 1e-12 <= found["ks"] <= exact + 1e-12


def test_a_normal_sample_is_measured_as_scipy_does():
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=20_000), rng.normal(0.4, 1.2, size=5_000)
    before = reference(old)
    assert compare(before, counts(new, before["edges"]))["ks"] == pytest.approx(ks_2samp(old, new).statistic, abs=0.01)


@given(NUMBERS)
@settings(deadline=None)
def test_the_training_itself_has_not_drifted(values):
    before = reference(values)
    found = compare(before, counts(np.array(values), before["edges"]))
    assert found["ks"] == pytest.approx(0, abs=1e-12)
    assert found["psi"] == pytest.approx(0, abs=1e-12)


@given(NUMBERS, NUMBERS)
@settings(deadline=None)
def test_counts_of_parts_add_up_to_those_of_the_whole(one, other):
    edges = reference(one)["edges"]
    whole = counts(np.array(one + other), edges)
    np.testing.assert_array_equal(whole, counts(np.array(one), edges) + counts(np.array(other), edges))
    assert whole.sum() == len(one) + len(other)


@pytest.mark.parametrize("new", [-1.0, 1.0])
def test_a_number_that_was_always_the_same_has_drifted_to_either_side(new):
    before = reference(np.zeros(1000))
    found = compare(before, counts(np.full(500, new), before["edges"]))
    assert found["ks"] == 1
    assert found["psi"] > 5


def test_nothing_scored_is_no_drift():
    before = reference([1.0, 2.0])
    assert compare(before, counts(np.array([]), before["edges"])) is None


@pytest.mark.parametrize(("n_patients", "expected"), [(20_000, True), (30, False)])
def test_a_limit_is_passed_only_by_more_than_chance(n_patients, expected):
    drift = {"psi": 0.3, "ks": 0.21, "n": 20_000}
    assert is_drifted(drift, n_patients=n_patients, n_reference=10_000, psi=0.25, ks=0.2) is expected


def test_samples_of_one_distribution_seldom_pass():
    rng = np.random.default_rng(1)
    before = reference(rng.normal(size=4_000))
    n_false = 0
    for _ in range(300):
        found = compare(before, counts(rng.normal(size=100), before["edges"]))
        n_false += is_drifted(found, n_patients=100, n_reference=4_000, psi=0.0, ks=0.0)
    assert n_false <= 3  # at a level of 0.001, two tests


def test_each_column_has_its_own_reference():
    X = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    found = references(X, ["a", "b"])
    assert found["a"]["edges"] == sorted([*np.nextafter([1.0, 2.0, 3.0], 0), 1.0, 2.0, 3.0])
    assert found["b"] == reference([10.0, 20.0, 30.0])
