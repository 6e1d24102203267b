"""What model.json says comes out number by number, and an older one that says less comes out too."""

import json
import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, recall_score, roc_auc_score

from medspark.metrics import at_threshold, by_subgroup, evaluate
from medspark.report import CalibrationCurve, OperatingPoint, evaluated, permutation_importance
from medspark.spark.evaluate import measured

CLASSES = ["sick", "well"]
OLD = ("n", "accuracy", "balanced_accuracy", "auc", "sensitivity", "specificity", "confusion", "roc")


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(11)
    labels = np.array(CLASSES)[rng.integers(0, 2, 200)]
    score = np.clip(rng.normal(0.4 + 0.2 * (labels == "well"), 0.2), 0, 1)
    return labels, np.column_stack([1 - score, score])


@pytest.fixture
def manifest(rows):
    labels, probability = rows
    modality = np.array(["CT", "MR"])[np.arange(200) % 2]
    metrics = {
        **measured(labels, probability, CLASSES, np.arange(200) // 4),
        "subgroups": {"modality": by_subgroup(labels, probability, CLASSES, modality)},
        "operating_point": at_threshold(labels, probability, CLASSES, positive="well", threshold=0.25),
        "random_split": evaluate(labels[::2], probability[::2], CLASSES),
        "permutation_importance": {"auc": 0.75, "mean": [0.25, None, -0.125], "std": [0.5, None, 0.0625]},
    }
    content = {"feature_names": ["a", "b", "c"], "split": {"by": "patient"}, "metrics": metrics}
    return json.loads(json.dumps(content))


def test_the_metrics_are_those_of_scikit_learn(manifest, rows):
    labels, probability = rows
    truth, score = labels == "well", probability[:, 1]
    shown = evaluated(manifest, CLASSES)

    assert shown.metrics == pytest.approx(
        {
            "accuracy": np.mean(truth == (score > 0.5)),
            "balanced_accuracy": recall_score(truth, score > 0.5, average="macro"),
            "auc": roc_auc_score(truth, score),
            "pr_auc": average_precision_score(truth, score),
            "sensitivity": np.mean(score[truth] > 0.5),
            "specificity": np.mean(score[~truth] <= 0.5),
            "brier": brier_score_loss(truth, score),
            "n": 200,
        }
    )
    assert shown.random_split["auc"] == pytest.approx(roc_auc_score(truth[::2], score[::2]))


def test_the_intervals_are_those_of_the_numbers_that_are_shown(manifest):
    manifest["metrics"]["intervals"] |= {"auc": [0.5, 0.75], "brier": None}
    manifest["metrics"]["auc_delong"] = [0.625, 0.6875]
    shown = evaluated(manifest, CLASSES)

    assert set(shown.intervals) == set(shown.metrics) - {"n", "brier"}  # and not how many draws were undefined
    assert shown.intervals["auc"] == (0.5, 0.75)
    assert shown.auc_delong == (0.625, 0.6875)


@pytest.mark.parametrize(
    ("by", "drawn"), [("patient", "patients"), ("split", "patients"), ("study", "groups of one study")]
)
def test_the_intervals_draw_what_the_split_was_by(manifest, by, drawn):
    manifest["split"]["by"] = by

    assert evaluated(manifest, CLASSES).drawn == drawn


def test_of_two_classes_the_positive_one_is_calibrated(manifest):
    (curve,) = evaluated(manifest, CLASSES).calibration

    assert curve.label == "well"
    assert sum(curve.n) == 200


def test_of_several_classes_each_is_calibrated(manifest):
    part = {"mean_predicted": [0.25], "fraction_positive": [0.5], "n": [4]}
    manifest["metrics"] |= {"positive": None, "calibration": {"a": part, "b": part, "c": part}}

    assert evaluated(manifest, CLASSES).calibration == [CalibrationCurve(of, [0.25], [0.5], [4]) for of in "abc"]


def test_the_subgroups_are_told_value_by_value(manifest, rows):
    labels, probability = rows
    of_ct, of_mr = evaluated(manifest, CLASSES).subgroups

    assert (of_ct.column, of_ct.value, of_ct.n) == ("modality", "CT", 100)
    assert of_mr.auc == pytest.approx(roc_auc_score(labels[1::2] == "well", probability[1::2, 1]))
    assert of_mr.sensitivity == pytest.approx(np.mean(probability[1::2, 1][labels[1::2] == "well"] > 0.5))
    assert of_mr.specificity == pytest.approx(np.mean(probability[1::2, 0][labels[1::2] == "sick"] >= 0.5))


def test_the_operating_point_is_of_the_positive_class(manifest, rows):
    labels, probability = rows
    truth, is_called = labels == "well", probability[:, 1] >= 0.25

    assert evaluated(manifest, CLASSES).operating_point == OperatingPoint(
        "well", 0.25, is_called[truth].mean(), (~is_called)[~truth].mean(), truth[is_called].mean(),
        (~truth)[~is_called].mean(),
    )  # fmt: skip


def test_an_older_model_shows_what_it_has(manifest):
    manifest["metrics"] = {name: manifest["metrics"][name] for name in OLD} | {"auc": None}
    manifest["split"] = {}
    shown = evaluated(manifest, CLASSES)

    assert list(shown.metrics) == ["accuracy", "balanced_accuracy", "auc", "sensitivity", "specificity", "n"]
    assert math.isnan(shown.metrics["auc"])
    assert [curve.label for curve in shown.roc] == CLASSES
    assert (shown.intervals, shown.random_split, shown.auc_delong, shown.operating_point) == ({}, {}, None, None)
    assert (list(shown.calibration), list(shown.subgroups)) == ([], [])
    assert permutation_importance(manifest) == {}


def test_the_permutation_importance_goes_by_the_names_of_the_features(manifest):
    assert permutation_importance(manifest) == {"a": (0.25, 0.5), "c": (-0.125, 0.0625)}
