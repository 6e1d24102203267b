from types import ModuleType

import numpy as np
import pytest

from medspark import op
from medspark.errors import ConfigError
from medspark.features.lbp import lbp
from medspark.frame import Frame, Window
from medspark.ops import Op, bind, catalogue
from medspark.steps import STEPS
from medspark.steps.denoise import median
from medspark.steps.edges import canny

IMAGE = np.arange(64, dtype=np.uint8).reshape(8, 8)


def scale(image, *, by: float, offset: int = 0, name: str = "", loud: bool = False):  # noqa: ARG001
    return image * by + offset


def told(image, *, window=None, is_inverted=False, spacing_mm=None):  # noqa: ARG001
    return window, is_inverted, spacing_mm


def bound(name, /, **params):
    return bind(Op(name, params), {"scale": scale, "told": told, **STEPS})


def module(name, **functions):
    made = ModuleType(name)
    made.__all__ = list(functions)
    for function_name, function in functions.items():
        function.__module__ = name
        setattr(made, function_name, function)
    return made


def test_an_operation_is_written_as_in_toml_and_read_back():
    entry = {"use": "canny", "low": 1, "high": 2.5, "of": "smooth", "to": "edges"}
    operation = Op.from_dict(entry)
    assert operation == Op("canny", {"low": 1, "high": 2.5}, of="smooth", to="edges")
    assert operation.to_dict() == entry
    assert Op("median").to_dict() == {"use": "median"}  # planes are written only where they are not the image


def test_op_names_our_own_functions_as_the_catalogue_does_and_others_by_import_path():
    assert op(median, size=3) == Op("median", {"size": 3})
    assert op(lbp, points=8, radius=1).name == "lbp"
    assert op(np.square).name == "numpy:square"


def test_reads_and_writes_change_only_the_planes():
    assert op(canny, low=1, high=2).reads("a").writes("b") == Op("canny", {"low": 1, "high": 2}, of="a", to="b")


def test_parameters_are_given_by_name():
    with pytest.raises(ConfigError, match=r"median: parameters are given by name, got \(5,\)"):
        op(median, 5)


@pytest.mark.parametrize("entry", [{}, {"size": 5}, {"use": 5}, {"use": None}])
def test_an_entry_without_a_name_is_refused(entry):
    with pytest.raises(ConfigError, match='needs use = "name"'):
        Op.from_dict(entry)


def test_a_bound_operation_calls_its_function_with_the_parameters():
    np.testing.assert_array_equal(bound("scale", by=2, offset=1)(IMAGE, Frame(IMAGE)), IMAGE * 2 + 1)


def test_a_function_is_told_about_the_file_what_it_asks_for_and_the_recipe_leaves_open():
    frame = Frame(IMAGE, window=Window(40, 400), is_inverted=True, spacing_mm=(0.5, 0.25))
    assert bound("told")(IMAGE, frame) == (Window(40, 400), True, (0.5, 0.25))
    assert bound("told", is_inverted=False)(IMAGE, frame) == (Window(40, 400), False, (0.5, 0.25))
    assert bound("scale", by=1).facts == ()


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("medain", {}, "no step or feature is called 'medain'; did you mean 'median'?"),
        ("qqqq", {}, "no step or feature is called 'qqqq'; known are: "),
        ("median", {"sise": 5}, "median: no parameter 'sise'; did you mean 'size'?"),
        ("median", {"image": 5}, "median: no parameter 'image'; known are: size"),
        ("scale", {"offset": 1}, "parameters are missing, given: offset"),
        ("scale", {}, "parameters are missing, given: none"),
        ("median", {"size": "5"}, "median: size = '5' must be a whole number"),
        ("median", {"size": 5.0}, "median: size = 5.0 must be a whole number"),
        ("median", {"size": True}, "median: size = True must be a whole number"),
        ("scale", {"by": True}, "scale: by = True must be a number"),
        ("scale", {"by": "2"}, "scale: by = '2' must be a number"),
        ("scale", {"by": 2, "name": 3}, "scale: name = 3 must be text"),
        ("scale", {"by": 2, "loud": 1}, "scale: loud = 1 must be true or false"),
        ("no.such.module:function", {}, "cannot be imported (ModuleNotFoundError)"),
        ("numpy:no_such_function", {}, "cannot be imported (AttributeError)"),
        (":median", {}, "cannot be imported (ValueError)"),
        ("..steps:median", {}, "cannot be imported (TypeError)"),
        ("numpy:pi", {}, "numpy:pi: is not a function"),
        ("builtins:max", {}, "builtins:max: does not tell its parameters"),
    ],
)
def test_what_is_wrong_is_told_with_the_way_out(name, params, message):
    with pytest.raises(ConfigError) as caught:
        bound(name, **params)
    assert message in str(caught.value)


def test_a_whole_number_is_a_number():
    assert bound("scale", by=2).op.params == {"by": 2}


def test_a_catalogue_holds_what_the_modules_name():
    first, second = module("first", a=lambda image: image), module("second", b=lambda image: image)
    first.private = lambda image: image
    assert catalogue(first, second) == {"a": first.a, "b": second.b}


def test_a_name_given_twice_in_a_catalogue_is_refused():
    with pytest.raises(ConfigError, match=r"second\.a: the name is taken by first"):
        catalogue(module("first", a=lambda image: image), module("second", a=lambda image: image))


def test_a_module_that_fails_when_it_is_imported_is_a_configuration_error(tmp_path, monkeypatch):
    (tmp_path / "breaks_on_import.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"breaks_on_import:step: cannot be imported \(ZeroDivisionError\)"):
        bound("breaks_on_import:step")
