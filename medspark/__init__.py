"""medspark: a hospital's image archive into features, models and predictions, on Apache Spark."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medspark.bundle import load as load_model
    from medspark.ops import op
    from medspark.readers import read_image
    from medspark.recipe import Recipe

__version__ = "0.1.0"

__all__ = ["Recipe", "load_model", "op", "read_image"]

_HOMES = {
    "Recipe": ("medspark.recipe", "Recipe"),
    "load_model": ("medspark.bundle", "load"),
    "op": ("medspark.ops", "op"),
    "read_image": ("medspark.readers", "read_image"),
}


_MODULES = ("errors", "features", "series", "spark", "steps")


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: workers and commands start without what they do not need."""
    if name in _MODULES:
        return importlib.import_module(f"medspark.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'medspark' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = globals()[name] = getattr(importlib.import_module(module), attribute)
    return value
