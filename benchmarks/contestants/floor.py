"""What nothing can be much faster than: a pool of forked processes over medspark's recipe, and one Parquet file.

    python benchmarks/contestants/floor.py --cores 2

The recipe and its call are those of an executor: SHA-256, facts and fingerprint included. The pool lives on.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import turns  # isort: skip

import os

# As Spark does for its workers: two processes with two threads each would wait for one another.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import multiprocessing

import pyarrow as pa
import pyarrow.parquet as pq

from medspark import Recipe
from medspark.frame import DEFAULT_LIMITS

Row = tuple[str, int | None, str | None, tuple[float, ...] | None, str | None, str | None]
RECIPE = Recipe.from_toml("default")


def measure(path: str) -> list[Row]:
    """Return path, frame, hash, features, stage and reason of each frame: a tenth of what an Outcome weighs."""
    digest, outcomes = RECIPE.run_file(path, limits=DEFAULT_LIMITS)
    return [(path, each.frame, digest, each.features, each.failed_stage, each.reason) for each in outcomes]


def write(rows: list[Row], out: str) -> None:
    """Write the rows, each feature a column."""
    missing = (None,) * len(RECIPE.feature_names)
    paths, frames, hashes, features, stages, reasons = zip(*rows, strict=True)
    identity = {"path": paths, "frame": pa.array(frames, pa.int32()), "content_sha256": hashes}
    values = zip(*(each or missing for each in features), strict=True)
    numbers = {name: pa.array(each, pa.float64()) for name, each in zip(RECIPE.feature_names, values, strict=True)}
    failures = {"failed_stage": pa.array(stages, pa.string()), "reason": pa.array(reasons, pa.string())}
    pq.write_table(pa.table({**identity, **numbers, **failures}), out, compression="zstd")


def main() -> None:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=2)
    cores = parser.parse_args().cores
    RECIPE.warm_up()  # before the fork: what is compiled is compiled once
    with multiprocessing.get_context("fork").Pool(cores) as pool:

        def run(paths: list[str], out: str) -> int:
            # So small that no core waits long for another's last chunk, so large that sending them costs nothing.
            chunk = min(max(1, len(paths) // (32 * cores)), 64)
            rows = [row for found in pool.imap_unordered(measure, paths, chunk) for row in found]
            write(rows, out)
            return len(rows)

        turns.take(run)


if __name__ == "__main__":
    main()
