"""Who learns from whom: the side of each group, such as a patient, from a hash of its name alone; and folds."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medspark.errors import ConfigError, ContractError

Side = Literal["train", "test"]


def side(group: str, *, test_fraction: float, seed: int) -> Side:
    """Return the side of a group, which depends on nothing else, so that it stays there as the archive grows.

    Raises ConfigError unless ``test_fraction`` is between 0 and 1.
    """
    if not 0 < test_fraction < 1:
        raise ConfigError(f"test_fraction = {test_fraction}: give a share between 0 and 1, such as 0.2")
    return "test" if _hash(f"side:{seed}:{group}") < test_fraction * 2**64 else "train"


def folds(
    groups: Sequence[str], labels: Sequence[Any] | npt.NDArray[Any], *, n_folds: int, seed: int
) -> npt.NDArray[np.int32]:
    """Return the fold of each row, 0 to ``n_folds`` - 1: a group is in one, and the classes are spread evenly.

    Groups of the same classes are dealt out in turn, in the order of their hashes, so that two folds differ by one such
    group at most. Raises ConfigError for fewer than two folds, or fewer groups than folds.
    """
    if n_folds < 2:
        raise ConfigError(f"folds = {n_folds}: give at least 2, or 0 for a single split")
    classes: dict[str, set[Any]] = {}
    for group, label in zip(groups, np.asarray(labels).tolist(), strict=True):
        classes.setdefault(group, set()).add(label)
    if len(classes) < n_folds:
        raise ConfigError(f"folds = {n_folds}: there are {len(classes)} groups, such as patients; give fewer folds")
    # One round over all strata: each begins where the one before ended, so that the folds are of one size, too.
    order = sorted(classes, key=lambda group: (sorted(map(str, classes[group])), _hash(f"fold:{seed}:{group}")))
    place = {group: number % n_folds for number, group in enumerate(order)}
    return np.array([place[group] for group in groups], np.int32)


def split(
    groups: Iterable[str | None], labels: Sequence[Any] | npt.NDArray[Any], *, test_fraction: float, seed: int
) -> npt.NDArray[np.str_]:
    """Return "train" or "test" for each row, given the group and the class of each.

    Raises ConfigError if a row has no group, if a side would be empty, or if a class would have no row to learn from;
    ContractError if there is not one group and one label for each row.
    """
    keys = list(groups)
    if len(keys) != len(labels):
        raise ContractError(f"{len(keys)} groups and {len(labels)} labels; each row needs one of both")
    named = [key for key in keys if isinstance(key, str) and key]
    if len(named) < len(keys):
        raise ConfigError(
            f"{len(keys) - len(named)} of {len(keys)} rows have no group to split by; "
            "leave them out or set [split] by to what all rows have"
        )
    known = {key: side(key, test_fraction=test_fraction, seed=seed) for key in set(named)}
    sides = np.array([known[key] for key in named])
    setting = f"{len(known)} groups with test_fraction = {test_fraction} and seed = {seed}"
    way_out = "; use more patients, another seed, or another [split] by"
    for name in ("train", "test"):
        if name not in known.values():
            raise ConfigError(f"the {name} side is empty: {setting}{way_out}")
    classes = np.asarray(labels)
    unlearned = sorted(set(classes.tolist()) - set(classes[sides == "train"].tolist()))
    if unlearned:
        names = ", ".join(repr(name) for name in unlearned)
        raise ConfigError(f"nothing to learn {names} from, all of it is on the test side: {setting}{way_out}")
    return sides


def _hash(text: str) -> int:
    # sha256, because Python's own hash of a string differs from process to process.
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
