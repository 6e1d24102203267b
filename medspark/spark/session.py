"""The Spark session of a job."""

import contextlib
import os
import threading
from importlib import resources

from pyspark.sql import SparkSession

from medspark.java import ensure_java

_waking: list[threading.Thread] = []


def session(name: str) -> SparkSession:
    """Return the session that spark-submit prepared, or a local one with the settings of conf/spark/local.conf.

    Never sets the master: that is for spark-submit to say. Raises ConfigError if there is no Java.
    """
    ensure_java()
    builder = SparkSession.builder.appName(f"medspark-{name}")
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # not under spark-submit: nobody else has set anything
        for key, value in local_settings().items():
            builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    spark.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")  # Delta knows no INT96
    if str(spark.sparkContext.master).startswith("local"):
        _waking.append(threading.Thread(target=_wake_workers, args=(spark,), daemon=True))
        _waking[-1].start()
    return spark


def stop(spark: SparkSession) -> None:
    """End a session; Spark would complain of a task that is still waiting for its worker to wake."""
    while _waking:
        _waking.pop().join()
    spark.stop()


def _wake_workers(spark: SparkSession) -> None:
    """Start Python's daemon, whose imports take a second, while the driver still plans."""
    with contextlib.suppress(Exception):  # whoever needs a worker will see what is wrong
        spark.range(1).mapInArrow(lambda batches: batches, "id long").collect()


def local_settings() -> dict[str, str]:
    """Return the settings of conf/spark/local.conf."""
    text = resources.files("medspark.conf").joinpath("spark/local.conf").read_text("utf-8")
    lines = (line.strip() for line in text.splitlines())
    return dict(line.split(None, 1) for line in lines if line and not line.startswith("#"))
