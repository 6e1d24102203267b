"""A report with every section filled, and the page read back as a tree."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from xml.etree.ElementTree import Element, TreeBuilder

import numpy as np
import pytest

from medspark.report import (
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

VOID = {"meta", "link", "img", "br"}


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tree = TreeBuilder()
        self.open = []

    def handle_starttag(self, tag, attrs):
        self.tree.start(tag, {name: value or "" for name, value in attrs})
        self.open.append(tag)
        if tag in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.tree.end(tag)

    def handle_data(self, data):
        if self.open:
            self.tree.data(data)


@pytest.fixture(scope="session")
def read() -> Callable[[str], Element]:
    """A function from a page to its tree, which fails when a tag is left open."""

    def read(page: str) -> Element:
        reader = _Reader()
        reader.feed(page)
        reader.close()
        assert reader.open == []
        return reader.tree.close()

    return read


@pytest.fixture
def report() -> Report:
    rng = np.random.default_rng(7)
    gray = rng.integers(0, 256, (24, 32), dtype=np.uint8)
    color = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return Report(
        run_id="20250131T140312-ab12",
        created_at=datetime(2025, 1, 31, 14, 3, tzinfo=UTC),
        medspark_version="0.1.0",
        spark_version="4.1.0",
        warehouse="s3a://archive/warehouse",
        recipe_id="9f2c41d07b6e",
        recipe=[
            {"use": "median", "size": 5},
            {"use": "canny", "low": 100, "high": 200, "to": "edges"},
            {"use": "density", "of": "edges"},
        ],
        accounting=Accounting(
            n_listed=124_080,
            n_processed=121_310,
            n_unchanged=1_204,
            n_skipped=412,
            n_quarantined=1_154,
            n_frames=1_284_500,
            by_format={"png": 25_080, "dicom": 98_980, None: 20},
            by_modality={"CT": 71_010, "MR": 53_070},
            skipped={"hidden": 12, "not_selected": 400},
            quarantined={"corrupt": 54, "truncated": 1_100},
        ),
        model_id="forest-77c0",
        class_balance=[
            ClassCount("sick", "train", 3_000, 70),
            ClassCount("well", "train", 1_000, 30),
            ClassCount("well", "test", 250, None),
        ],
        contact_sheet=[Sample("CT, frame 3", {"original": gray, "edges": 255 - gray, "segmentation": color})],
        features=[
            Feature("lbp_3", Histogram([0, 1, 2, 4], {"sick": [10, 30, 60], "well": [1, 1, 0]}), 0.25),
            Feature("edges_density", Histogram([0, 0.5, 1], {"sick": [1, 3], "well": [0, 0]}), 0.125),
        ],
        evaluation=Evaluation(
            classes=["sick", "well"],
            confusion=[[1_900, 100], [0, 0]],
            roc=[RocCurve("sick", [0, 0.125, 0.5, 1], [0, 0.75, 0.875, 1], 0.8125)],
            metrics={"accuracy": 0.95, "auc": 0.8125, "specificity": float("nan"), "brier_score": 0.0625, "n": 2_000},
        ),
        predictions=Predictions({"sick": 1_500, "well": 500}, Histogram([0.5, 0.75, 1], {"all": [500, 1_500]})),
    )


@pytest.fixture
def judged(report) -> Report:
    """The same report of a model of which all is known that `train` and `score` can tell."""
    shuffled = [replace(report.features[0], permutation=(0.0625, 0.03125)), report.features[1]]
    evaluation = replace(
        report.evaluation,
        metrics={"auc": 0.8125, "sensitivity": 0.75, "specificity": 0.5, "pr_auc": 0.625, "brier": 0.125, "n": 2_000},
        intervals={"auc": (0.75, 0.875), "brier": (0.0625, 0.25)},
        auc_delong=(0.78125, 0.84375),
        random_split={"auc": 0.96875, "sensitivity": 0.9375, "specificity": float("nan")},
        calibration=[CalibrationCurve("sick", [0.125, 0.5, 0.9375], [0.0, 0.625, 1.0], [1_200, 300, 500])],
        subgroups=[
            Subgroup("modality", "CT", 1_500, 0.875, 0.8125, 0.75),
            Subgroup("sex", "unknown", 500, None, None, 0.25),
        ],
        operating_point=OperatingPoint("sick", 0.3125, 0.9375, 0.4375, 0.5625, None),
    )
    return replace(
        report,
        features=shuffled,
        evaluation=evaluation,
        compared=[
            ComparedModel("forest, depth 0", "model", 2_000, 0.8125, (0.75, 0.875), 0.75, 0.5, 0.125, is_kept=True),
            ComparedModel("svm, C 10.0", "compare", 2_000, 0.6875, (0.5, 0.75), 0.625, 0.375, 0.1875),
            ComparedModel("forest", "search", 8_000, None, None, None, 0.25, 0.3125),
        ],
        leaks=Leaks("train-20250131T130000Z-0123ab", {"near": 1_012, "same_patient": 3}, is_of_model=True),
        drifts=Drifts(
            "score-20250131T135900Z-4567cd",
            n_compared=41,
            n_drifted=1,
            shown=[
                Drift("feature", "lbp_3", 0.5, 0.375, 1_500, is_drifted=True),
                Drift("probability", "sick", 0.0625, 0.125, 1_500, is_drifted=False),
            ],
        ),
    )
