"""Tables of numbers in, one self-contained HTML page out; knows no Spark."""

from medspark.report.page import render
from medspark.report.sections import (
    Accounting,
    ClassCount,
    Evaluation,
    Feature,
    Histogram,
    Predictions,
    Report,
    RocCurve,
    Sample,
)
from medspark.report.thumbnail import thumbnail

__all__ = [
    "Accounting",
    "ClassCount",
    "Evaluation",
    "Feature",
    "Histogram",
    "Predictions",
    "Report",
    "RocCurve",
    "Sample",
    "render",
    "thumbnail",
]
