"""Spark as it is commonly written: ``binaryFile``, then a pandas UDF for each step and each feature of the recipe.

    python benchmarks/contestants/udfs.py --cores 2 [--scikit-image]

The kernels are medspark's, so that what differs is how images travel, or those that most would take, scikit-image's, as
in joblib_skimage.py. The settings are Spark's own. Between two UDFs an image is a struct of its shape and bytes, which
costs less than to encode and decode it. The steps are declared nondeterministic, since Spark would otherwise do them
again for each feature. Of several frames the first is taken; a file that cannot be read is a row of nulls.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import turns  # isort: skip

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from typing import Any, NamedTuple

import cv2
import joblib_skimage
import numpy as np
import pandas as pd
import pyarrow.dataset as ds
from joblib_skimage import CIRCLES, density, edges, foreground, patterns, read, regions, smooth, statistics
from pyspark import cloudpickle
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.functions import pandas_udf

from medspark import Recipe, read_image
from medspark.features import FEATURES
from medspark.frame import Frame, Image
from medspark.java import ensure_java
from medspark.ops import Bound, Op, bind
from medspark.steps import STEPS

cloudpickle.register_pickle_by_value(joblib_skimage)  # which lies where no worker looks
RECIPE = Recipe.from_toml("default")
IMAGE = "rows int, columns int, dtype string, pixels binary"
ImageRow = tuple[int, int, str, bytes] | tuple[None, ...]
Numbers = dict[str, float]
SAMPLE = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)  # its numbers say how all are called
NO_IMAGE: ImageRow = (None,) * 4
SETTINGS = {
    "spark.driver.memory": "4g",  # with the 1g that Spark gives it, three chest films are too many
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    # A list of files would otherwise be a task for each, only to look at it; of a directory Spark lists all by itself.
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "1000000",
}


class Kernels(NamedTuple):
    """What is done: how a content is decoded, the steps as (to, of, function), the features as (of, function)."""

    decode: Callable[[bytes], Image]
    steps: Sequence[tuple[str, str, Callable[[Image], Image]]]
    features: Sequence[tuple[str, Callable[[Image], Numbers]]]


def ours() -> Kernels:
    """Return what medspark does of the recipe."""
    first, *steps = RECIPE.steps
    to_8_bit = bind(first, STEPS)

    def first_frame(content: bytes) -> Image:
        frame = read_image(content)[0]
        return to_8_bit(frame.pixels, frame)  # how, is known only while the file is open

    return Kernels(
        first_frame,
        [(op.to, op.of, _called(bind(op, STEPS))) for op in steps],
        [(op.of, partial(_named, _called(bind(op, FEATURES)), op)) for op in RECIPE.features],
    )


def theirs() -> Kernels:
    """Return what a researcher would write, with scikit-image."""
    circles = [("image", partial(patterns, points=points, radius=radius)) for points, radius in CIRCLES]
    return Kernels(
        lambda content: next(read(BytesIO(content))),
        [("image", "image", smooth), ("edges", "image", edges), ("mask", "image", foreground)],
        [("image", statistics), ("edges", density), ("mask", regions), *circles],
    )


def _called(bound: Bound) -> Callable[[Image], Any]:
    return lambda image: bound(image, Frame(image))


def _named(function: Callable[[Image], Numbers], op: Op, image: Image) -> Numbers:
    prefix = "" if op.of == "image" else f"{op.of}_"
    return {f"{prefix}{name}": value for name, value in function(image).items()}


def decode(function: Callable[[bytes], Image]) -> Column:
    """Return the first frame of each file in 8 bits."""

    @pandas_udf(IMAGE)
    def call(contents: pd.Series) -> pd.DataFrame:
        cv2.setNumThreads(1)
        return _table([_decoded(each) for each in contents])

    def _decoded(content: bytes) -> ImageRow:
        try:
            return _row(function(content))
        except Exception:  # noqa: BLE001 - a bad file must not end the job
            return NO_IMAGE

    return call.asNondeterministic()("content")


def step(function: Callable[[Image], Image], plane: str) -> Column:
    """Return the images that a step makes of those of a plane."""

    @pandas_udf(IMAGE)
    def call(images: pd.DataFrame) -> pd.DataFrame:
        cv2.setNumThreads(1)
        return _table([NO_IMAGE if each is None else _row(function(each)) for each in _images(images)])

    return call.asNondeterministic()(plane)


def feature(function: Callable[[Image], Numbers], plane: str) -> Column:
    """Return a struct of the numbers that a feature finds in the images of a plane."""
    names = list(function(SAMPLE))

    @pandas_udf(", ".join(f"{name} double" for name in names))
    def call(images: pd.DataFrame) -> pd.DataFrame:
        cv2.setNumThreads(1)
        rows = [dict.fromkeys(names) if each is None else function(each) for each in _images(images)]
        return pd.DataFrame(rows, columns=names, dtype=float)

    return call(plane)


def _images(table: pd.DataFrame) -> Iterator[Image | None]:
    for rows, columns, dtype, pixels in zip(*(table[name] for name in table), strict=True):
        yield None if pixels is None else np.frombuffer(pixels, dtype).reshape(int(rows), int(columns))


def _row(image: Image) -> ImageRow:
    return (*image.shape, image.dtype.str, image.tobytes())


def _table(rows: Sequence[ImageRow]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["rows", "columns", "dtype", "pixels"])


def features(files: DataFrame, kernels: Kernels) -> DataFrame:
    """Return path and features of Spark's table of files."""
    images = files.select("path", decode(kernels.decode).alias("image"))
    for to, plane, function in kernels.steps:
        images = images.withColumn(to, step(function, plane))
    found = {f"feature_{n}": feature(function, plane) for n, (plane, function) in enumerate(kernels.features)}
    path = F.regexp_replace("path", "^file:(//)?(?=/)", "").alias("path")
    return images.withColumns(found).select(path, *(f"{name}.*" for name in found))


def main() -> None:
    """Serve until the input ends."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cores", type=int, default=2)
    options.add_argument("--scikit-image", action="store_true")
    given = options.parse_args()
    kernels = theirs() if given.scikit_image else ours()
    ensure_java()
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master(f"local[{given.cores}]")
    for key, value in SETTINGS.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()

    def run(paths: list[str], out: str) -> int:
        features(spark.read.format("binaryFile").load(paths), kernels).write.parquet(out)
        return int(ds.dataset(out, format="parquet").count_rows())

    turns.take(run)
    spark.stop()


if __name__ == "__main__":
    main()
