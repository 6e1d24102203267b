"""medspark's recipe in Daft: a table of paths, one batch UDF, Parquet.

    benchmarks/.envs/daft/bin/python benchmarks/contestants/daft_data.py --cores 2

The UDF opens the paths itself, so that no bytes travel, and runs in Daft's own threads: the kernels let go of Python's
lock, and its processes are slower.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import turns  # isort: skip

import argparse
import itertools
import os

os.environ["DO_NOT_TRACK"] = "true"  # before the import, which reports home
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import daft
import pyarrow as pa
import pyarrow.dataset as ds
from daft import DataType, Series, col
from frames import FIELDS, RECIPE, columns, measured


def measure(paths: Series) -> pa.ListArray:
    """Return the frames of each file: identity, failure, features."""
    found = [measured(path) for path in paths.to_pylist()]
    ends = [0, *itertools.accumulate(map(len, found))]
    rows = pa.StructArray.from_arrays(columns([row for each in found for row in each]), fields=list(FIELDS))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), rows)


def main() -> None:
    """Serve until the input ends."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cores", type=int, default=2)
    cores = options.parse_args().cores
    daft.set_runner_native(num_threads=cores)
    RECIPE.warm_up()
    frames = DataType.list(DataType.from_arrow_type(pa.struct(list(FIELDS))))

    def run(paths: list[str], out: str) -> int:
        # Without a size all paths are one batch, and one thread has it.
        size = min(max(1, len(paths) // (32 * cores)), 64)
        measured = daft.func.batch(return_dtype=frames, batch_size=size, use_process=False)(measure)
        files = daft.from_pydict({"source": paths})
        rows = files.select(measured(col("source")).alias("row")).explode("row").select(col("row").unnest())
        rows.write_parquet(out, compression="zstd")
        return int(ds.dataset(out, format="parquet").count_rows())

    turns.take(run)


if __name__ == "__main__":
    main()
