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
import os

os.environ["DO_NOT_TRACK"] = "true"  # before the import, which reports home
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import daft
import pyarrow as pa
import pyarrow.dataset as ds
from daft import DataType, Series, col

from medspark import Recipe
from medspark.frame import DEFAULT_LIMITS

RECIPE = Recipe.from_toml("default")
MISSING = (None,) * len(RECIPE.feature_names)
FIELDS = pa.struct(
    [
        ("path", pa.string()),
        ("frame", pa.int32()),
        ("content_sha256", pa.string()),
        ("failed_stage", pa.string()),
        ("reason", pa.string()),
        *((name, pa.float64()) for name in RECIPE.feature_names),
    ]
)


def measure(paths: Series) -> pa.ListArray:
    """Return the frames of each file: identity, failure, features."""
    rows, ends = [], [0]
    for path in paths.to_pylist():
        digest, outcomes = RECIPE.run_file(path, limits=DEFAULT_LIMITS)
        for each in outcomes:
            identity = (path, each.frame, digest, each.failed_stage, each.reason)
            rows.append((*identity, *(each.features or MISSING)))
        ends.append(len(rows))
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, FIELDS, strict=True)]
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.StructArray.from_arrays(arrays, fields=list(FIELDS)))


def main() -> None:
    """Serve until the input ends."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cores", type=int, default=2)
    cores = options.parse_args().cores
    daft.set_runner_native(num_threads=cores)
    RECIPE.warm_up()
    frames = DataType.list(DataType.from_arrow_type(FIELDS))

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
