"""What a recipe can use: every step and feature with its parameters, as Markdown, from the docstrings.

python -m medspark.catalogue > docs/catalogue.md
"""

import inspect
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module

from medspark.features import FEATURES
from medspark.frame import FACTS
from medspark.ops import Function, Op
from medspark.recipe import Recipe
from medspark.steps import STEPS

_SHOWN = 4  # columns of a feature that are listed one by one


def text() -> str:
    """Return the catalogue, the families in the order of their modules."""
    return "\n\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Catalogue"
    yield (
        'What `use = "..."` of a recipe can name. Made from the docstrings by `python -m medspark.catalogue`: change'
        " those, not this page."
    )
    yield "## Steps: an image in, an image out"
    yield from _entries(STEPS)
    yield "## Features: an image in, named numbers out"
    yield (
        "The columns are those of the plane `image` with the parameters left as they are; of another plane they have"
        " its name in front, as in `edges_density`."
    )
    yield from _entries(FEATURES)


def _entries(catalogue: Mapping[str, Function]) -> Iterator[str]:
    family = ""
    for name, function in catalogue.items():
        if function.__module__ != family:
            family = function.__module__
            yield f"### {_first_line(family)}"
        yield f"#### {name}"
        yield from _parameters(function)
        yield (inspect.getdoc(function) or "").replace("``", "`")
        if catalogue is FEATURES:
            yield _columns(name)


def _first_line(module: str) -> str:
    return (import_module(module).__doc__ or "").split("\n", 1)[0].rstrip(".")


def _parameters(function: Function) -> Iterator[str]:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    shown = [f"`{entry.name} = {_default(entry)}`" for entry in parameters if entry.name not in FACTS]
    facts = [f"`{entry.name}`" for entry in parameters if entry.name in FACTS]
    if shown:
        yield f"Parameters: {', '.join(shown)}."
    if facts:
        yield f"From the file, unless the recipe says otherwise: {', '.join(facts)}."


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return "..."
    return f'"{parameter.default}"' if isinstance(parameter.default, str) else repr(parameter.default)


def _columns(name: str) -> str:
    names = Recipe(steps=(), features=(Op(name),)).feature_names
    listed = [f"`{column}`" for column in names]
    if len(names) > _SHOWN:
        listed = [*listed[:2], "...", listed[-1]]
    return f"Columns: {len(names)}, {', '.join(listed)}."


if __name__ == "__main__":
    sys.stdout.write(text())
