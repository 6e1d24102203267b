"""The page: a report's numbers, set by the template beside this file."""

import base64
import functools
import json
import math
import re
from datetime import UTC, datetime
from importlib import resources
from itertools import chain
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from medspark.frame import Image
from medspark.report import charts
from medspark.report.reasons import REASONS, UNKNOWN
from medspark.report.sections import Report

METRICS = {
    "accuracy": ("Accuracy", "share of frames given to their own class"),
    "balanced_accuracy": ("Balanced accuracy", "mean of the classes' sensitivities"),
    "auc": ("AUC", "chance that a case ranks above a non-case"),
    "pr_auc": ("PR AUC", "mean precision over all shares of cases found"),
    "sensitivity": ("Sensitivity", "share of the cases found"),
    "specificity": ("Specificity", "share of the non-cases left alone"),
    "brier": ("Brier score", "mean squared error of the probability; 0 is best"),
}
LEAKS = {
    "same_patient": "patients on both sides",
    "same_bytes": "pairs of the same bytes on both sides",
    "near": "pairs of nearly the same image on both sides",
    "two_labels": "images with two labels",
}
MISSING = "–"  # noqa: RUF001 - a dash is what stands for no number


def render(report: Report) -> str:
    """Return the report as one HTML page that loads nothing, runs nothing and reads the same on paper.

    The same report gives the same bytes. All text is escaped; sections without content say which job makes it.
    """
    looks = charts.looks(_labels(report))
    evaluation, predictions = report.evaluation, report.predictions
    return _template().render(
        report=report,
        looks=looks,
        balance={(row.label, row.side): row for row in report.class_balance},
        feature_charts=[
            charts.histogram(feature.histogram, looks, name=f"feature-{i}") for i, feature in enumerate(report.features)
        ],
        roc_chart=charts.roc(evaluation.roc, looks) if evaluation and evaluation.roc else None,
        calibration_chart=charts.calibration(evaluation.calibration, looks)
        if evaluation and evaluation.calibration
        else None,
        confusion=np.asarray(evaluation.confusion).tolist() if evaluation else None,
        probability_chart=charts.histogram(
            predictions.top_probability, looks, name="probability", size=(4.6, 2.6), xlabel="Highest class probability"
        )
        if predictions and predictions.top_probability
        else None,
    )


def _labels(report: Report) -> list[str]:
    """Every class of the page, once: a class looks the same in all sections."""
    evaluation, predictions = report.evaluation, report.predictions
    histograms = [feature.histogram for feature in report.features]
    if predictions and predictions.top_probability:
        histograms.append(predictions.top_probability)
    everywhere = chain(
        evaluation.classes if evaluation else (),
        (curve.label for curve in evaluation.roc) if evaluation else (),
        (curve.label for curve in evaluation.calibration) if evaluation else (),
        (row.label for row in report.class_balance),
        predictions.counts if predictions else (),
        *(histogram.counts for histogram in histograms if len(histogram.counts) > 1),
    )
    return list(dict.fromkeys(everywhere))


@functools.cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "code": _code,
        "decimal": _decimal,
        "interval": _interval,
        "json": functools.partial(json.dumps, ensure_ascii=False, default=str),
        "number": _number,
        "png": _png,
        "utc": _utc,
    }
    environment.globals |= {
        "LEAKS": LEAKS,
        "METRICS": METRICS,
        "REASONS": REASONS,
        "UNKNOWN": UNKNOWN,
        "percent": _percent,
    }
    # Not by a loader of files: the package may be inside the zip that spark-submit ships.
    page = resources.files("medspark.report").joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(page)


def _number(number: float | None) -> str:
    return MISSING if number is None else f"{number:,}"


def _decimal(number: float | None) -> str:
    return MISSING if number is None or math.isnan(number) else f"{number:z.3f}"  # z: no minus before a zero


def _interval(ends: tuple[float, float] | None) -> str:
    return MISSING if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def _percent(part: float, whole: float) -> str:
    """Return a share that is 0 % or 100 % only when it is exactly that."""
    if not whole:
        return MISSING
    share = 100 * part / whole
    if 0 < share < 0.1:
        return "< 0.1 %"
    if 99.9 < share < 100:
        return "> 99.9 %"
    return f"{share:.0f} %" if share in {0, 100} else f"{share:.1f} %"


def _utc(moment: datetime) -> str:
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return f"{aware:%Y-%m-%d %H:%M} UTC"


def _png(image: Image) -> str:
    stored = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    content: Any = cv2.imencode(".png", stored, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
    return f"data:image/png;base64,{base64.b64encode(content.tobytes()).decode()}"


def _code(sentence: str) -> Markup:
    """Return a sentence in which `words in backticks` are set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(sentence))))  # noqa: S704 - escaped first
