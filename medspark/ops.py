"""An operation: the name of a function and its parameters, which can be written to JSON and read back."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, Concatenate, ParamSpec

from medspark.errors import ConfigError, did_you_mean
from medspark.frame import FACTS, Frame, Image

P = ParamSpec("P")
Function = Callable[..., Any]


@dataclass(frozen=True)
class Op:
    """A step or feature of a recipe: which function, with which parameters, on which plane."""

    name: str  # as in the catalogue, or "your_package.module:function" for your own
    params: Mapping[str, Any] = field(default_factory=dict)
    of: str = "image"  # the plane it reads
    to: str = "image"  # the plane a step writes

    def to_dict(self) -> dict[str, Any]:
        """Return what stands in a TOML or JSON recipe."""
        planes = {key: plane for key, plane in (("of", self.of), ("to", self.to)) if plane != "image"}
        return {"use": self.name, **self.params, **planes}

    def reads(self, plane: str) -> "Op":
        """Return the same operation on another plane."""
        return replace(self, of=plane)

    def writes(self, plane: str) -> "Op":
        """Return the same step with its result put beside the image, as a plane of that name."""
        return replace(self, to=plane)

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "Op":
        """Read an entry of ``[[steps]]`` or ``[[features]]``."""
        params = dict(entry)
        name = params.pop("use", None)
        if not isinstance(name, str):
            raise ConfigError(f'a recipe entry needs use = "name", got {dict(entry)!r}')
        planes = {key: params.pop(key) for key in ("of", "to") if key in params}
        return cls(name, params, **planes)


def op(function: Callable[Concatenate[Image, P], Any], *args: P.args, **params: P.kwargs) -> Op:
    """Return the operation that calls ``function`` with these parameters; a type checker compares the two.

    >>> from medspark.steps.edges import canny
    >>> op(canny, low=100, high=200).writes("edges")
    Op(name='canny', params={'low': 100, 'high': 200}, of='image', to='edges')
    """
    if args:
        raise ConfigError(f"{function.__name__}: parameters are given by name, got {args!r}")
    own = function.__module__.startswith(("medspark.steps.", "medspark.features."))
    name = function.__name__ if own else f"{function.__module__}:{function.__qualname__}"
    return Op(name, params)


def catalogue(*modules: ModuleType) -> dict[str, Function]:
    """Return every function that the modules name in ``__all__``, by its name."""
    found: dict[str, Function] = {}
    for module in modules:
        for name in module.__all__:
            if name in found:
                raise ConfigError(f"{module.__name__}.{name}: the name is taken by {found[name].__module__}")
            found[name] = getattr(module, name)
    return found


@dataclass(frozen=True)
class Bound:
    """An operation whose function was found and whose parameters were accepted."""

    op: Op
    function: Function
    facts: tuple[str, ...]  # what the function wants to be told about the file

    def __call__(self, image: Image, frame: Frame) -> Any:
        return self.function(image, **self.op.params, **{fact: getattr(frame, fact) for fact in self.facts})


def bind(operation: Op, known: Mapping[str, Function]) -> Bound:
    """Find the function of an operation and check the names of its parameters."""
    function = _find(operation.name, known)
    try:
        signature = inspect.signature(function)
    except ValueError:
        raise ConfigError(
            f"{operation.name}: does not tell its parameters; put a function of yours around it"
        ) from None
    try:
        signature.bind(None, **operation.params)
    except TypeError:
        names = list(signature.parameters)[1:]
        for name in operation.params:
            if name not in names:
                raise ConfigError(f"{operation.name}: no parameter {name!r}; {did_you_mean(name, names)}") from None
        given = ", ".join(operation.params) or "none"
        raise ConfigError(f"{operation.name}{signature}: parameters are missing, given: {given}") from None
    for name, value in operation.params.items():
        wanted = signature.parameters[name].annotation
        if wanted in WORDS and not is_a(value, wanted):
            raise ConfigError(f"{operation.name}: {name} = {value!r} must be {WORDS[wanted]}")
    facts = tuple(name for name in signature.parameters if name in FACTS and name not in operation.params)
    return Bound(operation, function, facts)


WORDS: dict[type, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def is_a(value: Any, wanted: type) -> bool:
    """Tell whether a value of TOML or JSON will do; a whole number does for a number, true and false do not."""
    if isinstance(value, bool):
        return wanted is bool
    return isinstance(value, (int, float) if wanted is float else wanted)


def _find(name: str, known: Mapping[str, Function]) -> Function:
    if ":" not in name:
        if name not in known:
            raise ConfigError(f"no step or feature is called {name!r}; {did_you_mean(name, known)}")
        return known[name]
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # noqa: BLE001 - whatever a module does when it is imported
        raise ConfigError(
            f"{name}: cannot be imported ({type(error).__name__}); is it on the executors' path?"
        ) from None
    if not callable(found):
        raise ConfigError(f"{name}: is not a function")
    return found  # type: ignore[no-any-return]
