"""Spark as it is commonly written: ``binaryFile``, then a pandas UDF for each step and each feature of the recipe.

    python benchmarks/contestants/udfs.py --cores 2

The kernels are medspark's, so that what differs is how images travel, and the settings are Spark's own. Between two
UDFs an image is a struct of its shape and bytes, which costs less than to encode and decode it. The steps are declared
nondeterministic, since Spark would otherwise do them again for each feature. Of several frames the first is taken; a
file that cannot be read is a row of nulls.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import turns  # isort: skip

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pyarrow.dataset as ds
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.functions import pandas_udf

from medspark import Recipe, read_image
from medspark.features import FEATURES
from medspark.frame import Frame, Image
from medspark.java import ensure_java
from medspark.ops import Op, bind
from medspark.steps import STEPS

RECIPE = Recipe.from_toml("default")
IMAGE = "rows int, columns int, dtype string, pixels binary"
ImageRow = tuple[int, int, str, bytes] | tuple[None, ...]
NO_IMAGE: ImageRow = (None,) * 4
SETTINGS = {
    "spark.driver.memory": "4g",  # with the 1g that Spark gives it, three chest films are too many
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    # A list of files would otherwise be a task for each, only to look at it; of a directory Spark lists all by itself.
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "1000000",
}


def decode(content: Column | str, to_8_bit: Op) -> Column:
    """Return the first frame of each file in 8 bits: how, is known only while the file is open."""
    bound = bind(to_8_bit, STEPS)

    @pandas_udf(IMAGE)
    def call(contents: pd.Series) -> pd.DataFrame:
        cv2.setNumThreads(1)
        return _table([_decoded(each) for each in contents])

    def _decoded(content: bytes) -> ImageRow:
        try:
            frame = read_image(content)[0]
            return _row(bound(frame.pixels, frame))
        except Exception:  # noqa: BLE001 - a bad file must not end the job
            return NO_IMAGE

    return call.asNondeterministic()(content)


def step(op: Op) -> Column:
    """Return the images that a step makes of those of a plane."""
    bound = bind(op, STEPS)

    @pandas_udf(IMAGE)
    def call(images: pd.DataFrame) -> pd.DataFrame:
        cv2.setNumThreads(1)
        return _table([NO_IMAGE if each is None else _row(bound(each, Frame(each))) for each in _images(images)])

    return call.asNondeterministic()(op.of)


def feature(op: Op) -> Column:
    """Return a struct of the numbers that a feature finds in the images of a plane."""
    bound = bind(op, FEATURES)
    names = Recipe(steps=(), features=(replace(op, of="image"),)).feature_names
    prefix = "" if op.of == "image" else f"{op.of}_"

    @pandas_udf(", ".join(f"{prefix}{name} double" for name in names))
    def call(images: pd.DataFrame) -> pd.DataFrame:
        cv2.setNumThreads(1)
        rows = [dict.fromkeys(names) if each is None else bound(each, Frame(each)) for each in _images(images)]
        return pd.DataFrame(rows, columns=list(names), dtype=float).add_prefix(prefix)

    return call(op.of)


def _images(table: pd.DataFrame) -> Iterator[Image | None]:
    for rows, columns, dtype, pixels in zip(*(table[name] for name in table), strict=True):
        yield None if pixels is None else np.frombuffer(pixels, dtype).reshape(int(rows), int(columns))


def _row(image: Image) -> ImageRow:
    return (*image.shape, image.dtype.str, image.tobytes())


def _table(rows: Sequence[ImageRow]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["rows", "columns", "dtype", "pixels"])


def features(files: DataFrame) -> DataFrame:
    """Return path and features of Spark's table of files."""
    to_8_bit, *steps = RECIPE.steps
    images = files.select("path", decode("content", to_8_bit).alias("image"))
    for op in steps:
        images = images.withColumn(op.to, step(op))
    found: dict[str, Column] = {f"feature_{number}": feature(op) for number, op in enumerate(RECIPE.features)}
    path = F.regexp_replace("path", "^file:(//)?(?=/)", "").alias("path")
    return images.withColumns(found).select(path, *(f"{name}.*" for name in found))


def main() -> None:
    """Serve until the input ends."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cores", type=int, default=2)
    cores = options.parse_args().cores
    ensure_java()
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master(f"local[{cores}]")
    for key, value in SETTINGS.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()

    def run(paths: list[str], out: str) -> int:
        features(spark.read.format("binaryFile").load(paths)).write.parquet(out)
        return int(ds.dataset(out, format="parquet").count_rows())

    turns.take(run)
    spark.stop()


if __name__ == "__main__":
    main()
