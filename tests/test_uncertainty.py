import json
import math
from itertools import product
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from medspark.errors import ConfigError, ContractError
from medspark.metrics import evaluate
from medspark.uncertainty import MEASURED, bootstrap, delong, delong_interval, delong_test

NAMES = ["benign", "malignant", "normal"]
EXACT = {"rel": 0, "abs": 1e-12}


def make_rows(n_patients, n_classes, seed=0, rows_each=3):
    """Return labels, probabilities with many equal ones, and patients, some of them with no name."""
    rng = np.random.default_rng(seed)
    more = rng.integers(0, n_patients, n_patients * (rows_each - 1))
    patients = np.sort(np.concatenate([np.arange(n_patients), more]))
    codes = (rng.permutation(n_patients) % n_classes)[patients]
    proba = rng.dirichlet(np.ones(n_classes), len(codes)) + np.eye(n_classes)[codes] * 0.3
    groups = [f"patient {number}" if number % 5 else None for number in patients]
    return [NAMES[code] for code in codes], (proba / proba.sum(axis=1, keepdims=True)).round(2), groups


def measured_by_scikit_learn(truth, proba, n_classes):
    """Return the measures of rows, None where a class is missing, from scikit-learn and nothing of ours."""
    predicted = np.array(NAMES)[proba.argmax(axis=1)]
    of = [1] if n_classes == 2 else range(n_classes)
    against = [(truth == NAMES[code], predicted == NAMES[code], proba[:, code]) for code in of]
    one_hot = (truth[:, np.newaxis] == np.array(NAMES[:n_classes]))[:, list(of)]
    everywhere = all(is_class.any() and not is_class.all() for is_class, _, _ in against)
    with_rows = [(is_class, called) for is_class, called, _ in against if is_class.any()]
    with_rest = [(~is_class, ~called) for is_class, called, _ in against if not is_class.all()]
    return {
        "accuracy": oracle.accuracy_score(truth, predicted),
        "balanced_accuracy": oracle.recall_score(truth, predicted, labels=np.unique(truth), average="macro"),
        "auc": np.mean([oracle.roc_auc_score(a, p) for a, _, p in against]) if everywhere else None,
        "pr_auc": np.mean([oracle.average_precision_score(a, p) for a, _, p in against]) if everywhere else None,
        "sensitivity": np.mean([oracle.recall_score(*pair) for pair in with_rows]) if with_rows else None,
        "specificity": np.mean([oracle.recall_score(*pair) for pair in with_rest]) if with_rest else None,
        "brier": ((proba[:, list(of)] - one_hot) ** 2).sum(axis=1).mean(),
    }


def drawn_slowly(truth, proba, groups, n_classes, *, n, seed):
    """Yield the measures of each draw: the rows themselves are drawn, patient after patient."""
    names = [f"row {row}" if group is None else group for row, group in enumerate(groups)]
    patients = list(dict.fromkeys(names))
    rows_of = [np.flatnonzero(np.array(names) == patient) for patient in patients]
    rng = np.random.default_rng(seed)
    for _ in range(n):
        rows = np.concatenate([rows_of[patient] for patient in rng.integers(0, len(patients), len(patients))])
        yield measured_by_scikit_learn(np.array(truth)[rows], proba[rows], n_classes)


@pytest.mark.parametrize(("n_patients", "n_classes", "level"), [(20, 2, 0.95), (5, 2, 0.8), (15, 3, 0.9), (5, 3, 0.5)])
def test_the_interval_is_that_of_drawing_patients_the_slow_way(n_patients, n_classes, level):
    truth, proba, groups = make_rows(n_patients, n_classes, seed=n_patients)
    slow = list(drawn_slowly(truth, proba, groups, n_classes, n=60, seed=7))
    found = bootstrap(truth, proba, NAMES[:n_classes], groups, n=60, seed=7, level=level)
    assert list(found) == [*MEASURED, "n_undefined"]
    for name in MEASURED:
        values = [measured[name] for measured in slow if measured[name] is not None]
        expected = [np.percentile(values, 50 * (1 - level)), np.percentile(values, 50 * (1 + level))]
        assert found[name] == pytest.approx(expected, **EXACT)
        assert found["n_undefined"][name] == 60 - len(values)
    if n_patients < 10:
        assert found["n_undefined"]["auc"] > 0 == found["n_undefined"]["accuracy"]


@given(st.integers(2, 8), st.integers(2, 3), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_one_draw_is_what_scikit_learn_says_of_its_rows(n_patients, n_classes, seed):
    truth, proba, groups = make_rows(n_patients, n_classes, seed)
    (slow,) = drawn_slowly(truth, proba, groups, n_classes, n=1, seed=seed)
    found = bootstrap(truth, proba, NAMES[:n_classes], groups, n=1, seed=seed)
    if all(group is not None and group == groups[0] for group in groups):
        slow = dict.fromkeys(MEASURED)
    for name in MEASURED:
        assert found[name] == (None if slow[name] is None else pytest.approx([slow[name]] * 2, **EXACT))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_most_draws_lie_around_what_evaluate_says(n_classes):
    truth, proba, groups = make_rows(60, n_classes)
    found = bootstrap(truth, proba, NAMES[:n_classes], groups, n=200)
    value = evaluate(truth, proba, NAMES[:n_classes])
    for name in MEASURED:
        low, high = found[name]
        assert low < value[name] < high


def test_rows_that_are_alike_make_the_interval_as_wide_as_their_patients_do():
    truth, proba, _ = make_rows(40, 2, rows_each=1)
    patients = list(range(40))
    alone = bootstrap(truth, proba, NAMES[:2], patients, n=200)
    five_times = bootstrap(truth * 5, np.tile(proba, (5, 1)), NAMES[:2], patients * 5, n=200)
    as_rows = bootstrap(truth * 5, np.tile(proba, (5, 1)), NAMES[:2], [None] * 200, n=200)
    assert {name: five_times[name] for name in MEASURED} == {
        name: pytest.approx(alone[name], **EXACT) for name in MEASURED
    }
    for name in MEASURED:
        assert np.diff(as_rows[name]) < 0.7 * np.diff(alone[name])  # sqrt(1 / 5) = 0.45, if there were no chance


def test_the_bootstrap_of_a_mean_is_as_wide_as_theory_says():
    # Of 400 rows of their own 300 are right: the standard error of the accuracy is sqrt(0.75 * 0.25 / 400).
    proba = np.tile([0.2, 0.8], (400, 1))
    low, high = bootstrap(["malignant"] * 300 + ["benign"] * 100, proba, NAMES[:2], [None] * 400, n=2000)["accuracy"]
    assert low == pytest.approx(0.75 - 1.96 * 0.02165, abs=0.004)
    assert high == pytest.approx(0.75 + 1.96 * 0.02165, abs=0.004)


def test_the_same_seed_gives_the_same_interval_and_another_one_another():
    rows = make_rows(20, 2)
    truth, proba, groups = rows
    first, again, other = (bootstrap(truth, proba, NAMES[:2], groups, n=50, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first["brier"] != other["brier"]
    assert rows == (truth, proba, groups)


def test_a_higher_level_is_wider_and_the_other_class_swaps_the_rates():
    truth, proba, groups = make_rows(30, 2)
    found = bootstrap(truth, proba, NAMES[:2], groups, n=100)
    wider = bootstrap(truth, proba, NAMES[:2], groups, n=100, level=0.99)
    other = bootstrap(truth, proba, NAMES[:2], groups, n=100, positive="benign")
    assert wider["auc"][0] < found["auc"][0] < found["auc"][1] < wider["auc"][1]
    assert (other["sensitivity"], other["specificity"]) == (found["specificity"], found["sensitivity"])


def test_what_no_draw_defines_is_none_and_counted():
    found = bootstrap(["benign"] * 4, np.tile([0.6, 0.4], (4, 1)), NAMES[:2], ["a", "b", "c", ""], n=10)
    assert found["auc"] is found["pr_auc"] is found["sensitivity"] is None
    assert found["n_undefined"] == {name: 10 * (name in {"auc", "pr_auc", "sensitivity"}) for name in MEASURED}
    assert found["specificity"] == found["accuracy"] == [1.0, 1.0]
    assert found["brier"] == pytest.approx([0.16, 0.16])
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_one_patient_alone_has_no_interval():
    truth, proba, _ = make_rows(4, 2)
    found = bootstrap(truth, proba, NAMES[:2], ["one"] * len(truth), n=10)
    assert found == {**dict.fromkeys(MEASURED), "n_undefined": dict.fromkeys(MEASURED, 10)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 0}, "give at least one draw"),
        ({"seed": -1}, "a seed of at least 0"),
        ({"level": 1.0}, "level = 1.0: give a share between 0 and 1"),
        ({"level": 95}, "level = 95: give a share between 0 and 1"),
        ({"positive": "malign"}, "did you mean 'malignant'"),
    ],
)
def test_an_impossible_parameter_of_the_bootstrap_is_refused(changes, message):
    truth, proba, groups = make_rows(4, 2)
    with pytest.raises(ConfigError, match=message):
        bootstrap(truth, proba, NAMES[:2], groups, **changes)


def test_rows_without_a_group_each_or_an_unknown_label_are_refused():
    truth, proba, groups = make_rows(4, 2)
    with pytest.raises(ContractError, match="11 groups and 12 rows; give one for each row"):
        bootstrap(truth, proba, NAMES[:2], groups[1:])
    with pytest.raises(ContractError, match="'benin' is no class of the model"):
        bootstrap(["benin", *truth[1:]], proba, NAMES[:2], groups)


def placements(is_positive, scores):
    """Return the placement values of positives and negatives by their definition, pair by pair."""
    positives = [score for truth, score in zip(is_positive, scores, strict=True) if truth]
    negatives = [score for truth, score in zip(is_positive, scores, strict=True) if not truth]
    wins = {(x, y): (x > y) + (x == y) / 2 for x, y in product(positives, negatives)}
    return (
        [sum(wins[x, y] for y in negatives) / len(negatives) for x in positives],
        [sum(wins[x, y] for x in positives) / len(positives) for y in negatives],
    )


def make_scores(n_rows, seed, digits=1):
    """Return truths, at least two of each kind, and two related scores with many equal ones."""
    rng = np.random.default_rng(seed)
    is_positive = np.concatenate([[True, False, True, False], rng.random(n_rows - 4) < 0.4])
    both = rng.normal(size=n_rows)
    a, b = ((both + rng.normal(size=n_rows) + is_positive).round(digits) for _ in range(2))
    return is_positive, a, b


@given(st.integers(4, 30), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_delong_is_what_its_definition_says_pair_by_pair(n_rows, seed):
    is_positive, a, b = make_scores(n_rows, seed)
    (above_a, below_a), (above_b, below_b) = placements(is_positive, a), placements(is_positive, b)
    m, n = len(above_a), len(below_a)
    covariance = np.cov([above_a, above_b]) / m + np.cov([below_a, below_b]) / n

    auc, variance = delong(is_positive, a)
    assert auc == pytest.approx(oracle.roc_auc_score(is_positive, a), **EXACT)
    assert auc == pytest.approx(np.mean(above_a), **EXACT)
    assert variance == pytest.approx(covariance[0, 0], **EXACT)

    difference, p_value = delong_test(is_positive, a, b)
    assert difference == pytest.approx(auc - oracle.roc_auc_score(is_positive, b), **EXACT)
    variance_of_difference = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    if variance_of_difference > 1e-9:
        z = difference / math.sqrt(variance_of_difference)
        assert p_value == pytest.approx(2 * NormalDist().cdf(-abs(z)), abs=1e-9)


def test_delong_of_the_ratings_of_hanley_and_mcneil_is_what_stata_publishes():
    # 109 CT images rated 1 to 5: Hanley & McNeil, Radiology 143 (1982) 29, table 1. The numbers are those of the
    # example of roctab in the Stata manual, whose default is DeLong's standard error.
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    ratings = np.concatenate([np.repeat(np.arange(1, 6), counts) for counts in (normal, abnormal)])
    is_positive = np.repeat([False, True], [sum(normal), sum(abnormal)])
    auc, variance = delong(is_positive, ratings)
    assert round(auc, 4) == 0.8932
    assert round(math.sqrt(variance), 4) == 0.0307
    assert [round(end, 5) for end in delong_interval(is_positive, ratings)] == [0.83295, 0.95339]


def test_delong_of_a_case_worked_by_hand():
    is_positive, scores, other = [1, 1, 1, 0, 0], [0.9, 0.5, 0.2, 0.5, 0.1], [0.9, 0.5, 0.6, 0.5, 0.1]
    # Positives are above 1, 3/4 and 1/2 of the negatives (sample variance 1/16), negatives below 1/2 and 1 (1/8).
    assert delong(is_positive, scores) == pytest.approx((3 / 4, 1 / 16 / 3 + 1 / 8 / 2))
    # With the other scores: 1, 3/4, 1 and 5/6, 1. The differences: 0, 0, -1/2 (1/12) and -1/3, 0 (1/18).
    z = (1 / 6) / math.sqrt(1 / 12 / 3 + 1 / 18 / 2)
    assert delong_test(is_positive, scores, other) == pytest.approx((-1 / 6, 2 * NormalDist().cdf(-z)))


def test_the_interval_is_normal_and_cut_to_what_an_area_can_be():
    is_positive, scores, _ = make_scores(30, 0)
    auc, variance = delong(is_positive, scores)
    low, high = delong_interval(is_positive, scores, level=0.9)
    assert (low + high) / 2 == pytest.approx(auc)
    assert high - low == pytest.approx(2 * 1.6448536269514722 * math.sqrt(variance))
    assert delong_interval([1, 1, 1, 0, 0], [0.9, 0.5, 0.2, 0.5, 0.1], level=0.999) == [pytest.approx(0, abs=0), 1.0]
    assert delong_interval([1, 1, 0, 0], [4, 3, 2, 1]) == [1.0, 1.0]


def test_nine_in_ten_intervals_of_nine_tenths_hold_the_true_area():
    rng = np.random.default_rng(0)
    is_positive = np.repeat([True, False], [40, 60])
    area = NormalDist().cdf(1 / math.sqrt(2))  # of two normal distributions one standard deviation apart
    intervals = [delong_interval(is_positive, rng.normal(size=100) + is_positive, level=0.9) for _ in range(500)]
    share = np.mean([low < area < high for low, high in intervals])
    assert 0.86 < share < 0.94  # three standard deviations of 500 draws are 0.04


def test_of_scores_equally_good_one_in_ten_differs_with_a_p_value_below_a_tenth():
    rng = np.random.default_rng(0)
    is_positive = np.repeat([True, False], [40, 60])
    p_values = []
    for _ in range(500):
        both = rng.normal(size=100) + is_positive
        p_values.append(delong_test(is_positive, both + rng.normal(size=100), both + rng.normal(size=100)).p_value)
    assert 0.06 < np.mean(np.array(p_values) < 0.1) < 0.14
    assert 0.43 < np.mean(np.array(p_values) < 0.5) < 0.57


def test_the_order_of_two_scores_turns_the_sign_and_keeps_the_p_value():
    is_positive, a, b = make_scores(40, 3)
    difference, p_value = delong_test(is_positive, a, b)
    assert delong_test(is_positive, b, a) == (pytest.approx(-difference), pytest.approx(p_value))
    assert delong_test(is_positive, a, np.exp(a)) == (0.0, 1.0)


def test_what_too_few_rows_leave_undefined_is_none():
    assert delong([True, True], [0.1, 0.2]) == delong([], []) == (None, None)
    assert delong([True, False, False], [0.5, 0.5, 0.1]) == (0.75, None)
    assert delong_interval([True, False, False], [0.5, 0.5, 0.1]) is None
    assert delong_test([False, False], [0.1, 0.2], [0.3, 0.4]) == (None, None)
    assert delong_test([True, False], [0.9, 0.1], [0.1, 0.9]) == (1.0, None)
    assert delong_test([True, False], [0.9, 0.1], [0.9, 0.1]) == (0.0, None)
    assert delong_test([1, 1, 0, 0], [4, 3, 2, 1], [1, 2, 3, 4]) == (1.0, None)  # no variance on either side


def test_delong_refuses_what_does_not_fit():
    with pytest.raises(ConfigError, match="level = 0: give a share between 0 and 1"):
        delong_interval([True, False], [1, 0], level=0)
    for measure in (lambda s: delong([True, False], s), lambda s: delong_test([True, False], [0.5, 0.6], s)):
        with pytest.raises(ContractError, match="expected finite scores of 2 rows"):
            measure([0.5, math.nan])
