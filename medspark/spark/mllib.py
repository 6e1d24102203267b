"""Spark's own forest, for data that fit no single machine, and when it has to be taken."""

import math
import os
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from medspark.errors import ConfigError, ContractError
from medspark.models import parameters
from medspark.models.forest import Forest, class_codes
from medspark.models.walk import LEAF
from medspark.selection import parameters_of
from medspark.spark import tables

DEEPEST = 30  # MLlib refuses more

_TAKEN = ("trees", "depth", "max_features", "min_samples_leaf")
_NO_SPLIT = -2  # feature and threshold of a leaf, as in scikit-learn

# How much is held at the peak of training the exact forest, measured with 10 to 200 features, as a multiple of the
# float32 matrix. What a row costs besides (its texts, its place in each tree) counts as more features.
_ON_THE_DRIVER, _IN_A_WORKER = 6.0, 1.3
_BESIDE = 32
_SHARE = 0.5  # of the memory that is there: Java, the libraries and all else live there too
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def train_mllib(
    features: DataFrame,
    feature_names: Sequence[str],
    *,
    label: str = "label",
    trees: int = 100,
    depth: int = 3,
    seed: int = 42,
    max_features: str = "sqrt",
    min_samples_leaf: int = 1,
    max_bins: int = 128,
    scratch: Path | str,
) -> Forest:
    """Return ``pyspark.ml.classification.RandomForestClassifier`` fitted to all rows, as a forest of ours.

    No row leaves the executors but the names of the classes; the columns are read about four times, as float32 (which
    is what a forest compares). The parameters mean what they mean for ``forest``; ``depth`` is 1 to 30. Each feature is
    cut at ``max_bins`` - 1 places at most, and two leaves of the same class become one: so it is not scikit-learn's
    forest, and other partitions of the same rows give another one. ``scratch`` is a directory that the driver and
    every executor reach; what is written there is removed. Raises ConfigError for a parameter out of range,
    ContractError for unfit data.
    """
    from pyspark.ml.classification import RandomForestClassifier  # scoring needs no pyspark.ml

    grower = RandomForestClassifier(
        numTrees=parameters.whole("trees", trees, 1),
        maxDepth=_depth(depth),
        seed=parameters.seed(seed),
        featureSubsetStrategy=str(n_tried(max_features, len(feature_names))),
        minInstancesPerNode=parameters.whole("min_samples_leaf", min_samples_leaf, 1),
        maxBins=parameters.whole("max_bins", max_bins, 2),
    )
    tables.require(features, [label, *feature_names], "the table to learn from")
    classes = class_names(features, feature_names, label)
    model = grower.fit(_assembled(features, feature_names, label, classes))
    directory = Path(scratch) / f"forest-{uuid.uuid4().hex}"
    try:
        model.save(str(directory))
        arrays = _arrays(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return Forest.from_arrays(arrays, classes=classes, n_features=len(feature_names))


def mllib_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those parameters of a forest that ``train_mllib`` and ``train_xgboost`` take.

    Raises ConfigError if another one is not at its default: the forest would not be the one asked for.
    """
    defaults = parameters_of("forest")
    for name, value in given.items():
        if name not in _TAKEN and value != defaults.get(name):
            raise ConfigError(
                f"model.{name} = {value!r}: a forest that gathers nothing knows {', '.join(_TAKEN)}; leave it out, or "
                f'take engine = "exact"'
            )
    return {name: given[name] for name in _TAKEN if name in given}


def choose_engine(spark: SparkSession, n_rows: int, n_features: int) -> tuple[Literal["exact", "mllib"], str]:
    """Return ``exact`` if the matrix fits wherever the exact forest needs it, or else ``mllib``, and why.

    The matrix is on the driver and in each Python worker. The sentence names the place with the least room, what is
    needed there and what there is: half of the machine's memory (of its control group, where that is less) in local
    mode and on the driver, half of what Spark's settings leave to Python on an executor, and
    ``spark.driver.maxResultSize`` for what the driver collects.
    """
    settings = dict(spark.sparkContext.getConf().getAll())
    places = _places(settings, spark.sparkContext.defaultParallelism, _machine(), n_rows, n_features)
    tightest = max(places, key=lambda place: place.needed / place.there)
    engine: Literal["exact", "mllib"] = "exact" if tightest.needed <= tightest.there else "mllib"
    needed, there = (f"{size / 2**20:,.0f} MB" for size in (tightest.needed, tightest.there))
    data = f"{n_rows:,} rows x {n_features:,} features"
    return engine, f"{engine}: {data} need {needed}, there are {there}: {tightest.name}"


class _Place(NamedTuple):
    name: str
    needed: float  # bytes
    there: float


def _places(settings: Mapping[str, str], n_cores: int, machine: float, n_rows: int, n_features: int) -> list[_Place]:
    """Return where the matrix has to fit, by the settings of a session, its cores and the memory of the driver."""
    limit = _bytes(settings.get("spark.driver.maxResultSize", "1g")) or math.inf
    collected = _Place("spark.driver.maxResultSize", n_rows * n_features * 8, limit)
    matrix = n_rows * (n_features + _BESIDE) * 4
    driver, worker = matrix * _ON_THE_DRIVER, matrix * _IN_A_WORKER
    if re.match(r"local(\[|$)", settings["spark.master"]):
        name = f"{_SHARE:.0%} of this machine for a driver and {n_cores} workers"
        return [collected, _Place(name, driver + n_cores * worker, _SHARE * machine)]
    n_workers = int(settings.get("spark.executor.cores", n_cores))
    setting, there = _for_python(settings)
    return [
        collected,
        _Place(f"{_SHARE:.0%} of the driver's machine", driver, _SHARE * machine),
        _Place(f"{_SHARE:.0%} of {setting} for {n_workers} workers", n_workers * worker, _SHARE * there),
    ]


def _for_python(settings: Mapping[str, str]) -> tuple[str, float]:
    """Return the setting that says what the workers of an executor have together, and how much that is, in bytes."""
    for name in ("spark.executor.pyspark.memory", "spark.executor.memoryOverhead"):
        if name in settings:
            return name, _bytes(settings[name], "m")
    factor = float(settings.get("spark.executor.memoryOverheadFactor", "0.1"))
    by_factor = factor * _bytes(settings.get("spark.executor.memory", "1g"), "m")
    least = _bytes(settings.get("spark.executor.minMemoryOverhead", "384m"), "m")
    return "spark.executor.memoryOverhead", max(by_factor, least)


def _bytes(size: str, unit: str = "") -> int:
    """Return the bytes of a size as Spark writes it: ``512m``, ``2gb``, or a number of the unit."""
    number, suffix = re.fullmatch(r"\s*(\d+)([kmgt]?)b?\s*", size.lower()).groups()  # type: ignore[union-attr]
    return int(number) * _UNITS[suffix or unit]


def _machine() -> float:
    """Return the memory of this machine, or that of its control group where it is less, in bytes."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    group = Path("/sys/fs/cgroup/memory.max")
    if group.exists() and (limit := group.read_text("ascii").strip()) != "max":
        sizes.append(int(limit))
    return min(sizes)


def n_tried(max_features: str, n_features: int) -> int:
    """Return how many features a node tries: rounded down as in scikit-learn, where MLlib's own words round up."""
    numbers = {"sqrt": math.sqrt(n_features), "log2": math.log2(n_features), "all": n_features}
    return max(1, int(numbers[parameters.choice("max_features", max_features, numbers)]))


def _depth(depth: int) -> int:
    if not 1 <= parameters.whole("depth", depth, 0) <= DEEPEST:
        raise ConfigError(f"depth = {depth}: Spark's forest has a limit, and it is {DEEPEST}; give 1 to {DEEPEST}")
    return int(depth)


def class_names(features: DataFrame, feature_names: Sequence[str], label: str) -> list[str]:
    """Return the names of the classes in sorted order, after a look at each row.

    Raises ContractError for a feature that is no finite float32, and for fewer than two classes.
    """
    row = F.array(*(F.col(name).cast("float") for name in feature_names))
    is_bad = F.exists(row, lambda x: x.isNull() | F.isnan(x) | (F.abs(x) == float("inf")))
    found = features.groupBy(F.col(label)).agg(F.count("*"), F.count(F.when(is_bad, 1))).collect()
    if n_bad := sum(row[2] for row in found):
        raise ContractError(
            f"features: {n_bad} rows hold null, NaN, infinity or a number beyond float32; leave them out or extract "
            "them again"
        )
    if len(found) < 2:
        n_rows = sum(row[1] for row in found)
        raise ContractError(f"{n_rows} rows of {len(found)} class; a model needs at least two classes to tell apart")
    return class_codes([row[0] for row in found])[0]


def _assembled(features: DataFrame, feature_names: Sequence[str], label: str, classes: Sequence[str]) -> DataFrame:
    from pyspark.ml.feature import VectorAssembler  # scoring needs no pyspark.ml

    # Metadata of the columns are left behind: a feature that they call categorical would be split by sets of values.
    columns = [F.col(name).cast("float").cast("double").alias(name) for name in feature_names]
    table = features.select(_code(label, classes), *columns)
    return VectorAssembler(inputCols=list(feature_names), outputCol="features").transform(table)


def _code(label: str, classes: Sequence[str]) -> Column:
    """Return the place of a row's class in the names, which MLlib finds in the metadata instead of counting again."""
    place = F.array_position(F.array(*map(F.lit, classes)), F.col(label).cast("string")) - 1
    return place.cast("double").alias("label", metadata={"ml_attr": {"type": "nominal", "vals": list(classes)}})


def _arrays(directory: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the trees that MLlib saved as the arrays of our forest; its numbers of nodes are in preorder as well."""
    table = pq.read_table(directory / "data").flatten().flatten()
    table = table.sort_by([("treeID", "ascending"), ("nodeData.id", "ascending")]).combine_chunks()
    nodes = {name.rpartition(".")[2]: table[name].combine_chunks() for name in table.column_names}
    feature = nodes["featureIndex"].to_numpy()
    is_split = feature >= 0
    threshold = np.full(len(feature), float(_NO_SPLIT))
    threshold[is_split] = nodes["leftCategoriesOrThreshold"].flatten().to_numpy()
    counts = nodes["impurityStats"].flatten().to_numpy().reshape(len(feature), -1)
    weights = counts.sum(axis=1)
    return {
        "n_nodes": np.bincount(nodes["treeID"].to_numpy()).astype(np.int64),
        "children_left": np.where(is_split, nodes["leftChild"].to_numpy(), LEAF).astype(np.int32),
        "children_right": np.where(is_split, nodes["rightChild"].to_numpy(), LEAF).astype(np.int32),
        "feature": np.where(is_split, feature, _NO_SPLIT).astype(np.int32),
        "threshold": threshold,
        "value": counts / weights[:, np.newaxis],
        "weighted_n_node_samples": weights,
        "impurity": nodes["impurity"].to_numpy(),
    }
