"""medspark on Spark, with the settings that it comes with: the pass over the images alone, or the whole job.

    python benchmarks/contestants/medspark_spark.py --cores 2 [--whole]

The pass is what extract does with the files of its plan: pack them into tasks, measure them under the guard, count
them, write them. ``--whole`` is ``medspark extract`` in the session that is already there: into a new warehouse each
time, with the listing, the plan, the commits to all tables and the report of progress.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import turns  # isort: skip

import argparse
import os
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from pyspark.sql import SparkSession

from medspark import Recipe
from medspark.config import load, parser
from medspark.jobs import extract
from medspark.spark.extract import write_features
from medspark.spark.launch import DONE
from medspark.spark.progress import Tally
from medspark.spark.session import session

RECIPE = Recipe.from_toml("default")


def measure(spark: SparkSession, paths: Sequence[str], out: str) -> None:
    """Write the outcomes of the paths, as the job does with what its plan says."""
    # As a listing does, and no more in memory than it has.
    facts = np.fromiter(((fact.st_size, fact.st_mtime_ns // 1000) for fact in map(os.stat, paths)), (np.int64, 2))
    times = pa.array(facts[:, 1]).cast(pa.timestamp("us", "UTC"))
    files = pa.table({"path": paths, "size_bytes": facts[:, 0], "modified_at": times})
    directories = {"features": out, "quarantine": f"{out}-quarantine"}
    write_features(spark, files, RECIPE, directories, tally=Tally.of(spark))


def whole(spark: SparkSession, paths: Sequence[str], out: str) -> None:
    """Run index and extract, and leave the features table at ``out``."""
    warehouse = f"{out}-warehouse"
    options = [option for uri in inputs(paths) for option in ("--input", uri)]
    config = load(parser("extract", "").parse_args([*options, "--warehouse", warehouse]))
    if (code := extract.run(spark, config)) != DONE:
        raise RuntimeError(f"extract ended with {code}")
    Path(out).symlink_to(Path(warehouse, "features"))


def inputs(paths: Sequence[str]) -> list[str]:
    """Return the directories whose files these are; the files, if they are not all of a directory."""
    directories = Counter(os.path.dirname(path) for path in paths)  # noqa: PTH120 - a Path costs as much as a listing
    whole_ones = {name for name, n in directories.items() if n == len(os.listdir(name))}  # noqa: PTH208 - the same
    return [*whole_ones, *(path for path in paths if os.path.dirname(path) not in whole_ones)]  # noqa: PTH120


def main() -> None:
    """Serve until the input ends."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cores", type=int, default=2)
    options.add_argument("--whole", action="store_true")
    given = options.parse_args()
    os.environ["MASTER"] = f"local[{given.cores}]"
    os.environ.setdefault("MEDSPARK_KEY", "a key for nobody's data")
    spark = session("benchmark")
    work = whole if given.whole else measure

    def run(paths: list[str], out: str) -> int:
        work(spark, paths, out)
        return int(ds.dataset(out, format="parquet").count_rows())

    turns.take(run)
    spark.stop()


if __name__ == "__main__":
    main()
