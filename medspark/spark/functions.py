"""Every step and feature of the catalogue as a pandas UDF on a column of encoded images.

>>> from medspark.spark.functions import lbp, median
>>> images.select("path", lbp(median("content", size=5), points=8, radius=1).alias("lbp"))

A step gives an encoded image again (PNG, or TIFF where PNG cannot hold the values), a feature a struct of doubles. An
image that cannot be read or processed gives null (a feature: in each field), and of several frames the first is taken.
Convenient in notebooks and SQL, and slow: every call decodes and encodes; a recipe and ``extract_features`` do the same
in one pass, with reasons.
"""

from collections.abc import Callable
from typing import Any

import pandas as pd
from pyspark.sql import Column
from pyspark.sql.pandas.functions import pandas_udf as _pandas_udf
from pyspark.sql.types import BinaryType, DoubleType, StructField, StructType

from medspark.errors import did_you_mean
from medspark.features import FEATURES
from medspark.ops import Bound, Op, bind
from medspark.readers import read_image
from medspark.readers.raster import encode
from medspark.recipe import Recipe
from medspark.steps import STEPS

__all__ = sorted([*STEPS, *FEATURES])  # noqa: PLE0605 - the catalogue is the list

UDF = Callable[..., Column]

pandas_udf: Callable[..., UDF] = _pandas_udf  # its overloads speak of pandas types that mypy cannot match


def __getattr__(name: str) -> UDF:
    if name in STEPS:
        return _step(name)
    if name in FEATURES:
        return _feature(name)
    raise AttributeError(f"no step or feature is called {name!r}; {did_you_mean(name, __all__)}")


def __dir__() -> list[str]:
    return list(__all__)


def _step(name: str) -> UDF:
    def call(column: str | Column, **params: Any) -> Column:
        bound = bind(Op(name, params), STEPS)

        def apply(contents: pd.Series) -> pd.Series:
            return contents.map(lambda content: _try(encode, bound, content))

        return pandas_udf(apply, BinaryType())(column)

    return _named(call, name, STEPS[name])


def _feature(name: str) -> UDF:
    def call(column: str | Column, **params: Any) -> Column:
        op = Op(name, params)
        bound = bind(op, FEATURES)
        columns = Recipe(steps=(), features=(op,)).feature_names

        def apply(contents: pd.Series) -> pd.DataFrame:
            rows = [_try(dict, bound, content) or dict.fromkeys(columns) for content in contents]
            return pd.DataFrame(rows, columns=list(columns), dtype=float)

        return pandas_udf(apply, StructType([StructField(field, DoubleType()) for field in columns]))(column)

    return _named(call, name, FEATURES[name])


def _try(finish: Callable[[Any], Any], bound: Bound, content: bytes | None) -> Any:
    """Return the result for an image, or None for one that has none."""
    try:
        frame = read_image(bytes(content or b""))[0]
        return finish(bound(frame.pixels, frame))
    except Exception:  # noqa: BLE001 - a bad image is a null here; the jobs say why
        return None


def _named(call: UDF, name: str, kernel: Callable[..., Any]) -> UDF:
    call.__name__ = call.__qualname__ = name
    call.__doc__ = kernel.__doc__
    return call
