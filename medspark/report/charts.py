"""Charts as inline SVG without any text from data; their colours are variables of the page's style sheet."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.style
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medspark.report.sections import CalibrationCurve, Histogram, RocCurve

# Okabe & Ito (2008), "Color Universal Design", without its black and its yellow, which is too light for lines on white.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("none", "6 2", "2 2", "8 2 2 2")
ACCENT, TEXT, GRID = "#54657a", "#5f6873", "#d9dde2"
_AREA = 700.0  # of the points of a calibration curve, all together; in square points

# The default style comes first: a matplotlibrc on the machine must not change the page. Text stays text.
STYLE: list[str | dict[str, Any]] = ["default", {"svg.fonttype": "none", "font.size": 8.0}]
VARIABLES = {ACCENT: "accent", TEXT: "soft", GRID: "line", **{c: f"class-{i}" for i, c in enumerate(PALETTE)}}


@dataclass(frozen=True)
class Look:
    """How one class is drawn everywhere on the page: never by its colour alone."""

    color: str = ACCENT
    dash: str = "none"  # as in SVG's stroke-dasharray

    @property
    def css(self) -> str:
        """The colour as the page's style sheet calls it."""
        return _variable(self.color)

    @property
    def linestyle(self) -> str | tuple[int, tuple[float, ...]]:
        """The dash as matplotlib wants it."""
        return "solid" if self.dash == "none" else (0, tuple(float(length) for length in self.dash.split()))


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """Return the look of each label: no two alike up to the number of colours times that of dashes."""
    n = len(PALETTE)
    return {label: Look(PALETTE[i % n], DASHES[(i + i // n) % len(DASHES)]) for i, label in enumerate(labels)}


@matplotlib.style.context(STYLE)
def histogram(
    table: Histogram, looks: Mapping[str, Look], *, name: str, size: tuple[float, float] = (3.2, 1.65), xlabel: str = ""
) -> Markup:
    """Return one outline for each class: the share of its frames in each bin; ``size`` is in inches."""
    figure = Figure(figsize=size)
    bottom = (0.42 if xlabel else 0.24) / size[1]
    axes = _axes(figure, (0.38 / size[0], bottom, 1 - 0.5 / size[0], 1 - bottom - 0.06 / size[1]))
    edges = np.asarray(table.edges, dtype=float)
    top = 0.0
    for i, (label, counts) in enumerate(table.counts.items()):
        shares = np.asarray(counts, dtype=float)
        shares = shares / max(shares.sum(), 1.0)
        look = looks[label] if len(table.counts) > 1 else Look()
        if len(table.counts) <= 3:  # more fills on top of each other are mud
            axes.stairs(shares, edges, fill=True, color=look.color, alpha=0.18, linewidth=0)
        axes.stairs(shares, edges, color=look.color, linewidth=1.3, linestyle=look.linestyle, gid=f"{name}-{i}")
        top = max(top, shares.max(initial=0.0))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.06 * top or 1.0)
    axes.locator_params(axis="x", nbins=4, steps=(1, 2, 5, 10))
    axes.locator_params(axis="y", nbins=2, steps=(1, 2, 5, 10))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.10g}")
    axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.3g} %")
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_xlabel(xlabel, color=TEXT)
    return _svg(figure, name)


@matplotlib.style.context(STYLE)
def roc(curves: Sequence[RocCurve], looks: Mapping[str, Look], *, name: str = "roc") -> Markup:
    """Return the curves in the unit square, with the diagonal of a model that guesses."""
    figure, axes = _unit_square()
    for i, curve in enumerate(curves):
        look = looks[curve.label]
        axes.plot(
            np.asarray(curve.fpr),
            np.asarray(curve.tpr),
            color=look.color,
            linewidth=1.8,
            linestyle=look.linestyle,
            clip_on=False,
            gid=f"{name}-{i}",
        )
    axes.set_xlabel("False positive rate (1 − specificity)", color=TEXT)  # noqa: RUF001 - a minus sign
    axes.set_ylabel("True positive rate (sensitivity)", color=TEXT)
    return _svg(figure, name)


@matplotlib.style.context(STYLE)
def calibration(curves: Sequence[CalibrationCurve], looks: Mapping[str, Look], *, name: str = "calibration") -> Markup:
    """Return the curves in the unit square, with the diagonal of exact probabilities.

    The area of a point is as great as its share of the frames.
    """
    figure, axes = _unit_square()
    for i, curve in enumerate(curves):
        look = looks[curve.label]
        x, y, n = (np.asarray(values, float) for values in (curve.mean_predicted, curve.fraction_positive, curve.n))
        axes.plot(x, y, color=look.color, linewidth=1.4, linestyle=look.linestyle, clip_on=False, gid=f"{name}-{i}")
        areas = _AREA * n / n.sum()
        axes.scatter(x, y, areas, color=look.color, alpha=0.5, linewidth=0, clip_on=False, gid=f"{name}-n-{i}")
    axes.set_xlabel("Probability given by the model (mean)", color=TEXT)
    axes.set_ylabel("Share of frames that are of the class", color=TEXT)
    return _svg(figure, name)


def _unit_square() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 4.2))
    axes = _axes(figure, (0.115, 0.115, 0.86, 0.86))
    axes.plot([0, 1], [0, 1], color=TEXT, linewidth=0.8, linestyle=(0, (2, 3)))
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=np.linspace(0, 1, 6), yticks=np.linspace(0, 1, 6))
    axes.grid(color=GRID, linewidth=0.6)
    return figure, axes


def _axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    axes = figure.add_axes(box)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(TEXT)
    axes.tick_params(length=0, labelcolor=TEXT, pad=4)
    return axes


def _svg(figure: Figure, name: str) -> Markup:
    written = io.StringIO()
    # The salt makes the ids that the SVG refers to the same each time, and different in each chart of the page.
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(
            written, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    # What would reach beyond its own chart: a style for the whole page, ids that every chart has, a font of its own.
    svg = re.sub(r"<style.*?</style>", "", svg)
    svg = re.sub(r'<g id="[\w.]+_\d+"', "<g", svg)
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda color: _variable(color[0]), svg)
    return Markup(svg)  # noqa: S704 - drawn by matplotlib from numbers alone


def _variable(color: str) -> str:
    return f"var(--{VARIABLES[color]}, {color})" if color in VARIABLES else color
