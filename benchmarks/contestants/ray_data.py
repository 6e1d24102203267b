"""medspark's recipe in Ray Data: a dataset of paths, map_batches, Parquet.

benchmarks/.envs/ray/bin/python benchmarks/contestants/ray_data.py --cores 2
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import turns  # isort: skip

import argparse
import logging
import os
import tempfile

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before the import
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pyarrow as pa
import pyarrow.dataset as ds
import ray
from frames import FIELDS, RECIPE, columns, measured


def measure(batch: pa.Table) -> pa.Table:
    """Return the frames of the files: identity, failure, features."""
    RECIPE.warm_up()
    rows = [row for path in batch["path"].to_pylist() for row in measured(path)]
    return pa.table(columns(rows), schema=FIELDS)


def main() -> None:
    """Serve until the input ends."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cores", type=int, default=2)
    cores = options.parse_args().cores
    ray.data.DataContext.get_current().enable_progress_bars = False

    def run(paths: list[str], out: str) -> int:
        # from_items would make a block of each 200th of the paths: more tasks than cores have use for.
        files = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=min(len(paths), 16 * cores))
        rows = files.map_batches(measure, batch_size=None, batch_format="pyarrow")
        rows.write_parquet(out, compression="zstd")
        return int(ds.dataset(out, format="parquet").count_rows())

    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as scratch:
        ray.init(
            num_cpus=cores,
            include_dashboard=False,
            logging_level=logging.WARNING,
            _temp_dir=scratch,
            _node_ip_address="127.0.0.1",
        )
        turns.take(run)
        ray.shutdown()


if __name__ == "__main__":
    main()
