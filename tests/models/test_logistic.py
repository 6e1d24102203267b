"""Logistic regression against its oracle, scikit-learn's pipeline of StandardScaler and LogisticRegression."""

import numpy as np
import pytest
import samples
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medspark.errors import ConfigError, ContractError
from medspark.models.logistic import Logistic, logistic


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("class_weight", ["", "balanced"])
@pytest.mark.parametrize("C", [0.01, 1.0, 30])
@pytest.mark.parametrize("name", samples.DATA)
def test_probabilities_are_those_of_the_pipeline(name, C, class_weight, weighted):
    X, y = samples.DATA[name]
    weights = samples.make_weights(len(y)) if weighted else None
    ours = logistic(X, y, C=C, class_weight=class_weight, sample_weight=weights)
    theirs = make_pipeline(
        StandardScaler(), LogisticRegression(C=C, max_iter=1000, class_weight=class_weight or None)
    ).fit(X, y, logisticregression__sample_weight=weights)
    assert ours.classes == [str(label) for label in theirs.classes_]
    for rows in (X, samples.beside(X), 100 * X):
        np.testing.assert_allclose(ours.predict_proba(rows), theirs.predict_proba(rows), rtol=0, atol=1e-12)


def test_two_classes_follow_the_logistic_function_and_more_the_softmax():
    two = Logistic(np.array([1.0]), np.array([2.0]), np.array([[3.0]]), np.array([0.5]), ["a", "b"])
    second = expit(3 * (5 - 1) / 2 + 0.5)
    np.testing.assert_allclose(two.predict_proba(np.array([[5.0]])), [[1 - second, second]], rtol=1e-15)
    weights = np.array([[1.0], [0.0], [-1.0]])
    three = Logistic(np.array([0.0]), np.array([1.0]), weights, np.zeros(3), ["a", "b", "c"])
    shares = np.array([np.e, 1, 1 / np.e])
    np.testing.assert_allclose(three.predict_proba(np.array([[1.0]])), [shares / shares.sum()], rtol=1e-15)


def test_a_constant_feature_is_no_obstacle():
    X, y = samples.DATA["wine"]
    with_constant = np.column_stack([X, np.full(len(X), 7.0)])
    np.testing.assert_allclose(logistic(with_constant, y).predict_proba(with_constant), logistic(X, y).predict_proba(X))


def test_too_few_iterations_are_a_config_error_that_says_so():
    X, y = samples.DATA["breast_cancer"]
    with pytest.raises(ConfigError, match="iterations = 3: the fit has not converged; give more, or a C below 1"):
        logistic(X, y, iterations=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"C": 0}, "C = 0: give a number above 0"),
        ({"C": float("inf")}, "C = inf"),
        ({"C": True}, "C = True"),
        ({"iterations": 0}, "iterations = 0"),
        ({"class_weight": "even"}, 'class_weight = "even": known are "", "balanced"'),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_a_parameter_out_of_range_is_a_config_error(change, message):
    with pytest.raises(ConfigError, match=message):
        logistic(np.eye(2), [0, 1], **change)


def test_a_scale_of_zero_is_refused():
    X, y = samples.DATA["wine"]
    arrays = logistic(X, y).arrays() | {"scale": np.zeros(X.shape[1])}
    with pytest.raises(ContractError, match="a scale is not above 0"):
        Logistic.from_arrays(arrays, classes=["a", "b", "c"], n_features=X.shape[1])
