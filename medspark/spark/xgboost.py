"""XGBoost's forest mode, grown by its own Spark estimator and read as trees of ours: scoring needs no XGBoost."""

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from medspark.errors import ConfigError, ContractError
from medspark.models import parameters
from medspark.models.boosting import Boosting
from medspark.models.walk import LEAF
from medspark.spark import tables
from medspark.spark.mllib import class_names, n_tried

TOLERANCE = 1e-6  # between our probabilities and XGBoost's, which adds its trees up in float32
CHECKED = 1000  # rows on and beside the thresholds, on which the two are compared

_NO_SPLIT = -2  # feature and threshold of a leaf, as in scikit-learn
_SUBSAMPLE = 0.8  # of the rows for each tree, as XGBoost's documentation of random forests recommends
_BASE = 0.5  # the probability before any tree: a class wins as it does by votes, however rare it is

# XGBoost's workers talk to each other past Spark.
_SECURED = ("spark.authenticate", "spark.network.crypto.enabled", "spark.ssl.enabled", "spark.ssl.rpc.enabled")


def train_xgboost(
    features: DataFrame,
    feature_names: Sequence[str],
    *,
    label: str = "label",
    trees: int = 100,
    depth: int = 3,
    seed: int = 42,
    max_features: str = "sqrt",
    min_samples_leaf: int = 1,
    max_bins: int = 64,
    workers: int = 2,
) -> Boosting:
    """Return the forest that ``xgboost.spark.SparkXGBClassifier`` fits to all rows in one round, as trees of ours.

    The parameters mean what they mean for ``forest``; each feature is cut at ``max_bins`` - 1 places at most, and of
    more than two classes each has ``trees`` trees of its own. The probabilities are XGBoost's own within 1e-6 for a
    hundred trees: of two classes the sigmoid of four times what the votes exceed a half by, so 0.12 to 0.88. Equal rows
    give the same forest in whatever partitions they come, but for another number of ``workers``, the tasks that learn
    at the same time and hold the matrix between them. These talk past Spark, in plain text, to whoever connects: a
    session that is secured is refused. Raises ConfigError for that, for a missing xgboost, or for a parameter out of
    range, ContractError for unfit data or an XGBoost whose trees cannot be read.
    """
    require_xgboost(features.sparkSession, workers)
    from xgboost.spark import SparkXGBClassifier

    settings = {
        "num_parallel_tree": parameters.whole("trees", trees, 1),
        "max_depth": parameters.limit("depth", depth) or 0,
        "random_state": parameters.seed(seed),
        "colsample_bynode": _share(n_tried(max_features, len(feature_names)), len(feature_names)),
        "max_bin": parameters.whole("max_bins", max_bins, 2),
    }
    least = parameters.whole("min_samples_leaf", min_samples_leaf, 1)
    tables.require(features, [label, *feature_names], "the table to learn from")
    classes = class_names(features, feature_names, label)
    grower = SparkXGBClassifier(
        features_col=list(feature_names),
        label_col="label",
        num_workers=workers,
        n_estimators=1,
        learning_rate=1.0,
        subsample=_SUBSAMPLE,
        reg_lambda=0.0,
        base_score=_BASE,
        min_child_weight=(least - 0.5) * _weight(len(classes)),
        tree_method="hist",
        verbose=False,
        verbosity=0,
        **settings,
    )
    booster = _fit(grower, _placed(features, feature_names, label, classes, workers), workers)
    model = _read(json.loads(bytes(booster.save_raw("json"))), classes, len(feature_names))
    _require_equal(model, booster)
    return model


def require_xgboost(spark: SparkSession, workers: int) -> None:
    """Raise ConfigError if XGBoost is not installed, or cannot or must not run in this session."""
    try:
        import xgboost.spark  # noqa: F401 - optional, and slow to import
    except ImportError:
        raise ConfigError("model.engine = 'xgboost' needs a package: pip install 'medspark[xgboost]'") from None
    logger = logging.getLogger("XGBoost-PySpark")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)  # it would set INFO
    _require_room(dict(spark.sparkContext.getConf().getAll()), spark.sparkContext.defaultParallelism, workers)


def xgboost_settings(workers: int) -> dict[str, Any]:
    """Return what the forest depends on besides its parameters, for the bundle."""
    import xgboost

    return {"workers": workers, "xgboost": xgboost.__version__}


def _require_room(settings: Mapping[str, str], n_cores: int, workers: int) -> None:
    for name in _SECURED:
        if settings.get(name) == "true":
            raise ConfigError(
                f"model.engine = 'xgboost': its workers talk to each other in plain text and listen to everybody, and "
                f"{name} = true asks for better; take engine = 'exact' or 'mllib'"
            )
    if settings.get("spark.dynamicAllocation.enabled") == "true":
        raise ConfigError(
            "model.engine = 'xgboost': its workers start together, which Spark does not do with "
            "spark.dynamicAllocation.enabled = true; give --conf spark.dynamicAllocation.enabled=false"
        )
    master = settings["spark.master"]
    there = _cores(master, n_cores)
    if parameters.whole("model.workers", workers, 1) > there:
        raise ConfigError(
            f"model.workers = {workers}: they start together, and {master} has room for {there}; give {there}, or "
            "another --master"
        )


def _cores(master: str, n_cores: int) -> float:
    """Return how many tasks this machine runs at a time; of a cluster, which Spark itself looks at, infinity."""
    if not re.match(r"local(\[|$)", master):
        return math.inf
    told = re.match(r"local\[(\d+)", master)
    return int(told[1]) if told else n_cores


def _fit(grower: Any, rows: DataFrame, workers: int) -> Any:
    """Return XGBoost's booster."""
    try:
        return grower.fit(rows).get_booster()
    except (PySparkException, Py4JError):
        there = rows.select(F.spark_partition_id()).distinct().count()
        if there == workers:
            raise
        raise ContractError(
            f"model.workers = {workers}: the rows are enough for {there}, as equal rows stay together; give {there}"
        ) from None


def _placed(
    features: DataFrame, feature_names: Sequence[str], label: str, classes: Sequence[str], workers: int
) -> DataFrame:
    """Return a partition for each worker, in an order that does not depend on where the rows were before."""
    columns = [F.col(name).cast("float").alias(name) for name in feature_names]
    rows = features.select(_code(label, classes), *columns)
    return rows.repartition(workers, *feature_names).sortWithinPartitions(*feature_names, "label")


def _code(label: str, classes: Sequence[str]) -> Column:
    place = F.array_position(F.array(*map(F.lit, classes)), F.col(label).cast("string")) - 1
    return place.cast("float").alias("label")


def _share(n_chosen: int, n_features: int) -> float:
    """Return the share of the features that XGBoost, which rounds down, takes for this many."""
    return min(1.0, (n_chosen + 0.5) / n_features)


def _weight(n_classes: int) -> float:
    """Return the weight of a row in a leaf: the second derivative of the loss, in the first round equal for all."""
    probability = _BASE if n_classes == 2 else 1 / n_classes
    return probability * (1 - probability) * (1 if n_classes == 2 else 2)


def _read(content: Mapping[str, Any], classes: Sequence[str], n_features: int) -> Boosting:
    """Return the trees of XGBoost's JSON as ours."""
    n_scores = 1 if len(classes) == 2 else len(classes)
    try:
        model = content["learner"]["gradient_booster"]["model"]
        # XGBoost has all trees of a class side by side, we have a tree of each class.
        order = np.argsort(model["tree_info"], kind="stable").reshape(n_scores, -1).T.ravel()
        arrays = _arrays([model["trees"][i] for i in order.tolist()])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise _unknown_version(f"does not write its trees as they are read ({error})") from error
    # A baseline of nothing: the probability before any tree is the same for each class.
    return Boosting.from_arrays({**arrays, "baseline": np.zeros(n_scores)}, classes=classes, n_features=n_features)


def _arrays(trees: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[Any]]:
    def joined(name: str, dtype: type[np.generic]) -> npt.NDArray[Any]:
        return np.concatenate([np.asarray(tree[name], dtype) for tree in trees])

    left, number = joined("left_children", np.int32), joined("split_conditions", np.float32)
    is_leaf = left == LEAF
    return {
        "n_nodes": np.array([len(tree["left_children"]) for tree in trees], np.int64),
        "children_left": left,
        "children_right": joined("right_children", np.int32),
        "feature": np.where(is_leaf, _NO_SPLIT, joined("split_indices", np.int32)).astype(np.int32),
        "threshold": np.where(is_leaf, _NO_SPLIT, _below(number)),
        "value": np.where(is_leaf, number.astype(np.float64), 0.0),
    }


def _below(threshold: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the largest float64 that, rounded to float32, is less than the threshold.

    XGBoost rounds a value and asks for ``<``, we ask the value itself for ``<=``.
    """
    before = np.nextafter(threshold, np.float32(-np.inf))
    middle = (before.astype(np.float64) + threshold.astype(np.float64)) / 2
    is_even = before.view(np.uint32) % 2 == 0  # what lies in the middle is rounded to the even one
    return np.where(is_even, middle, np.nextafter(middle, -np.inf))


def _require_equal(model: Boosting, booster: Any) -> None:
    from xgboost import DMatrix

    rows = _edges(model)
    theirs = booster.predict(DMatrix(rows), validate_features=False)
    ours = model.predict_proba(rows)
    difference = np.abs(ours - theirs if theirs.ndim == 2 else ours[:, 1] - theirs).max()
    bound = TOLERANCE * max(1.0, len(model.stages.n_nodes) / 100)
    if not difference <= bound:
        raise _unknown_version(f"gives other probabilities than its trees read by medspark, by {difference:.3g}")


def _edges(model: Boosting) -> npt.NDArray[np.float64]:
    """Return rows of which each value is near a threshold of its feature, on either side."""
    rng = np.random.default_rng(0)
    rows = np.zeros((CHECKED, model.n_features))
    for feature in np.unique(model.stages.feature[~model.stages.is_leaf]):
        known = model.stages.threshold[model.stages.feature == feature]
        rows[:, feature] = rng.choice([*known, *np.nextafter(known, np.inf)], CHECKED)
    return rows


def _unknown_version(what: str) -> ContractError:
    import xgboost

    return ContractError(
        f"xgboost: version {xgboost.__version__} {what}; install another one, or take engine = 'exact' or 'mllib'"
    )
