"""What a bundle's manifest says of how well its model does, as the page shows it."""

from collections.abc import Mapping, Sequence
from typing import Any

from medspark.report.sections import CalibrationCurve, Evaluation, OperatingPoint, RocCurve, Subgroup

_SHOWN = ("accuracy", "balanced_accuracy", "auc", "pr_auc", "sensitivity", "specificity", "brier", "n")


def evaluated(manifest: Mapping[str, Any], classes: Sequence[str]) -> Evaluation:
    """Return the evaluation in the content of a model.json; what an older model does not have is left empty."""
    metrics = manifest["metrics"]
    by = manifest["split"].get("by", "patient")
    return Evaluation(
        classes,
        metrics["confusion"],
        roc=[RocCurve(label, curve["fpr"], curve["tpr"], curve["auc"]) for label, curve in metrics["roc"].items()],
        metrics=_numbers(metrics),
        intervals=_intervals(metrics.get("intervals") or {}),
        drawn="patients" if by in {"patient", "split"} else f"groups of one {by}",
        auc_delong=_pair(metrics.get("auc_delong")),
        random_split=_numbers(metrics.get("random_split") or {}),
        calibration=_calibration(metrics),
        subgroups=[
            Subgroup(column, value, **{name: numbers[name] for name in ("n", "auc", "sensitivity", "specificity")})
            for column, values in (metrics.get("subgroups") or {}).items()
            for value, numbers in values.items()
        ],
        operating_point=_operating_point(metrics),
    )


def permutation_importance(manifest: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the mean and standard deviation of the AUC that is lost without each feature, where they are known."""
    found = manifest["metrics"].get("permutation_importance")
    if not found:
        return {}
    pairs = (_pair(both) for both in zip(found["mean"], found["std"], strict=True))
    return {name: pair for name, pair in zip(manifest["feature_names"], pairs, strict=True) if pair}


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return those that are shown; an undefined one is NaN."""
    return {name: float("nan") if metrics[name] is None else metrics[name] for name in _SHOWN if name in metrics}


def _intervals(found: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    pairs = {name: _pair(found.get(name)) for name in _SHOWN}
    return {name: pair for name, pair in pairs.items() if pair}


def _pair(found: Sequence[float | None] | None) -> tuple[float, float] | None:
    first, second = found or (None, None)
    return None if first is None or second is None else (first, second)


def _calibration(metrics: Mapping[str, Any]) -> list[CalibrationCurve]:
    """Return the curve of the positive class; of each class if none is."""
    positive = metrics.get("positive")
    return [
        CalibrationCurve(label, curve["mean_predicted"], curve["fraction_positive"], curve["n"])
        for label, curve in (metrics.get("calibration") or {}).items()
        if positive in {None, label}
    ]


def _operating_point(metrics: Mapping[str, Any]) -> OperatingPoint | None:
    found = metrics.get("operating_point")
    names = ("threshold", "sensitivity", "specificity", "ppv", "npv")
    return OperatingPoint(metrics["positive"], **{name: found[name] for name in names}) if found else None
