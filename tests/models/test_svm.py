"""The support vector machine against its oracle, scikit-learn's SVC inside of CalibratedClassifierCV."""

import numpy as np
import pytest
import samples
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from medspark.errors import ConfigError, ContractError
from medspark.models.svm import Svm, svm

SETTINGS = [
    ({}, {}),
    ({"C": 0.1, "class_weight": "balanced"}, {"C": 0.1, "class_weight": "balanced"}),
    ({"gamma": 0.3, "C": 10}, {"gamma": 0.3, "C": 10}),
    ({"kernel": "linear", "C": 0.5}, {"kernel": "linear", "C": 0.5}),
    ({"kernel": "poly", "degree": 2, "coef0": 1.0}, {"kernel": "poly", "degree": 2, "coef0": 1.0}),
    ({"kernel": "poly", "gamma": 0.2}, {"kernel": "poly", "gamma": 0.2}),
    ({"kernel": "sigmoid", "coef0": -0.5}, {"kernel": "sigmoid", "coef0": -0.5}),
]


def oracle(X, y, settings, splits, weights=None):
    calibrated = CalibratedClassifierCV(SVC(**settings), ensemble=False, cv=splits)
    return make_pipeline(StandardScaler(), calibrated).fit(X, y, calibratedclassifiercv__sample_weight=weights)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("ours", "theirs"), SETTINGS, ids=[" ".join(ours) or "defaults" for ours, _ in SETTINGS])
@pytest.mark.parametrize("name", samples.DATA)
def test_probabilities_are_those_of_scikit_learns_calibrated_machine(name, ours, theirs, weighted):
    X, y = samples.DATA[name]
    weights = samples.make_weights(len(y)) if weighted else None
    model = svm(X, y, sample_weight=weights, seed=3, **ours)
    fitted = oracle(X, y, theirs, StratifiedKFold(5, shuffle=True, random_state=3), weights)
    assert model.classes == [str(label) for label in fitted.classes_]
    for rows in (X, samples.beside(X), 3 * X):
        np.testing.assert_allclose(model.predict_proba(rows), fitted.predict_proba(rows), rtol=0, atol=1e-12)


@pytest.mark.parametrize("folds", [2, 4])
@pytest.mark.parametrize("name", samples.DATA)
def test_with_groups_the_folds_are_those_that_keep_them_together(name, folds):
    X, y = samples.DATA[name]
    groups = np.arange(len(y)) // 3
    ours = svm(X, y, folds=folds, seed=8, groups=[f"patient {group}" for group in groups])
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=8)
    names = np.array([f"patient {group}" for group in groups])
    theirs = oracle(X, y, {}, list(splitter.split(X, y, names)))
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=0, atol=1e-12)
    assert not np.array_equal(ours.predict_proba(X), svm(X, y, folds=folds, seed=8).predict_proba(X))


def test_other_folds_give_another_sigmoid_on_the_same_machine():
    X, y = samples.DATA["breast_cancer"]
    one, other = svm(X, y, seed=1), svm(X, y, seed=2)
    assert np.array_equal(one.dual_coef, other.dual_coef)
    assert not np.array_equal(one.slope, other.slope)


def test_rows_far_from_everything_get_shares_even_if_no_class_wants_them():
    X, y = samples.DATA["wine"]
    model = svm(X, y)
    nothing = Svm.from_arrays(
        model.arrays() | {"offset": np.full(3, 1e300)}, classes=model.classes, n_features=model.n_features
    )
    assert np.array_equal(nothing.predict_proba(X[:2]), np.full((2, 3), 1 / 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": "cosine"}, 'kernel = "cosine": known are "linear", "poly", "rbf", "sigmoid"'),
        ({"C": -1.0}, "C = -1.0"),
        ({"gamma": -0.1}, "gamma = -0.1: give a number from 0"),
        ({"degree": -1}, "degree = -1"),
        ({"coef0": float("nan")}, "coef0 = nan: give a number"),
        ({"folds": 1}, "folds = 1: give a whole number, at least 2"),
        ({"class_weight": "even"}, 'class_weight = "even"'),
        ({"seed": 2**32}, "seed = 4294967296"),
    ],
)
def test_a_parameter_out_of_range_is_a_config_error(change, message):
    with pytest.raises(ConfigError, match=message):
        svm(np.eye(2), [0, 1], **change)


@pytest.mark.parametrize(
    ("y", "groups", "message"),
    [
        ([0, 0, 0, 0, 0, 1], None, "a class has 1 rows, folds = 2"),
        ([0, 0, 0, 1, 1, 1], [1, 2], "6 rows and 2 names of 2 groups"),
        ([0, 0, 0, 1, 1, 1], ["a"] * 6, "6 names of 1 groups"),
        ([0, 0, 0, 1, 1, 1], ["a", "a", "a", "b", "b", "b"], "2 groups cannot be cut into folds = 2"),
    ],
)
def test_too_little_of_a_class_for_the_folds_is_refused(y, groups, message):
    with pytest.raises(ContractError, match=message):
        svm(np.arange(6.0).reshape(6, 1), y, folds=2, groups=groups)


@pytest.mark.parametrize(
    "damage",
    [
        {"kernel": np.array("cosine")},
        {"degree": np.array(-1)},
        {"gamma": np.array(-1.0)},
        {"scale": np.zeros(13)},
        {"n_support": np.array([-1, 0, 1])},
        {"n_support": np.array([10**6, 0, 0])},
    ],
)
def test_arrays_that_contradict_each_other_are_refused(damage):
    X, y = samples.DATA["wine"]
    arrays = svm(X, y).arrays() | damage
    with pytest.raises(ContractError, match="contradict each other"):
        Svm.from_arrays(arrays, classes=["a", "b", "c"], n_features=13)
