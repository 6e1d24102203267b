"""The line for notebooks: DataFrame in, DataFrame out."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medspark.spark.extract import extract_features, read_images, split_quarantine
    from medspark.spark.scoring import score, score_images

__all__ = ["extract_features", "read_images", "score", "score_images", "split_quarantine"]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: a session starts without what it does not need."""
    if name not in __all__:
        raise AttributeError(f"module 'medspark.spark' has no attribute {name!r}")
    home = "scoring" if name.startswith("score") else "extract"
    value = globals()[name] = getattr(importlib.import_module(f"medspark.spark.{home}"), name)
    return value
