import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle
from sklearn.calibration import calibration_curve
from sklearn.ensemble import RandomForestClassifier
from sklearn.inspection import permutation_importance as shuffled_by_scikit_learn
from sklearn.linear_model import LogisticRegression

from medspark.errors import ConfigError, ContractError
from medspark.metrics import (
    at_threshold,
    by_subgroup,
    calibration,
    evaluate,
    operating_point,
    permutation_importance,
    roc,
    truth_and_scores,
)

NAMES = ["benign", "malignant", "normal"]
EXACT = {"rel": 0, "abs": 1e-12}


def make_scores(n_rows, n_classes, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n_rows - n_classes)])
    proba = rng.dirichlet(np.ones(n_classes), n_rows) + np.eye(n_classes)[codes] * 0.3
    proba /= proba.sum(axis=1, keepdims=True)
    return [NAMES[code] for code in codes], proba.round(2) if n_classes == 2 else proba


def make_data(n_rows, n_classes, seed=0):
    """Return features, of which the first tells the classes apart, the last says nothing, and labels."""
    rng = np.random.default_rng(seed)
    codes = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n_rows - n_classes)])
    X = rng.normal(size=(n_rows, 4)) + np.outer(codes, [2, 1, 0.5, 0])
    return X, np.array(NAMES)[codes]


def make_binary(n_rows, seed):
    """Return truths of both kinds, and scores with many equal ones."""
    rng = np.random.default_rng(seed)
    is_positive = np.concatenate([[True, False], rng.random(n_rows - 2) < 0.4])
    return is_positive, (rng.random(n_rows) + is_positive * 0.3).round(1)


def brute_force(is_positive, scores):
    """Yield threshold, sensitivity and specificity as fractions, for each score and for one above all."""
    for threshold in (np.nextafter(max(scores), np.inf), *sorted(set(scores), reverse=True)):
        pairs = list(zip(is_positive, scores, strict=True))
        called = [score >= threshold for truth, score in pairs if truth]
        spared = [score < threshold for truth, score in pairs if not truth]
        yield threshold, Fraction(sum(called), len(called)), Fraction(sum(spared), len(spared))


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
        "roc_auc_by_class": {"fit": pytest.approx(7 / 9), "sick": pytest.approx(7 / 9)},
        "pr_auc": pytest.approx((1 + 2 / 3 + 3 / 4) / 3),  # the precision at each sick one, from the highest score down
        "pr_auc_by_class": {
            "fit": pytest.approx((2 / 2 + 2 / 2 + 3 / 5) / 3),  # 0.1 stands twice, and both are fit
            "sick": pytest.approx((1 + 2 / 3 + 3 / 4) / 3),
        },
        "sensitivity": pytest.approx(2 / 3),
        "specificity": pytest.approx(2 / 3),
        "brier": pytest.approx((0.01 + 0.16 + 0.64 + 0.49 + 0.01 + 0.01) / 6),
        "log_loss": pytest.approx(-math.log(0.9 * 0.6 * 0.2 * 0.3 * 0.9 * 0.9) / 6),
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
    is_malignant = np.array(truth) == "malignant"
    assert found["pr_auc"] == pytest.approx(oracle.average_precision_score(is_malignant, proba[:, 1]), **EXACT)
    assert found["brier"] == pytest.approx(oracle.brier_score_loss(is_malignant, proba[:, 1]), **EXACT)
    assert found["roc_auc_by_class"] == {
        name: pytest.approx(oracle.roc_auc_score(np.array(truth) == name, proba[:, code]), **EXACT)
        for code, name in enumerate(NAMES[:2])
    }
    even = proba / proba.sum(axis=1, keepdims=True)  # scikit-learn warns where rounding left 0.99
    expected = oracle.log_loss(is_malignant, even)
    assert evaluate(truth, even, NAMES[:2])["log_loss"] == pytest.approx(expected, **EXACT)


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
    against = {name: (np.array(truth) == name, proba[:, code]) for code, name in enumerate(NAMES)}
    for key, measure in (("roc_auc", oracle.roc_auc_score), ("pr_auc", oracle.average_precision_score)):
        assert found[f"{key}_by_class"] == {name: pytest.approx(measure(*of), **EXACT) for name, of in against.items()}
    one_hot = np.array(truth)[:, np.newaxis] == np.array(NAMES)
    expected = oracle.average_precision_score(one_hot, proba, average="macro")
    assert found["pr_auc"] == pytest.approx(expected, **EXACT)
    assert found["brier"] == pytest.approx(((proba - one_hot) ** 2).sum(axis=1).mean(), **EXACT)
    assert found["log_loss"] == pytest.approx(oracle.log_loss(truth, proba, labels=NAMES), **EXACT)


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
    assert found["pr_auc"] is None
    assert found["n_by_class"]["normal"] == 0
    known = {name: np.array(truth)[kept] == name for name in NAMES[:2]}
    for key, measure in (("roc_auc", oracle.roc_auc_score), ("pr_auc", oracle.average_precision_score)):
        expected = {
            name: pytest.approx(measure(is_name, proba[kept, c])) for c, (name, is_name) in enumerate(known.items())
        }
        assert found[f"{key}_by_class"] == {**expected, "normal": None}
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
    assert found["pr_auc"] is None
    assert found["roc_auc_by_class"] == found["pr_auc_by_class"] == dict.fromkeys(NAMES[:2])
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
    noise = np.random.default_rng(0).normal(0, 1e-3, proba.shape)
    fine = np.clip(proba + noise, 0, 1)  # hardly a tie: thousands of corners
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


@pytest.mark.parametrize("measure", [evaluate, roc, calibration])
def test_labels_and_probabilities_that_do_not_fit_are_refused(measure):
    truth, proba = make_scores(10, 2)
    with pytest.raises(ContractError, match="'benin' is no class of the model; did you mean 'benign'"):
        measure(["benin", *truth[1:]], proba, NAMES[:2])
    for rows, scores in ((truth[1:], proba), (truth, proba[:, :1]), ([], proba[:0]), (truth, proba * np.nan)):
        with pytest.raises(ContractError, match="expected finite probabilities of"):
            measure(rows, scores, NAMES[:2])
    with pytest.raises(ContractError, match="from 0 to 1, got 0 to 2; these may be scores"):
        measure(["benign"], np.array([[2.0, 0.0]]), NAMES[:2])
    measure(["benign"], np.array([[1 + 1e-7, -1e-7]]), NAMES[:2])  # rounding is not refused


def test_a_positive_class_that_cannot_be_is_refused():
    truth, proba = make_scores(10, 2)
    with pytest.raises(ConfigError, match="did you mean 'malignant'"):
        evaluate(truth, proba, NAMES[:2], positive="malign")
    truth, proba = make_scores(10, 3)
    with pytest.raises(ConfigError, match="needs a model of two classes, this one has 3"):
        evaluate(truth, proba, NAMES, positive="normal")


def test_a_probability_of_zero_for_the_truth_costs_a_finite_log_loss():
    truth, proba = ["benign", "malignant"], np.array([[0.0, 1.0], [0.0, 1.0]])
    found = evaluate(truth, proba, NAMES[:2])["log_loss"]
    assert found == pytest.approx(oracle.log_loss(truth, proba), **EXACT)
    assert found == pytest.approx(-math.log(2.0**-52) / 2)


@given(st.integers(3, 80), st.integers(2, 3), st.integers(1, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_calibration_is_scikit_learns(n_rows, n_classes, bins, seed):
    truth, proba = make_scores(n_rows, n_classes, seed)  # two classes have rounded ones, that hit borders
    found = calibration(truth, proba, NAMES[:n_classes], bins=bins)
    assert list(found) == NAMES[:n_classes]
    for code, (name, curve) in enumerate(found.items()):
        is_name = np.array(truth) == name
        fraction, predicted = calibration_curve(is_name, proba[:, code], n_bins=bins, strategy="uniform")
        assert curve["mean_predicted"] == pytest.approx(predicted, **EXACT)
        assert curve["fraction_positive"] == pytest.approx(fraction, **EXACT)
        assert sum(curve["n"]) == n_rows
        assert np.dot(curve["n"], curve["fraction_positive"]) == pytest.approx(is_name.sum())
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_calibration_of_a_case_worked_by_hand():
    proba = np.array([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
    truth = ["fit", "sick", "fit", "sick", "fit", "sick"]
    found = calibration(truth, np.column_stack([1 - proba, proba]), ["fit", "sick"], bins=4)
    assert found["sick"] == {
        "mean_predicted": pytest.approx([0.35 / 3, 0.5, 0.95]),  # 0.25 and 0.5 belong to the part below them
        "fraction_positive": pytest.approx([1 / 3, 1.0, 0.5]),
        "n": [3, 1, 2],
    }


def test_an_operating_point_worked_by_hand():
    #         truth:  +    +    -    +    -    -    +    -
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
    truth = [True, True, False, True, False, False, True, False]
    best = {"threshold": 0.8, "sensitivity": 0.5, "specificity": 1.0}
    lower = {"threshold": 0.6, "sensitivity": 0.75, "specificity": 0.75}
    assert operating_point(truth, scores) == best  # J is 1/2 at both
    assert operating_point(truth, scores, specificity=0.8) == best
    assert operating_point(truth, scores, specificity=0.7) == lower
    assert operating_point(truth, scores, sensitivity=0.7) == lower
    assert operating_point(truth, scores, sensitivity=1.0) == {
        "threshold": 0.3,
        "sensitivity": 1.0,
        "specificity": 0.25,
    }


def test_of_thresholds_equally_good_the_highest_is_taken_though_floats_would_not_be_equal():
    truth, scores = [1] + [0] * 2 + [1] + [0] * 8, [0.8] * 3 + [0.6] * 6 + [0.2] * 3
    assert 2 / 2 - 7 / 10 > 1 / 2 - 2 / 10  # J is 3/10 at both
    assert operating_point(truth, scores) == {"threshold": 0.8, "sensitivity": 0.5, "specificity": 0.8}


@given(st.integers(2, 40), st.integers(0, 2**32 - 1), st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_no_threshold_does_better_than_the_operating_point(n_rows, seed, twentieths):
    is_positive, scores = make_binary(n_rows, seed)
    every = list(brute_force(is_positive, scores))
    wanted = twentieths / 20

    def point(found):
        return {"threshold": found[0], "sensitivity": float(found[1]), "specificity": float(found[2])}

    sensitive = max(found for found in every if float(found[1]) >= wanted)
    assert operating_point(is_positive, scores, sensitivity=wanted) == point(sensitive)
    specific = min(found for found in every if float(found[2]) >= wanted)
    assert operating_point(is_positive, scores, specificity=wanted) == point(specific)
    youden = max(every, key=lambda found: (found[1] + found[2], found[0]))
    assert operating_point(is_positive, scores) == point(youden)


@given(st.integers(2, 60), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_the_operating_point_lies_on_scikit_learns_curve(n_rows, seed):
    is_positive, scores = make_binary(n_rows, seed)
    fpr, tpr, thresholds = oracle.roc_curve(is_positive, scores, drop_intermediate=False)
    thresholds[0] = np.nextafter(scores.max(), np.inf)
    found = operating_point(is_positive, scores)
    place = thresholds.tolist().index(found["threshold"])
    assert found["sensitivity"] == tpr[place]
    assert found["specificity"] == pytest.approx(1 - fpr[place])
    assert found["sensitivity"] + found["specificity"] - 1 == pytest.approx((tpr - fpr).max())


def test_where_the_highest_score_is_negative_full_specificity_is_nobody_positive():
    found = operating_point([True, False], [0.5, 1.0], specificity=1.0)
    assert found == {"threshold": np.nextafter(1.0, 2.0), "sensitivity": 0.0, "specificity": 1.0}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    judged = at_threshold(
        ["sick", "fit"],
        np.array([[0.5, 0.5], [0.0, 1.0]]),
        ["fit", "sick"],
        positive="sick",
        threshold=found["threshold"],
    )
    assert (judged["tp"], judged["fp"], judged["ppv"]) == (0, 0, None)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"sensitivity": 1.2}, "sensitivity = 1.2: give a share from 0 to 1"),
        ({"specificity": -0.1}, "specificity = -0.1: give a share"),
        ({"specificity": math.nan}, "specificity = nan: give a share"),
        ({"sensitivity": 0.9, "specificity": 0.9}, "one decides"),
    ],
)
def test_an_operating_point_that_cannot_be_wanted_is_refused(wanted, message):
    with pytest.raises(ConfigError, match=message):
        operating_point([True, False], [0.5, 0.4], **wanted)


def test_an_operating_point_needs_rows_of_both_kinds():
    with pytest.raises(ContractError, match="2 positive and 0 negative rows"):
        operating_point([True, True], [0.5, 0.4])
    with pytest.raises(ContractError, match="0 positive and 0 negative rows"):
        operating_point([], [])


def test_truths_and_scores_that_do_not_fit_are_refused():
    truth, scores = truth_and_scores([1, 0], [0.5, 1], np.array([2, 3]))
    assert truth.tolist() == [True, False]
    assert scores.tolist() == [[0.5, 1.0], [2.0, 3.0]]
    for labels in (["sick", "fit"], [2, 0], [[True], [False]], [None, True]):
        with pytest.raises(ContractError, match="expected True or False for each row"):
            truth_and_scores(labels, [0.5, 1.0])
    for wrong in ([0.5], [0.5, math.nan], [[0.5], [0.5]]):
        with pytest.raises(ContractError, match="expected finite scores of 2 rows"):
            truth_and_scores([True, False], [0.5, 1.0], wrong)


@given(st.integers(3, 60), st.integers(2, 3), st.integers(0, 100), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_what_a_threshold_does_is_scikit_learns(n_rows, n_classes, hundredths, seed):
    truth, proba = make_scores(n_rows, n_classes, seed)
    found = at_threshold(truth, proba, NAMES[:n_classes], positive="malignant", threshold=hundredths / 100)
    is_positive, is_called = np.array(truth) == "malignant", proba[:, 1] >= hundredths / 100
    tn, fp, fn, tp = oracle.confusion_matrix(is_positive, is_called, labels=[False, True]).ravel().tolist()
    assert [found[name] for name in ("tp", "fp", "tn", "fn")] == [tp, fp, tn, fn]
    assert found["sensitivity"] == oracle.recall_score(is_positive, is_called)
    assert found["specificity"] == oracle.recall_score(~is_positive, ~is_called)
    for name, calls in (("ppv", is_called), ("npv", ~is_called)):
        of = is_positive if name == "ppv" else ~is_positive
        assert found[name] == (oracle.precision_score(of, calls) if calls.any() else None)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_threshold_itself_is_called_positive():
    proba = np.array([[0.3, 0.7], [0.4, 0.6], [0.3, 0.7], [0.8, 0.2]])
    found = at_threshold(["sick", "sick", "fit", "fit"], proba, ["fit", "sick"], positive="sick", threshold=0.7)
    assert found == {
        "threshold": 0.7,
        "sensitivity": 0.5,
        "specificity": 0.5,
        "ppv": 0.5,
        "npv": 0.5,
        "tp": 1,
        "fp": 1,
        "tn": 1,
        "fn": 1,
    }


def test_a_threshold_or_class_that_cannot_be_is_refused():
    truth, proba = make_scores(10, 2)
    with pytest.raises(ConfigError, match="did you mean 'malignant'"):
        at_threshold(truth, proba, NAMES[:2], positive="malign", threshold=0.5)
    with pytest.raises(ConfigError, match="threshold = inf: give a finite number"):
        at_threshold(truth, proba, NAMES[:2], positive="malignant", threshold=math.inf)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_numbers_of_a_subgroup_are_those_of_its_rows_alone(n_classes):
    truth, proba = make_scores(60, n_classes)
    values = np.array(["Siemens", "GE", None], dtype=object)[np.random.default_rng(1).integers(0, 3, 60)]
    found = by_subgroup(truth, proba, NAMES[:n_classes], values)
    assert list(found) == ["GE", "Siemens", "unknown"]
    for name, numbers in found.items():
        rows = values == (None if name == "unknown" else name)
        of, scores = np.array(truth)[rows], proba[rows]
        predicted = np.array(NAMES)[scores.argmax(axis=1)]
        assert numbers["n"] == rows.sum() > 9
        assert numbers["accuracy"] == oracle.accuracy_score(of, predicted)
        if n_classes == 2:
            assert numbers["auc"] == oracle.roc_auc_score(of == "malignant", scores[:, 1])
            assert numbers["sensitivity"] == oracle.recall_score(of, predicted, pos_label="malignant")
            assert numbers["specificity"] == oracle.recall_score(of, predicted, pos_label="benign")
        else:
            assert numbers["auc"] == pytest.approx(oracle.roc_auc_score(of, scores, multi_class="ovr"))
            assert numbers["sensitivity"] == pytest.approx(oracle.recall_score(of, predicted, average="macro"))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_subgroup_of_one_kind_has_none_for_what_it_leaves_undefined():
    proba = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    found = by_subgroup(["fit", "sick", "sick"], proba, ["fit", "sick"], [math.nan, "", "70-79"], positive="fit")
    assert found == {
        "70-79": {"n": 1, "auc": None, "sensitivity": None, "specificity": 0.0, "accuracy": 0.0},
        "unknown": {"n": 2, "auc": 1.0, "sensitivity": 1.0, "specificity": 1.0, "accuracy": 1.0},
    }
    with pytest.raises(ContractError, match="1 values of a subgroup and 3 rows"):
        by_subgroup(["fit", "sick", "sick"], proba, ["fit", "sick"], ["70-79"])


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("kind", [LogisticRegression, RandomForestClassifier])
def test_the_importance_of_a_feature_is_scikit_learns_of_the_same_seed(kind, n_classes):
    model = kind().fit(*make_data(80, n_classes))
    held_out, truth = make_data(60, n_classes, seed=1)
    before = held_out.copy()
    found = permutation_importance(model, held_out, truth, NAMES[:n_classes], repeats=7)

    def auc(model, X, y):
        scores = model.predict_proba(X)
        return oracle.roc_auc_score(y, scores[:, 1] if n_classes == 2 else scores, multi_class="ovr")

    expected = shuffled_by_scikit_learn(model, held_out, truth, scoring=auc, n_repeats=7, random_state=42)
    assert found["auc"] == pytest.approx(auc(model, held_out, truth), **EXACT)
    assert found["mean"] == pytest.approx(expected.importances_mean, **EXACT)
    assert found["std"] == pytest.approx(expected.importances_std, **EXACT)
    assert found["mean"][0] > 0.1 > abs(found["mean"][3])
    assert np.array_equal(held_out, before)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_features_that_say_the_same_matter_together():
    X, y = make_data(80, 2)
    twice = np.column_stack([X[:, 0], X[:, 0], X[:, 3]])
    model = RandomForestClassifier(max_depth=3, random_state=0).fit(twice, y)
    alone = permutation_importance(model, twice, y, NAMES[:2])
    together = permutation_importance(model, twice, y, NAMES[:2], groups={"noise": [2], "signal": [0, 1]})
    assert together["mean"][0] == alone["mean"][2]
    assert together["mean"][1] > 2 * max(alone["mean"][:2])
    assert together["auc"] == alone["auc"]
    # Shuffled together the two stay equal, so that a model that knows one of them loses as much.
    only = permutation_importance(LookAt(0), twice, y, NAMES[:2])
    assert permutation_importance(LookAt(0, 1), twice, y, NAMES[:2], groups={"signal": [0, 1]})["mean"] == [
        only["mean"][0]
    ]


class LookAt:
    """A model of two classes that averages some columns."""

    def __init__(self, *columns):
        self.columns = list(columns)

    def predict_proba(self, X):
        probability = 1 / (1 + np.exp(-X[:, self.columns].mean(axis=1)))
        return np.column_stack([1 - probability, probability])


def test_importance_without_rows_of_every_class_is_none():
    X, y = make_data(20, 2)
    found = permutation_importance(LookAt(0), X[y == "benign"], y[y == "benign"], NAMES[:2])
    assert found == {"auc": None, "mean": [None] * 4, "std": [None] * 4}


def test_the_importance_is_of_the_positive_class_either_way():
    X, y = make_data(40, 2)
    by_default, other = (permutation_importance(LookAt(0), X, y, NAMES[:2], positive=name) for name in (None, "benign"))
    assert by_default["mean"] == pytest.approx(other["mean"])
    assert by_default["mean"][1:] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repeats": 0}, "repeats = 0: give at least 1"),
        ({"seed": -1}, "seed = -1: give a number from 0"),
        ({"groups": {"lbp": [3, 4]}}, r"group 'lbp' has columns \[3, 4\]; give some of 0 to 3"),
        ({"groups": {"lbp": []}}, "group 'lbp' has columns"),
        ({"positive": "malign"}, "did you mean 'malignant'"),
    ],
)
def test_importance_with_an_impossible_parameter_is_refused(changes, message):
    X, y = make_data(20, 2)
    with pytest.raises(ConfigError, match=message):
        permutation_importance(LookAt(0), X, y, NAMES[:2], **changes)
