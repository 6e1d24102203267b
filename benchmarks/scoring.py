"""Scoring a features table in Spark, ours against MLlib's own transform: rows per second and core, with the reading.

    python benchmarks/scoring.py [--rows 1000000] [--depth 10] [--rounds 5]

A table of 60 features is written as extract writes it. Both forests have 100 trees, trained on 20,000 other rows, and
both write the predictions as Parquet: which frame, its class and its probabilities; "dropped" is without writing, into
Spark's sink that keeps nothing. They take turns in one run; the figures are medians over the rounds, of the CPU of the
JVM and its Python workers. Java's own settings are Spark's: those of a short local run would slow MLlib down.
"""

import argparse
import os
import secrets
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.ml.classification import RandomForestClassifier
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.sql import DataFrame, SparkSession

from medspark import bundle
from medspark.java import ensure_java
from medspark.models.forest import Forest, forest
from medspark.spark.scoring import score, score_files

NAMES = [f"feature_{number:02}" for number in range(60)]
FRAME = ["path", "frame", "content_sha256"]
RECIPE_ID = "0123456789abcdef"
TREES, TRAINING, FILES = 100, 20_000, 8


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--depth", type=int, default=10)
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as home:
        files = [_write(Path(home, f"part-{number}.parquet"), given.rows // FILES, number) for number in range(FILES)]
        rng = np.random.default_rng(FILES)
        X = rng.normal(size=(TRAINING, len(NAMES)))
        y = (X[:, :5].sum(axis=1) + rng.normal(size=TRAINING) > 0).astype(int)
        grown = forest(X, np.array(["normal", "lesion"])[y], trees=TREES, depth=given.depth)
        model = saved(Path(home), grown, NAMES, {}, RECIPE_ID)
        spark = _session()
        assembler = VectorAssembler(inputCols=NAMES, outputCol="features")
        table = spark.createDataFrame(pa.table({**dict(zip(NAMES, X.T, strict=True)), "label": y.astype(float)}))
        theirs = RandomForestClassifier(numTrees=TREES, maxDepth=given.depth, seed=1).fit(assembler.transform(table))
        features = spark.read.parquet(*files)
        out = Path(home, "out")

        def mllib() -> DataFrame:
            found = theirs.transform(assembler.transform(features))
            return found.select(*FRAME, "prediction", vector_to_array("probability").alias("probability"))

        runs: dict[str, Callable[[], object]] = {
            "MLlib transform, written": lambda: mllib().write.option("compression", "snappy").parquet(str(out)),
            "MLlib transform, dropped": lambda: drop(mllib()),
            "medspark, rows, dropped": lambda: drop(score(features, model)),
            "medspark, files, written": lambda: score_files(spark, files, model, str(out)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(given.rounds + 1):
            for name, run in runs.items():
                shutil.rmtree(out, ignore_errors=True)
                before = cpu()
                run()
                if number:  # the first starts workers and compiles
                    seconds[name].append(cpu() - before)
        written, dropped = (statistics.median(seconds[f"MLlib transform, {what}"]) for what in ("written", "dropped"))
        print(f"{'':24} {'rows/s and core':>16} {'x MLlib written':>16} {'x MLlib dropped':>16}")
        for name, found in seconds.items():
            median = statistics.median(found)
            print(f"{name:24} {given.rows / median:16,.0f} {written / median:16.1f} {dropped / median:16.1f}")
        spark.stop()


def drop(rows: DataFrame) -> None:
    """Have the rows made and given to Spark's sink that keeps nothing."""
    rows.select("path", "probability").write.format("noop").mode("overwrite").save()


def _write(path: Path, n: int, seed: int) -> str:
    X = np.random.default_rng(seed).normal(size=(n, len(NAMES)))
    identity = {
        "path": [f"/archive/patient{seed:02}/image{row:07}.dcm" for row in range(n)],
        "frame": pa.array(np.zeros(n, np.int32)),
        "content_sha256": [secrets.token_hex(32) for _ in range(n)],
        "recipe_id": [RECIPE_ID] * n,
    }
    pq.write_table(pa.table({**identity, **dict(zip(NAMES, X.T, strict=True))}), path, compression="snappy")
    return str(path)


def saved(home: Path, model: Forest, names: Sequence[str], recipe: dict[str, Any], recipe_id: str) -> bundle.Bundle:
    """Return a forest as the bundle that train would write of it, with nothing in it that scoring does not ask for."""
    manifest: bundle.Manifest = {
        "kind": "forest",
        "feature_names": list(names),
        "recipe": recipe,
        "recipe_id": recipe_id,
        "seed": 42,
        "parameters": {},
        "split": {},
        "metrics": {},
        "reference": {},
        "accepted": True,
    }
    return bundle.save(home / "models", model, manifest=manifest, split_table=bundle.SPLIT.empty_table())


def _session() -> SparkSession:
    ensure_java()
    settings = {
        "spark.driver.memory": "4g",
        "spark.driver.host": "127.0.0.1",
        "spark.python.daemon.module": "medspark.daemon",
        "spark.python.unix.domain.socket.enabled": "true",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    builder = SparkSession.builder.appName("scoring")
    for key, value in settings.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def cpu() -> float:
    """Return the CPU seconds of all processes below this one: the JVM and its workers, which live on between tasks."""
    time.sleep(0.05)  # the kernel counts in ticks
    parents, ticks = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has ended
            continue
        parents[int(entry.name)] = int(fields[1])
        ticks[int(entry.name)] = int(fields[11]) + int(fields[12])

    def is_below(process: int) -> bool:
        above = parents.get(process, 0)
        return above == os.getpid() or (above != 0 and is_below(above))

    return sum(used for process, used in ticks.items() if is_below(process)) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
