"""What a parameter of a model may be: each check returns the value, or raises ConfigError with it and the way out."""

import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any

from medspark.errors import ConfigError

CLASS_WEIGHTS = ("", "balanced")  # each row counts the same, or each class does


def whole(name: str, value: int, at_least: int) -> int:
    """Return a whole number that is not below a bound."""
    if not _is_whole(value) or value < at_least:
        raise ConfigError(f"{name} = {value}: give a whole number, at least {at_least}")
    return int(value)


def number(name: str, value: float, low: float, high: float = math.inf, *, above: bool = False) -> float:
    """Return a finite number from ``low`` (or, with ``above``, from just above it) to ``high``."""
    if not _is_finite(value) or not low <= value <= high or (above and value == low):
        wanted = f"above {low:g}" if above else f"from {low:g}"
        limit = f" to {high:g}" if math.isfinite(high) else ""
        raise ConfigError(f"{name} = {value}: give a number {wanted}{limit}")
    return float(value)


def choice(name: str, value: str, known: Collection[str]) -> str:
    """Return a text that is one of those known."""
    if value not in known:
        listed = ", ".join(f'"{text}"' for text in known)
        raise ConfigError(f'{name} = "{value}": known are {listed}')
    return value


def limit(name: str, value: int, at_least: int = 1) -> int | None:
    """Return a limit as scikit-learn takes it: a whole number that is not below a bound, or None for 0."""
    if not _is_whole(value) or (value != 0 and value < at_least):
        raise ConfigError(f"{name} = {value}: give a whole number, at least {at_least}, or 0 for no limit")
    return int(value) or None


def flag(name: str, value: bool) -> bool:  # noqa: FBT001 - the value is the subject
    """Return true or false."""
    if value not in (True, False):
        raise ConfigError(f"{name} = {value}: give true or false")
    return bool(value)


def seed(value: int) -> int:
    """Return a seed that scikit-learn takes."""
    if not _is_whole(value) or not 0 <= value < 2**32:
        raise ConfigError(f"seed = {value}: give a whole number from 0 to {2**32 - 1}")
    return int(value)


def _is_whole(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral)


def _is_finite(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
