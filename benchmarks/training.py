"""What Spark adds to a forest and to scoring: CPU time of each pair, in turns, in a session that is warm.

    python benchmarks/training.py [--rows 50000] [--images 1000] [--rounds 5]

A forest of 100 trees of depth 10 on rows x 60, grown across the executors, against scikit-learn with a thread on each
core; and the default recipe with a model on top, in one pass, against the recipe alone. CPU time is that of this
process, of the JVM and of its workers.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scoring import cpu, saved
from sklearn.ensemble import RandomForestClassifier

from medspark import Recipe, bundle
from medspark.models.forest import forest
from medspark.phantom import write_png_set
from medspark.spark.extract import extract_features
from medspark.spark.scoring import score_images
from medspark.spark.session import session
from medspark.spark.train import train_forest

TREES, DEPTH, N_FEATURES, SEED = 100, 10, 60, 42


def main() -> None:
    """Print each pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.environ.setdefault("MEDSPARK_KEY", "a key for nobody's data")
    spark = session("benchmark")
    rng = np.random.default_rng(SEED)
    X = rng.normal(size=(options.rows, N_FEATURES)).astype(np.float32)
    labels = np.where(X[:, :5].sum(axis=1) + rng.normal(size=len(X)) > 0, "lesion", "normal")
    parameters = {"trees": TREES, "depth": DEPTH}

    def theirs() -> Any:
        return RandomForestClassifier(TREES, max_depth=DEPTH, random_state=SEED, n_jobs=-1).fit(X, labels)

    def ours() -> Any:
        return train_forest(spark, X, labels, parameters, seed=SEED)

    one_by_one = theirs().set_params(n_jobs=1)  # threads add up the trees in any order
    if not np.array_equal(ours().predict_proba(X[:1000]), one_by_one.predict_proba(X[:1000])):
        raise SystemExit("the forests differ")
    race(f"a forest on {options.rows:,} rows", {"scikit-learn": theirs, "medspark": ours}, options.rounds)
    with tempfile.TemporaryDirectory() as home:
        write_png_set(Path(home, "images"), n=options.images, size=512)
        files = sorted(Path(home, "images").iterdir())
        sizes = [file.stat().st_size for file in files]
        table = pa.table({"path": [str(file) for file in files], "size_bytes": sizes})
        images = spark.createDataFrame(table).repartition(8)
        recipe = Recipe.from_toml("default")
        model = trained(Path(home), recipe)

        def extraction() -> None:
            extract_features(images, recipe).write.mode("overwrite").parquet(f"{home}/features")

        def both() -> None:
            score_images(images, model).write.mode("overwrite").parquet(f"{home}/predictions")

        race(f"{options.images:,} images", {"extraction": extraction, "and scoring": both}, options.rounds)
    spark.stop()


def race(title: str, runs: dict[str, Callable[[], Any]], rounds: int) -> None:
    """Print the median seconds of two, after a round to warm up, and the median ratio of the second to the first."""
    times = [tuple(map(seconds, runs.values())) for _ in range(rounds + 1)][1:]
    medians = [(statistics.median(column) for column in zip(*each, strict=True)) for each in zip(*times, strict=True)]
    print(title)
    for name, (wall, used) in zip(runs, medians, strict=True):
        print(f"  {name:14} wall {wall:7.2f} s   CPU {used:7.2f} s")
    wall, used = (statistics.median(b[place] / a[place] for a, b in times) for place in (0, 1))
    print(f"  {'ratio':14} wall {wall:7.3f}     CPU {used:7.3f}")


def seconds(run: Callable[[], Any]) -> tuple[float, float]:
    """Return wall and CPU time of a call, with what it makes others do."""
    began, before = time.perf_counter(), cpu() + time.process_time()
    run()
    return time.perf_counter() - began, cpu() + time.process_time() - before


def trained(home: Path, recipe: Recipe) -> bundle.Bundle:
    """Return a bundle with a forest of the benchmark's size, on numbers that mean nothing."""
    X = np.random.default_rng(SEED).normal(size=(5000, len(recipe.feature_names)))
    model = forest(X, np.where(X[:, 0] > 0, "lesion", "normal"), trees=TREES, depth=DEPTH)
    return saved(home, model, recipe.feature_names, recipe.to_dict(), recipe.recipe_id)


if __name__ == "__main__":
    main()
