"""Labels onto features: from a table of the user's, or from the names of directories."""

import bisect
import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.csv
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from medspark.config import Config
from medspark.errors import ConfigError
from medspark.privacy.pseudonym import load_key, pseudonym

_OWN_GROUPS = {"patient": "patient_id", "study": "study_uid", "file": "path"}
_AGE_LIMITS, _AGES = (18, 40, 65), ("0 to 17", "18 to 39", "40 to 64", "65 and more")
SUBGROUP = "subgroup_"  # and its name: a column of ``evaluation.subgroups``


def labelled(features: DataFrame, images: DataFrame, config: Config) -> DataFrame:
    """Return the features that have a label, with ``label``, ``group`` (who must not be on both sides) and ``side``.

    ``side`` is null unless the labels say it (``split.by = "split"``); ``group`` is null where nothing is known.
    ``patient_id`` is that of the labels, if they have one, as a pseudonym. Each column of ``evaluation.subgroups`` is
    there as ``subgroup_NAME``: from the labels, or else from the features or the images. Raises ConfigError if nothing
    is labelled, or if a column is nowhere.
    """
    by = config.split.by
    if config.labels_from == "parent":
        if by not in _OWN_GROUPS:
            raise ConfigError(f"split.by = {by!r} is a column of --labels; without them: {', '.join(_OWN_GROUPS)}")
        table = features.select(
            "*", F.element_at(F.split("path", "/"), -2).alias("label"), _own_group(by), _no_text("side")
        )
        return _with_subgroups(table, images, config.evaluation.subgroups)
    config.require("labels")
    table = features.join(_by_path(_read(features.sparkSession, config), images), "path")
    table = table.withColumn("patient_id", F.coalesce("_patient_id", "patient_id"))
    if by in _OWN_GROUPS:
        table = table.select("*", _own_group(by), _no_text("side"))
    elif by == "split":
        table = table.select("*", _own_group("patient"), F.lower("_by").alias("side"))
    else:
        table = table.select("*", F.col("_by").alias("group"), _no_text("side"))
    return _with_subgroups(table.drop("_patient_id", "_by"), images, config.evaluation.subgroups)


def _with_subgroups(table: DataFrame, images: DataFrame, names: Sequence[str]) -> DataFrame:
    missing = [name for name in names if f"{SUBGROUP}{name}" not in table.columns]
    of_features = [name for name in missing if name in table.columns]
    of_images = [name for name in missing if name not in of_features]
    if nowhere := [name for name in of_images if name not in images.columns]:
        raise ConfigError(f"evaluation.subgroups: no column {', '.join(nowhere)} in the labels, features or images")
    table = table.withColumns({f"{SUBGROUP}{name}": F.col(name) for name in of_features})
    if of_images:
        facts = images.select("path", *(F.col(name).alias(f"{SUBGROUP}{name}") for name in of_images))
        table = table.join(facts, "path", "left")
    return table


def _read(spark: SparkSession, config: Config) -> DataFrame:
    """Return path, label, _patient_id and _by; read on the driver, for executors need not see its disk."""
    as_text = pa.csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=True)
    try:
        names = pa.csv.open_csv(config.labels).schema.names
        as_text.column_types = dict.fromkeys(names, pa.string())
        found = pa.csv.read_csv(config.labels, convert_options=as_text)
    except (OSError, pa.ArrowInvalid) as error:
        # Arrow ends with the row itself, which may name a patient.
        what = re.sub(r"(Expected \d+ columns, got \d+):.*", r"\1", str(error).splitlines()[0])
        raise ConfigError(f"--labels {config.labels}: {what}") from None
    by = config.split.by
    wanted = ["path", "label", *([by] if by not in _OWN_GROUPS else [])]
    missing = [name for name in wanted if name not in names]
    if missing:
        # What stands there instead is not told: it may be the first patient.
        raise ConfigError(f"--labels {config.labels}: no column {', '.join(missing)}; its first line names the columns")
    twice = [name for name in (*wanted, "patient_id") if names.count(name) > 1]
    if twice:
        raise ConfigError(f"--labels {config.labels}: two columns are called {', '.join(twice)}")
    nothing = pa.nulls(len(found), pa.string())
    key = load_key(config.privacy.key_file)
    patients = [pseudonym(key, name) for name in found["patient_id"].to_pylist()] if "patient_id" in names else nothing
    columns = {
        "path": found["path"],
        "label": found["label"],
        "_patient_id": pa.array(patients, pa.string()),
        "_by": found[by] if by not in _OWN_GROUPS else nothing,
        **{f"{SUBGROUP}{name}": _subgroup(name, found[name]) for name in config.evaluation.subgroups if name in names},
    }
    return spark.createDataFrame(pa.table(columns)).where("label is not null")


def _subgroup(name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of the labels; ages as age groups."""
    if name != "age":
        return values
    try:
        years = [None if value is None else float(value) for value in values.to_pylist()]
    except ValueError:
        raise ConfigError("evaluation.subgroups: the column age of the labels is not in years") from None
    return pa.array([None if age is None else _AGES[bisect.bisect(_AGE_LIMITS, age)] for age in years], pa.string())


def _by_path(labels: DataFrame, images: DataFrame) -> DataFrame:
    """Return the labels by absolute path: as given, or relative to an input."""
    relative = labels.withColumnRenamed("path", "relative_path").join(
        images.select("path", "relative_path"), "relative_path"
    )
    found = relative.drop("relative_path").unionByName(labels.join(images.select("path"), "path")).distinct()
    twice = found.groupBy("path").count().where("count > 1").head()
    if twice:
        raise ConfigError(f"labels: {twice['path']} has two rows that differ; give each file one")
    if found.isEmpty():
        raise ConfigError("labels: no row names a listed file; paths are relative to the --input of index")
    return found


def _own_group(by: str) -> Column:
    return F.col(_OWN_GROUPS[by]).alias("group")


def _no_text(name: str) -> Column:
    return F.lit(None).cast("string").alias(name)
