"""Tables of numbers in, one self-contained HTML page out; knows no Spark."""

from medspark.report.evaluation import evaluated, permutation_importance
from medspark.report.page import render
from medspark.report.sections import (
    Accounting,
    CalibrationCurve,
    ClassCount,
    ComparedModel,
    Drift,
    Drifts,
    Evaluation,
    Feature,
    Histogram,
    Leaks,
    OperatingPoint,
    Predictions,
    Report,
    RocCurve,
    Sample,
    Subgroup,
)
from medspark.report.thumbnail import thumbnail

__all__ = [
    "Accounting",
    "CalibrationCurve",
    "ClassCount",
    "ComparedModel",
    "Drift",
    "Drifts",
    "Evaluation",
    "Feature",
    "Histogram",
    "Leaks",
    "OperatingPoint",
    "Predictions",
    "Report",
    "RocCurve",
    "Sample",
    "Subgroup",
    "evaluated",
    "permutation_importance",
    "render",
    "thumbnail",
]
