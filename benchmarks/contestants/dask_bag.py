"""medspark's recipe in Dask: a bag of paths, mapped by processes of one thread each, a Parquet file for each partition.

benchmarks/.envs/dask/bin/python benchmarks/contestants/dask_bag.py --cores 2
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import turns  # isort: skip

import argparse
import os
import tempfile
from collections.abc import Iterable

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import dask
import dask.bag as db
import pyarrow as pa
import pyarrow.parquet as pq
from distributed import Client, LocalCluster
from frames import FIELDS, RECIPE, columns, measured


def measure(paths: Iterable[str], out: str) -> list[int]:
    """Write the frames of the files of a partition, and return their number."""
    rows = [row for path in paths for row in measured(path)]
    with tempfile.NamedTemporaryFile(dir=out, suffix=".parquet", delete=False) as file:
        pq.write_table(pa.table(columns(rows), schema=FIELDS), file, compression="zstd")
    return [len(rows)]


def main() -> None:
    """Serve until the input ends."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cores", type=int, default=2)
    cores = options.parse_args().cores
    with (
        tempfile.TemporaryDirectory() as scratch,
        dask.config.set({"temporary-directory": scratch, "distributed.worker.memory.terminate": False}),
        LocalCluster(n_workers=cores, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.run(RECIPE.warm_up)

        def run(paths: list[str], out: str) -> int:
            Path(out).mkdir()
            bag = db.from_sequence(paths, npartitions=min(len(paths), 16 * cores))
            return int(bag.map_partitions(measure, out).sum().compute())

        turns.take(run)


if __name__ == "__main__":
    main()
