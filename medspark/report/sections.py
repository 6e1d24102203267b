"""What a report shows: plain numbers, one class for each section of the page.

Nothing here may hold data of a patient; what is not known yet is ``None`` or empty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from medspark.errors import ContractError
from medspark.frame import Image


@dataclass(frozen=True)
class Accounting:
    """Where every listed file went, counted in files but for ``n_frames``."""

    n_listed: int
    n_processed: int = 0
    n_unchanged: int = 0
    n_skipped: int = 0
    n_quarantined: int = 0
    n_frames: int = 0
    by_format: Mapping[str | None, int] = field(default_factory=dict)  # None: not known
    by_modality: Mapping[str | None, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)  # files by reason
    quarantined: Mapping[str, int] = field(default_factory=dict)  # rows, that is files or frames, by reason

    @property
    def n_missing(self) -> int:
        """Files listed of which nothing more is known; below zero: files counted twice."""
        return self.n_listed - self.n_processed - self.n_unchanged - self.n_skipped - self.n_quarantined


@dataclass(frozen=True)
class ClassCount:
    """How many frames and patients of a class are on one side of the split."""

    label: str
    side: str  # train, test
    n_frames: int
    n_patients: int | None = None


@dataclass(frozen=True)
class Sample:
    """One frame of the contact sheet: its planes by name (original, edges, segmentation), uint8, gray or RGB."""

    caption: str
    planes: Mapping[str, Image]

    def __post_init__(self) -> None:
        for name, image in self.planes.items():
            if image.dtype != np.uint8 or image.ndim not in {2, 3} or (image.ndim == 3 and image.shape[2] != 3):
                raise ContractError(
                    f"contact sheet: plane {name!r} is {image.dtype} of shape {image.shape}; give uint8, gray or RGB"
                )


@dataclass(frozen=True)
class Histogram:
    """Counts between ``edges``, for each class; when there are no classes, one entry of any name."""

    edges: ArrayLike  # n + 1 numbers, ascending
    counts: Mapping[str, ArrayLike]  # n numbers each

    def __post_init__(self) -> None:
        n_edges = np.size(self.edges)
        for label, counts in self.counts.items():
            if np.size(counts) != n_edges - 1:
                raise ContractError(
                    f"histogram: {np.size(counts)} counts of {label!r} for {n_edges} bin edges; give one edge more"
                )


@dataclass(frozen=True)
class Feature:
    """The distribution of one feature, and its importance to the model when there is one."""

    name: str
    histogram: Histogram
    importance: float | None = None  # what its splits gained, as a share
    permutation: tuple[float, float] | None = None  # AUC lost when it is shuffled: mean and standard deviation


@dataclass(frozen=True)
class RocCurve:
    """The receiver operating characteristic of one class against the rest; an undefined ``auc`` is NaN."""

    label: str
    fpr: ArrayLike
    tpr: ArrayLike
    auc: float

    def __post_init__(self) -> None:
        if np.size(self.fpr) != np.size(self.tpr):
            raise ContractError(
                f"ROC of {self.label!r}: {np.size(self.fpr)} false and {np.size(self.tpr)} true positive rates; "
                "give one of each for every threshold"
            )


@dataclass(frozen=True)
class CalibrationCurve:
    """How often a class is there where the model gives it a probability, in the parts of 0 to 1 that have frames."""

    label: str
    mean_predicted: Sequence[float]
    fraction_positive: Sequence[float]
    n: Sequence[int]  # frames

    def __post_init__(self) -> None:
        if not len(self.mean_predicted) == len(self.fraction_positive) == len(self.n):
            raise ContractError(
                f"calibration of {self.label!r}: {len(self.mean_predicted)} probabilities, "
                f"{len(self.fraction_positive)} shares and {len(self.n)} counts; give one of each for every part"
            )


@dataclass(frozen=True)
class Subgroup:
    """How the model did on the held-out frames that have one value in a column; what is undefined is None."""

    column: str
    value: str
    n: int
    auc: float | None = None
    sensitivity: float | None = None
    specificity: float | None = None


@dataclass(frozen=True)
class OperatingPoint:
    """What comes of calling a frame ``label`` from a probability on; what is undefined is None."""

    label: str
    threshold: float
    sensitivity: float | None = None
    specificity: float | None = None
    ppv: float | None = None
    npv: float | None = None


@dataclass(frozen=True)
class ComparedModel:
    """One of the models that a run has tried; what is undefined is None."""

    name: str  # its kind, and the parameters that are not the default
    purpose: str  # model, compare, search
    n_test: int
    auc: float | None = None
    interval: tuple[float, float] | None = None  # of the AUC
    sensitivity: float | None = None
    specificity: float | None = None
    brier: float | None = None
    is_kept: bool = False


@dataclass(frozen=True)
class Evaluation:
    """How the model did on frames it did not learn from."""

    classes: Sequence[str]
    confusion: ArrayLike  # counts; rows are the true classes, columns the predicted ones
    roc: Sequence[RocCurve] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)  # accuracy, auc, ..., n
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # 95 %, by the names of the metrics
    drawn: str = "patients"  # what the intervals draw
    auc_delong: tuple[float, float] | None = None  # the 95 % interval of the AUC if every frame were independent
    random_split: Mapping[str, float] = field(default_factory=dict)  # metrics of a split of frames at random
    calibration: Sequence[CalibrationCurve] = ()
    subgroups: Sequence[Subgroup] = ()
    operating_point: OperatingPoint | None = None

    def __post_init__(self) -> None:
        n, shape = len(self.classes), np.shape(self.confusion)
        if shape != (n, n):
            raise ContractError(f"confusion matrix: the shape is {shape}, {n} classes need {(n, n)}")


@dataclass(frozen=True)
class Leaks:
    """What a run has found on both sides of its split."""

    run_id: str
    counts: Mapping[str, int]  # by kind: same_patient, same_bytes, near, two_labels
    is_of_model: bool = False  # whether it is the run that made the model


@dataclass(frozen=True)
class Drift:
    """How far one number of the scored frames is from what it was when the model was trained."""

    what: str  # feature, probability
    name: str  # of the feature, or of the class
    psi: float
    ks: float
    n: int  # scored frames
    is_drifted: bool


@dataclass(frozen=True)
class Drifts:
    """What one run has scored, compared with the training side; probabilities with those of the test side."""

    run_id: str
    n_compared: int
    n_drifted: int
    shown: Sequence[Drift]  # the drifted first


@dataclass(frozen=True)
class Predictions:
    """How many frames were given to each class, and how sure the model was."""

    counts: Mapping[str, int]
    top_probability: Histogram | None = None


@dataclass(frozen=True)
class Report:
    """All that the page shows of one run."""

    run_id: str
    created_at: datetime  # taken as UTC when it has no time zone
    medspark_version: str
    spark_version: str
    warehouse: str
    recipe_id: str
    recipe: Sequence[Mapping[str, Any]]  # entries as Op.to_dict() makes them
    accounting: Accounting
    model_id: str | None = None
    class_balance: Sequence[ClassCount] = ()
    contact_sheet: Sequence[Sample] = ()
    features: Sequence[Feature] = ()  # the most important first
    evaluation: Evaluation | None = None
    compared: Sequence[ComparedModel] = ()  # of the run that made the model, which is one of them
    leaks: Leaks | None = None
    predictions: Predictions | None = None
    drifts: Drifts | None = None
