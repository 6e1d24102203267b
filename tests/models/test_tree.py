"""The tree against its oracle, scikit-learn's DecisionTreeClassifier."""

import numpy as np
import pytest
import samples
from sklearn.tree import DecisionTreeClassifier

from medspark.errors import ConfigError
from medspark.models.tree import tree

SETTINGS = [
    ({}, {"max_depth": 3}),
    ({"depth": 0, "seed": 7, "max_features": "sqrt"}, {"random_state": 7, "max_features": "sqrt"}),
    ({"depth": 0, "criterion": "entropy", "min_samples_split": 9}, {"criterion": "entropy", "min_samples_split": 9}),
    ({"depth": 5, "class_weight": "balanced"}, {"max_depth": 5, "class_weight": "balanced"}),
    ({"depth": 0, "max_leaf_nodes": 8, "min_samples_leaf": 5}, {"max_leaf_nodes": 8, "min_samples_leaf": 5}),
    ({"depth": 0, "ccp_alpha": 0.01}, {"ccp_alpha": 0.01}),
    ({"depth": 0, "min_impurity_decrease": 0.01}, {"min_impurity_decrease": 0.01}),
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("ours", "theirs"), SETTINGS, ids=[" ".join(ours) or "defaults" for ours, _ in SETTINGS])
@pytest.mark.parametrize("name", samples.DATA)
def test_the_tree_is_scikit_learns_to_the_last_bit(name, ours, theirs, weighted):
    X, y = samples.DATA[name]
    weights = samples.make_weights(len(y)) if weighted else None
    model = tree(X, y, sample_weight=weights, **ours)
    fitted = DecisionTreeClassifier(**{"random_state": 42, **theirs}).fit(X, y, sample_weight=weights)
    assert model.classes == [str(label) for label in fitted.classes_]
    assert np.array_equal(model.trees.feature, fitted.tree_.feature)
    assert np.array_equal(model.trees.threshold, fitted.tree_.threshold)
    assert np.array_equal(model.trees.impurity, fitted.tree_.impurity)
    for rows in (X, samples.beside(X)):
        assert np.array_equal(model.predict_proba(rows), fitted.predict_proba(rows))
    np.testing.assert_allclose(model.feature_importances, fitted.feature_importances_, rtol=1e-14, atol=0)


def test_a_tree_splits_two_heaps_in_the_middle():
    model = tree(np.array([[0.0], [1.0], [3.0], [4.0]]), ["low", "low", "high", "high"])
    assert model.classes == ["high", "low"]
    assert model.trees.threshold[0] == 2
    assert model.predict_proba(np.array([[2.0], [2.1]])).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": -1}, "depth = -1"),
        ({"class_weight": "balanced_subsample"}, 'class_weight = "balanced_subsample": known are "", "balanced"'),
        ({"max_features": ""}, 'max_features = ""'),
    ],
)
def test_a_parameter_out_of_range_is_a_config_error(change, message):
    with pytest.raises(ConfigError, match=message):
        tree(np.eye(2), [0, 1], **change)
