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
from frames import FIELDS, RECIPE, columns, measured


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
            rows = [row for found in pool.imap_unordered(measured, paths, chunk) for row in found]
            pq.write_table(pa.table(columns(rows), schema=FIELDS), out, compression="zstd")
            return len(rows)

        turns.take(run)


if __name__ == "__main__":
    main()
