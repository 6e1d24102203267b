"""Boosting against its oracle, scikit-learn's HistGradientBoostingClassifier."""

from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest
import samples
from sklearn.ensemble import HistGradientBoostingClassifier

from medspark.errors import ConfigError, ContractError
from medspark.models.boosting import Boosting, _require_equal, _stages, boosting

SETTINGS = [
    ({}, {}),
    ({"trees": 12, "learning_rate": 0.3, "depth": 3}, {"max_iter": 12, "learning_rate": 0.3, "max_depth": 3}),
    (
        {"trees": 10, "max_leaf_nodes": 0, "min_samples_leaf": 2, "l2": 0.7},
        {"max_iter": 10, "max_leaf_nodes": None, "min_samples_leaf": 2, "l2_regularization": 0.7},
    ),
    (
        {"trees": 8, "max_leaf_nodes": 5, "class_weight": "balanced", "seed": 0},
        {"max_iter": 8, "max_leaf_nodes": 5, "class_weight": "balanced", "random_state": 0},
    ),
]


def oracle(X, y, weights=None, **settings):
    booster = HistGradientBoostingClassifier(early_stopping=False, **{"random_state": 42, **settings})
    return booster.fit(X, y, sample_weight=weights)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("ours", "theirs"), SETTINGS, ids=[" ".join(ours) or "defaults" for ours, _ in SETTINGS])
@pytest.mark.parametrize("name", samples.DATA)
def test_probabilities_are_scikit_learns(name, ours, theirs, weighted):
    X, y = samples.DATA[name]
    weights = samples.make_weights(len(y)) if weighted else None
    model = boosting(X, y, sample_weight=weights, **ours)
    fitted = oracle(X, y, weights, **theirs)
    assert model.classes == [str(label) for label in fitted.classes_]
    for rows in (X, samples.beside(X), 100 * X):
        np.testing.assert_allclose(model.predict_proba(rows), fitted.predict_proba(rows), rtol=0, atol=1e-12)


def test_rows_on_and_beside_a_threshold_go_the_way_of_scikit_learn():
    X, y = samples.DATA["breast_cancer"]
    model, fitted = boosting(X, y, trees=10), oracle(X, y, max_iter=10)
    splits = np.flatnonzero(model.stages.feature >= 0)
    at = np.repeat(X[:1], len(splits), axis=0)
    at[np.arange(len(splits)), model.stages.feature[splits]] = model.stages.threshold[splits]
    for rows in (at, np.nextafter(at, -np.inf), np.nextafter(at, np.inf)):
        np.testing.assert_allclose(model.predict_proba(rows), fitted.predict_proba(rows), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("trees", "n_trees"), [(1, 3), (4, 12)])
def test_there_is_a_tree_for_each_class_in_each_stage(trees, n_trees):
    X, y = samples.DATA["wine"]
    assert len(boosting(X, y, trees=trees).stages.n_nodes) == n_trees
    assert len(boosting(X, (y == "class_0").astype(int), trees=trees).stages.n_nodes) == trees


def test_a_scikit_learn_that_keeps_its_trees_elsewhere_is_refused_by_its_version():
    booster = oracle(*samples.DATA["wine"], max_iter=2)
    booster._trees = booster._predictors
    del booster._predictors
    with pytest.raises(ContractError, match=rf"scikit-learn {version('scikit-learn')} does not keep its trees"):
        _stages(booster)


def test_a_scikit_learn_whose_trees_mean_something_else_is_refused_by_its_version():
    X, y = samples.DATA["wine"]
    model, booster = boosting(X, y, trees=2), oracle(X, y, max_iter=2)
    _require_equal(model, booster, X)
    booster._baseline_prediction += np.array([1e-9, 0, 0])
    with pytest.raises(ContractError, match=rf"scikit-learn {version('scikit-learn')} gives other probabilities"):
        _require_equal(model, booster, X)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trees": 0}, "trees = 0"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0: give a number above 0"),
        ({"depth": -1}, "depth = -1: give a whole number, at least 1, or 0 for no limit"),
        ({"max_leaf_nodes": 1}, "max_leaf_nodes = 1: give a whole number, at least 2, or 0 for no limit"),
        ({"min_samples_leaf": 0}, "min_samples_leaf = 0"),
        ({"l2": -1}, "l2 = -1"),
        ({"class_weight": "even"}, 'class_weight = "even"'),
        ({"seed": -5}, "seed = -5"),
    ],
)
def test_a_parameter_out_of_range_is_a_config_error(change, message):
    with pytest.raises(ConfigError, match=message):
        boosting(np.eye(2), [0, 1], **change)


def test_trees_that_lead_astray_are_refused():
    X, y = samples.DATA["wine"]
    sound = boosting(X, y, trees=2)
    first_split = int(np.flatnonzero(sound.stages.feature >= 0)[0])
    for name, value in (("children_left", 0), ("children_right", 10**6), ("feature", 13), ("feature", -1)):
        array = getattr(sound.stages, name).copy()
        array[first_split] = value
        damaged = replace(sound, stages=replace(sound.stages, **{name: array}))
        with pytest.raises(ContractError, match="not trees of 3 classes and 13 features"):
            Boosting.from_arrays(damaged.arrays(), classes=sound.classes, n_features=13)


def test_a_stage_that_lacks_a_tree_is_refused():
    X, y = samples.DATA["wine"]
    model = boosting(X, y, trees=2)
    n_last = model.stages.n_nodes[-1]
    whole = ("n_nodes", "baseline")
    arrays = {name: array if name in whole else array[:-n_last] for name, array in model.arrays().items()}
    with pytest.raises(ContractError, match="not trees of 3 classes"):
        Boosting.from_arrays(arrays | {"n_nodes": arrays["n_nodes"][:-1]}, classes=model.classes, n_features=13)
