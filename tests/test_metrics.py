import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from medspark.errors import ConfigError, ContractError
from medspark.metrics import evaluate, roc

NAMES = ["benign", "malignant", "normal"]


def make_scores(n_rows, n_classes, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n_rows - n_classes)])
    proba = rng.dirichlet(np.ones(n_classes), n_rows) + np.eye(n_classes)[codes] * 0.3
    proba /= proba.sum(axis=1, keepdims=True)
    return [NAMES[code] for code in codes], proba.round(2) if n_classes == 2 else proba


def test_a_case_worked_by_hand():
    #         truth: +    +    +    -    -    -
    proba = np.array([0.9, 0.6, 0.2, 0.7, 0.1, 0.1])
    found = evaluate(["sick"] * 3 + ["fit"] * 3, np.column_stack([1 - proba, proba]), ["fit", "sick"])
    assert found == {
        "n": 6,
        "n_by_class": {"fit": 3, "sick": 3},
        "positive": "sick",
        "accuracy": pytest.approx(4 / 6),
        "balanced_accuracy": pytest.approx(4 / 6),
        "auc": pytest.approx(7 / 9),  # pairs in which the sick one scores higher
        "sensitivity": pytest.approx(2 / 3),
        "specificity": pytest.approx(2 / 3),
        "confusion": [[2, 1], [1, 2]],
        "note": None,
    }


@given(st.integers(2, 60), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_two_classes_equal_scikit_learn(n_rows, seed):
    truth, proba = make_scores(n_rows, 2, seed)
    found = evaluate(truth, proba, NAMES[:2])
    predicted = np.array(NAMES)[proba.argmax(axis=1)]
    assert found["auc"] == oracle.roc_auc_score(np.array(truth) == "malignant", proba[:, 1])
    assert found["sensitivity"] == oracle.recall_score(truth, predicted, pos_label="malignant")
    assert found["specificity"] == oracle.recall_score(truth, predicted, pos_label="benign")
    assert found["accuracy"] == oracle.accuracy_score(truth, predicted)
    assert found["balanced_accuracy"] == pytest.approx(oracle.balanced_accuracy_score(truth, predicted))
    assert found["confusion"] == oracle.confusion_matrix(truth, predicted, labels=NAMES[:2]).tolist()


@given(st.integers(3, 60), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_three_classes_equal_scikit_learn(n_rows, seed):
    truth, proba = make_scores(n_rows, 3, seed)
    found = evaluate(truth, proba, NAMES)
    predicted = np.array(NAMES)[proba.argmax(axis=1)]
    specificities = [oracle.recall_score(np.array(truth) != name, predicted != name) for name in NAMES]
    assert found["positive"] is None
    assert found["auc"] == pytest.approx(oracle.roc_auc_score(truth, proba, multi_class="ovr", average="macro"))
    assert found["sensitivity"] == pytest.approx(oracle.recall_score(truth, predicted, average="macro"))
    assert found["specificity"] == pytest.approx(np.mean(specificities))
    assert found["balanced_accuracy"] == pytest.approx(oracle.balanced_accuracy_score(truth, predicted))
    assert found["confusion"] == oracle.confusion_matrix(truth, predicted, labels=NAMES).tolist()


def test_the_positive_class_can_be_chosen_and_is_else_the_second_in_sorted_order():
    truth, proba = make_scores(40, 2)
    by_default = evaluate(truth, proba, NAMES[:2])
    other = evaluate(truth, proba, NAMES[:2], positive="benign")
    reversed_columns = evaluate(truth, proba[:, ::-1], NAMES[1::-1])
    assert by_default["positive"] == reversed_columns["positive"] == "malignant"
    assert other["positive"] == "benign"
    assert (other["sensitivity"], other["specificity"]) == (by_default["specificity"], by_default["sensitivity"])
    assert reversed_columns["auc"] == by_default["auc"]
    assert reversed_columns["confusion"] == np.array(by_default["confusion"])[::-1, ::-1].tolist()


def test_a_class_without_rows_makes_the_auc_none_with_a_note():
    truth, proba = make_scores(40, 3)
    kept = np.array(truth) != "normal"
    found = evaluate(np.array(truth)[kept], proba[kept], NAMES)
    by_class = [
        np.mean(np.array(NAMES)[proba[i].argmax(axis=1)] == name)
        for name in NAMES[:2]
        for i in [np.array(truth) == name]
    ]
    assert found["auc"] is None
    assert "no rows of normal" in found["note"]
    assert found["n_by_class"]["normal"] == 0
    assert found["sensitivity"] == found["balanced_accuracy"] == pytest.approx(np.mean(by_class))


@pytest.mark.parametrize(
    ("only", "undefined", "defined"),
    [
        ("benign", "sensitivity", "specificity"),
        ("malignant", "specificity", "sensitivity"),
    ],
)
def test_two_classes_of_which_one_has_no_rows(only, undefined, defined):
    found = evaluate([only] * 2, np.array([[0.9, 0.1], [0.2, 0.8]]), NAMES[:2])
    assert found["auc"] is None
    assert found[undefined] is None
    assert found[defined] == found["accuracy"] == found["balanced_accuracy"] == 0.5
    assert found["note"]


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("n_rows", [1, 3, 30])
def test_the_numbers_are_valid_json(n_rows, n_classes):
    truth, proba = make_scores(30, n_classes)
    found = evaluate(truth[:n_rows], proba[:n_rows], NAMES[:n_classes])
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_of_two_equal_probabilities_the_first_class_is_predicted():
    assert evaluate(["b"], np.array([[0.5, 0.5]]), ["a", "b"])["confusion"] == [[0, 0], [1, 0]]


def test_a_short_curve_is_scikit_learns():
    truth, proba = make_scores(30, 3)
    curves = roc(truth, proba, NAMES)
    assert list(curves) == NAMES
    for code, (name, (fpr, tpr, auc)) in enumerate(curves.items()):
        expected = oracle.roc_curve(np.array(truth) == name, proba[:, code])
        assert (fpr, tpr) == (expected[0].tolist(), expected[1].tolist())
        assert auc == pytest.approx(oracle.auc(fpr, tpr))


def test_a_long_curve_is_thinned_but_keeps_its_ends_shape_and_area():
    truth, proba = make_scores(20_000, 2)
    fine = proba + np.random.default_rng(0).normal(0, 1e-3, proba.shape)  # no ties: thousands of corners
    fpr, tpr, auc = roc(truth, fine, NAMES[:2])["malignant"]
    every_fpr, every_tpr, _ = oracle.roc_curve(np.array(truth) == "malignant", fine[:, 1])
    assert len(every_fpr) > 2000
    assert 100 < len(fpr) <= 200
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert np.abs(np.interp(every_fpr + every_tpr, np.add(fpr, tpr), tpr) - every_tpr).max() < 0.011
    assert auc == oracle.roc_auc_score(np.array(truth) == "malignant", fine[:, 1])


def test_a_class_without_rows_has_no_curve():
    truth, proba = make_scores(40, 3)
    kept = np.array(truth) != "normal"
    assert list(roc(np.array(truth)[kept], proba[kept], NAMES)) == NAMES[:2]
    assert roc(["benign"] * 2, proba[:2], NAMES) == {}


@pytest.mark.parametrize("measure", [evaluate, roc])
def test_labels_and_probabilities_that_do_not_fit_are_refused(measure):
    truth, proba = make_scores(10, 2)
    with pytest.raises(ContractError, match="'benin' is no class of the model; did you mean 'benign'"):
        measure(["benin", *truth[1:]], proba, NAMES[:2])
    for rows, scores in ((truth[1:], proba), (truth, proba[:, :1]), ([], proba[:0]), (truth, proba * np.nan)):
        with pytest.raises(ContractError, match="expected finite probabilities of"):
            measure(rows, scores, NAMES[:2])


def test_a_positive_class_that_cannot_be_is_refused():
    truth, proba = make_scores(10, 2)
    with pytest.raises(ConfigError, match="did you mean 'malignant'"):
        evaluate(truth, proba, NAMES[:2], positive="malign")
    truth, proba = make_scores(10, 3)
    with pytest.raises(ConfigError, match="needs a model of two classes, this one has 3"):
        evaluate(truth, proba, NAMES, positive="normal")
