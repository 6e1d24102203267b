"""Candidates are checked before anything is read, and none is judged by rows that it has learned from."""

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_predict

from medspark.errors import ConfigError
from medspark.models import MODELS
from medspark.selection import Candidate, grid, parameters_of, predict_held_out

X, CODES = make_classification(150, 6, n_informative=4, n_classes=3, random_state=0)


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_every_kind_can_be_rehearsed_as_it_stands(kind):
    candidate = Candidate(kind)
    candidate.rehearse()
    assert candidate.parameters == parameters_of(kind)
    assert str(candidate) == kind


def test_what_is_not_given_is_the_default():
    candidate = Candidate("forest", {"trees": 7})
    assert (candidate.parameters["trees"], candidate.parameters["depth"]) == (7, 3)
    assert str(candidate) == "forest, trees 7"
    assert candidate == Candidate.of({"kind": "forest", "trees": 7})
    assert Candidate.of("svm") == Candidate("svm")


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        ("florist", {}, "model.kind = 'florist': did you mean 'forest'"),
        ("forest", {"tres": 1}, "unknown key model.tres; did you mean 'trees'"),
        ("forest", {"seed": 1}, "unknown key model.seed"),
        ("forest", {"trees": 1.5}, "model.trees = 1.5: must be a whole number"),
        ("forest", {"trees": True}, "model.trees = True: must be a whole number"),
        ("forest", {"bootstrap": 1}, "model.bootstrap = 1: must be true or false"),
        ("svm", {"kernel": 2}, "model.kernel = 2: must be text"),
    ],
)
def test_a_wrong_name_or_type_is_told_at_once(kind, parameters, message):
    with pytest.raises(ConfigError, match=message):
        Candidate(kind, parameters)


def test_a_whole_number_will_do_where_a_number_is_wanted():
    assert Candidate("svm", {"C": 2}).parameters["C"] == 2.0


def test_a_value_out_of_its_range_is_told_by_the_rehearsal():
    with pytest.raises(ConfigError, match="trees = 0"):
        Candidate("forest", {"trees": 0}).rehearse()


def test_a_grid_has_every_combination_in_the_order_written():
    found = grid(Candidate("forest", {"trees": 2}), {"depth": [3, 0], "criterion": ["gini", "entropy"]})
    assert [(one.parameters["depth"], one.parameters["criterion"]) for one in found] == [
        (3, "gini"), (3, "entropy"), (0, "gini"), (0, "entropy"),
    ]  # fmt: skip
    assert {one.parameters["trees"] for one in found} == {2}
    assert grid(Candidate("svm"), {}) == [Candidate("svm")]


def test_held_out_rows_are_predicted_as_cross_val_predict_does():
    parts = np.arange(len(X)) % 3
    splits = [(np.flatnonzero(parts != part), np.flatnonzero(parts == part)) for part in range(3)]
    theirs = cross_val_predict(
        RandomForestClassifier(9, max_depth=4, random_state=5), X, CODES, cv=splits, method="predict_proba"
    )
    candidate = Candidate("forest", {"trees": 9, "depth": 4})
    for part in range(3):
        ours = predict_held_out(X, CODES, parts == part, candidate, seed=5)
        np.testing.assert_array_equal(ours, theirs[parts == part])


def test_a_class_that_only_held_out_rows_have_gets_nothing():
    is_held_out = CODES == 1
    found = predict_held_out(X, CODES, is_held_out, Candidate("tree"), seed=0)
    assert found.shape == (is_held_out.sum(), 3)
    assert not found[:, 1].any()
    np.testing.assert_allclose(found.sum(axis=1), 1)
