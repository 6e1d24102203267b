"""Which model: candidates, that is kinds with parameters, compared on rows that they have not learned from."""

import inspect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from medspark.errors import ConfigError, did_you_mean
from medspark.models import MODELS, Model
from medspark.ops import WORDS, is_a

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Candidate:
    """A kind of model and the parameters it is fitted with; those not named have the defaults of its function.

    Raises ConfigError for a kind or a parameter that is not known, or a value of another type.
    """

    kind: str = "forest"
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in MODELS:
            raise ConfigError(f"model.kind = {self.kind!r}: {did_you_mean(self.kind, MODELS)}")
        defaults = parameters_of(self.kind)
        checked = {name: _typed(defaults, name, value) for name, value in self.parameters.items()}
        object.__setattr__(self, "parameters", {**defaults, **checked})

    @classmethod
    def of(cls, entry: str | Mapping[str, Any]) -> "Candidate":
        """Read ``"svm"`` or ``{kind = "svm", C = 10.0}``."""
        if isinstance(entry, str):
            return cls(entry)
        parameters = dict(entry)
        return cls(parameters.pop("kind", "forest"), parameters)

    def __str__(self) -> str:
        defaults = parameters_of(self.kind)
        changed = (f"{name} {value}" for name, value in self.parameters.items() if value != defaults[name])
        return ", ".join((self.kind, *changed))

    def fit(self, X: Array, y: npt.ArrayLike, *, seed: int, groups: Array | None = None) -> Model:
        """Return the model of rows x features and the class of each row.

        A kind that holds rows out for itself does so by the groups, such as patients.
        """
        fit = MODELS[self.kind].fit
        own = {"groups": groups} if groups is not None and "groups" in inspect.signature(fit).parameters else {}
        return fit(X, y, seed=seed, **own, **self.parameters)

    def rehearse(self) -> None:
        """Fit a few made-up rows: a parameter out of its range raises ConfigError before the archive is read."""
        rng = np.random.default_rng(0)
        self.fit(rng.normal(size=(40, 4)).astype(np.float32), np.arange(40) % 2, seed=0)


def parameters_of(kind: str) -> dict[str, Any]:
    """Return the parameters that the configuration can set for a kind of model, with their defaults."""
    signature = inspect.signature(MODELS[kind].fit)
    return {
        name: parameter.default
        for name, parameter in signature.parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in ("seed", "sample_weight", "groups")
    }


def grid(candidate: Candidate, values: Mapping[str, Sequence[Any]]) -> list[Candidate]:
    """Return a candidate for each combination of the values, in the order in which they are written."""
    combinations = itertools.product(*values.values())
    return [
        Candidate(candidate.kind, {**candidate.parameters, **dict(zip(values, chosen, strict=True))})
        for chosen in combinations
    ]


def predict_held_out(
    X: Array, codes: Array, is_held_out: Array, candidate: Candidate, *, seed: int, groups: Array | None = None
) -> npt.NDArray[np.float64]:
    """Return the probabilities of the held-out rows, by a model of the others: held-out rows x all classes.

    ``codes`` are the places of the classes. A class that is only in held-out rows has the probability 0.
    """
    groups = None if groups is None else groups[~is_held_out]
    model = candidate.fit(X[~is_held_out], codes[~is_held_out], seed=seed, groups=groups)
    probability = np.zeros((np.count_nonzero(is_held_out), codes.max() + 1))
    probability[:, [int(name) for name in model.classes]] = model.predict_proba(X[is_held_out])
    return probability


def _typed(defaults: Mapping[str, Any], name: str, value: Any) -> Any:
    if name not in defaults:
        raise ConfigError(f"unknown key model.{name}; {did_you_mean(name, defaults)}")
    wanted = type(defaults[name])
    if not is_a(value, wanted):
        raise ConfigError(f"model.{name} = {value!r}: must be {WORDS[wanted]}")
    return wanted(value)
