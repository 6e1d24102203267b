"""The Spark session of a job."""

import contextlib
import os
import threading
from collections.abc import Callable
from importlib import resources
from typing import TypeVar

from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from medspark.java import ensure_java

T = TypeVar("T")

_beginning: list[threading.Thread] = []
_waking: list[threading.Thread] = []


def begin(name: str) -> None:
    """Start what ``session`` will return, in a thread: for a master that nobody else has to share."""
    _beginning.append(threading.Thread(target=_suppressed, args=(_session, name), daemon=True))
    _beginning[-1].start()


def session(name: str) -> SparkSession:
    """Return the session that spark-submit prepared, or a local one with the settings of conf/spark/local.conf.

    Never sets the master: that is for spark-submit to say. Raises ConfigError if there is no Java.
    """
    while _beginning:
        _beginning.pop().join()
    return _session(name)


def stop(spark: SparkSession) -> None:
    """End a session; Spark would complain of a task that is still waiting for its worker to wake."""
    while _waking:
        _waking.pop().join()
    spark.stop()


def _session(name: str) -> SparkSession:
    ensure_java()
    settings = SparkConf().setAppName(f"medspark-{name}")
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # not under spark-submit: nobody else has set anything
        settings.setAll(list(local_settings().items()))
    context = SparkContext.getOrCreate(settings)
    if str(context.master).startswith("local") and not _waking:
        _waking.append(threading.Thread(target=_suppressed, args=(_wake_workers, context), daemon=True))
        _waking[-1].start()
    spark = SparkSession.builder.getOrCreate()
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    spark.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")  # Delta knows no INT96
    return spark


def _wake_workers(context: SparkContext) -> None:
    """Start Python's daemon, whose imports take a second, while the driver still plans."""
    context.environment["SPARK_SIMPLIFIED_TRACEBACK"] = "1"  # as SQL has it: each environment has a daemon of its own
    context.parallelize([0], 1).count()


def _suppressed(work: Callable[[T], object], argument: T) -> None:
    with contextlib.suppress(Exception):  # whoever needs it will see what is wrong
        work(argument)


def local_settings() -> dict[str, str]:
    """Return the settings of conf/spark/local.conf."""
    text = resources.files("medspark.conf").joinpath("spark/local.conf").read_text("utf-8")
    lines = (line.strip() for line in text.splitlines())
    return dict(line.split(None, 1) for line in lines if line and not line.startswith("#"))
