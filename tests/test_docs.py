"""The words are about the program as it is: what there is, is written down, and what is written down, is there."""

import ast
import inspect
import re
import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

import medspark
import medspark.spark
from medspark import bundle, catalogue, errors
from medspark.cli import JOBS
from medspark.config import Config, load, parser
from medspark.models import MODELS
from medspark.readers import dicom
from medspark.report.reasons import REASONS
from medspark.selection import parameters_of
from medspark.spark import launch, tables

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("medspark/**/*.py"), *ROOT.glob("jobs/*.py")])
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])


def page(name):
    return (ROOT / name).read_text("utf-8")


def section(text, heading):
    """Return what stands under a heading, up to the next one of its level or above."""
    level = heading.split(" ")[0]
    _, found, rest = f"\n{text}".partition(f"\n{heading}\n")
    assert found, f"no heading {heading!r}"
    return re.split(rf"\n#{{1,{len(level)}}} ", rest)[0]


def table(text):
    """Return the rows of the first Markdown table of a text, without its head."""
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def codes(text):
    return set(re.findall(r"`([^`]+)`", text))


def undocumented(tree):
    """Yield the public functions, classes and methods of a module that have no docstring."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield node.name
            if isinstance(node, ast.ClassDef):
                yield from (f"{node.name}.{name}" for name in undocumented(node))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_public_has_a_docstring(source):
    tree = ast.parse(source.read_text("utf-8"))
    assert list(undocumented(tree)) == []
    assert ast.get_docstring(tree) or not tree.body


def test_a_function_without_a_docstring_would_be_found():
    told, silent = 'def told():\n    "Told."\n', "def silent(): ...\ndef _own(): ...\n"
    tree = ast.parse(f'{told}{silent}class A:\n    "A."\n    def b(): ...')
    assert list(undocumented(tree)) == ["silent", "A.b"]


def test_the_readme_names_every_job_and_no_other():
    assert [row[0] for row in table(section(page("README.md"), "## Jobs and options"))] == [
        f"`jobs/{name}.py`" for name in JOBS
    ]
    assert {path.stem for path in ROOT.glob("jobs/[!_]*.py")} == set(JOBS)


def test_the_readme_names_every_option_as_the_command_line_does():
    options = [action for action in parser("test", "")._actions if action.dest != "help"]
    shown = [f"`{' '.join(filter(None, (action.option_strings[0], action.metavar)))}`" for action in options]
    for option in shown:
        assert f"| {option} |" in page("README.md")


def keys(kind, where=""):
    """Yield every key of the configuration and its default."""
    for entry in fields(kind):
        default = getattr(kind(), entry.name)
        if is_dataclass(default):
            yield from keys(type(default), f"{where}{entry.name}.")
        elif entry.name == "parameters":  # the page of models has them all
            yield from ((f"{where}{name}", parameters_of("forest")[name]) for name in ("trees", "depth"))
        else:
            yield f"{where}{entry.name}", default


def test_the_readme_names_every_key_and_its_default():
    text = section(page("README.md"), "## Jobs and options")
    rows = table(text[text.index("| key |") :])
    assert {key for row in rows for key in codes(row[0])} == {key for key, _ in keys(Config)}

    shown = {key: row[1].strip("`") for row in rows for key in codes(row[0]) if row[1]}
    told = {key: tomllib.loads(f"value = {text}")["value"] for key, text in shown.items()}
    known = {key: list(default) if isinstance(default, tuple) else default for key, default in keys(Config)}
    known["recipe"] = "default"  # where none is given
    assert told == {key: known[key] for key in told}
    assert len(told) > 10


@pytest.mark.parametrize("kind", MODELS)
def test_the_page_of_models_names_every_parameter_and_its_default(kind):
    rows = table(section(page("docs/models.md"), f"### {kind}"))
    told = {row[0].strip("`"): tomllib.loads(f"value = {row[1].strip('`')}")["value"] for row in rows}
    assert told == parameters_of(kind)


def test_the_readme_names_every_target_of_the_makefile():
    targets = re.findall(r"^([a-z-]+):.*## ", page("Makefile"), re.MULTILINE)
    assert {row[0] for row in table(section(page("README.md"), "## Set-up"))} == {f"`make {name}`" for name in targets}


def test_the_readme_names_every_exit_code():
    codes_there_are = (launch.DONE, launch.NOT_ACCEPTABLE, launch.NOTHING_DONE, launch.ENGINE_FAILED)
    assert [row[0] for row in table(section(page("README.md"), "## Exit codes"))] == [str(c) for c in codes_there_are]


def test_the_readme_explains_every_reason_code_and_no_other():
    explained = [code for row in table(section(page("README.md"), "## Reason codes")) for code in sorted(codes(row[0]))]
    raised = {kind.reason for kind in errors.ImageError.__subclasses__() if kind.__module__ == errors.__name__}
    assert sorted(explained) == sorted(REASONS)
    assert raised | {"step_failed"} <= set(explained)
    assert "truncated" in raised


@pytest.mark.parametrize(
    ("heading", "contract"),
    [
        ("## images", tables.IMAGES),
        ("## series", tables.SERIES),
        ("## features", tables.features(())),
        ("## quarantine", tables.QUARANTINE),
        ("## predictions", tables.PREDICTIONS),
        ("## evaluations", tables.EVALUATIONS),
        ("## leaks", tables.LEAKS),
        ("## drift", tables.DRIFT),
        ("## runs", tables.RUNS),
    ],
)
def test_the_page_of_tables_has_every_column_with_its_type_and_its_meaning(heading, contract):
    rows = table(section(page("docs/tables.md"), heading))
    assert [(row[0], row[1]) for row in rows] == [(field.name, field.dataType.simpleString()) for field in contract]
    assert all(row[2] for row in rows)


def test_the_page_of_tables_has_the_columns_of_a_split():
    rows = table(section(page("docs/tables.md"), "### split.parquet"))
    assert [(row[0], row[1]) for row in rows] == [(field.name, str(field.type)) for field in bundle.SPLIT]


def test_the_page_of_tables_explains_every_flag():
    given = set(re.findall(r'"(\w+)":', inspect.getsource(dicom._flags)))
    assert codes("".join(row[0] for row in table(section(page("docs/tables.md"), "### flags")))) == given
    assert "mosaic" in given


def test_the_catalogue_is_that_of_the_docstrings():
    assert page("docs/catalogue.md") == catalogue.text(), "python -m medspark.catalogue > docs/catalogue.md"


def test_the_catalogue_tells_parameters_defaults_and_columns():
    text = page("docs/catalogue.md")
    assert "Parameters: `low = 100.0`, `high = 200.0`." in section(text, "#### canny")
    assert "Parameters: `rows = ...`, `columns = ...`." in section(text, "#### resize")
    told = "From the file, unless the recipe says otherwise: `window`, `is_inverted`, `modality`."
    assert told in section(text, "#### to_uint8")
    assert "Columns: 10, `lbp_p8_r1_00`, `lbp_p8_r1_01`, ..., `lbp_p8_r1_09`." in section(text, "#### lbp")


@pytest.mark.parametrize("path", sorted(ROOT.glob("conf/[!l]*.toml")), ids=lambda path: path.name)
def test_every_example_of_a_configuration_loads_and_its_recipe_runs(path):
    config = load(parser(path.stem, "").parse_args(["--config", str(path)]))
    assert config.recipe_object.feature_names


def test_every_job_has_an_example_of_a_configuration():
    assert {f"{name}.toml" for name in JOBS} <= {path.name for path in ROOT.glob("conf/*.toml")}


def test_every_public_name_is_documented():
    names = codes(section(page("docs/notebook.md"), "## Names that stay"))
    assert {f"medspark.{name}" for name in medspark.__all__} <= names
    assert {f"medspark.spark.{name}" for name in medspark.spark.__all__} <= names


def test_the_tree_of_the_design_has_every_module():
    tree = section(page("docs/design.md"), "## The tree")
    families = {"readers", "steps", "features", "models"}  # one module a format, a family, a kind
    assert [name for name in families if f"  {name}/" not in tree] == []
    single = [path for path in SOURCES if path.name != "__init__.py" and path.parent.name not in families]
    assert [str(path.relative_to(ROOT)) for path in single if path.name not in tree] == []
    known = {path.name for path in (*SOURCES, *ROOT.glob("tests/*.py"))}
    assert [name for name in re.findall(r"\w+\.py", tree) if name not in known] == []


def imports(source):
    """Return the modules that a file imports, anywhere in it, by their full names."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def unit(path):
    """Return the module or package, directly below medspark, that a file belongs to."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "jobs" else parts[1]


def packages(source):
    return {name.split(".")[0] for name in imports(source)}


def test_only_the_adapters_know_spark():
    knowing = {unit(path) for path in SOURCES if packages(path) & {"pyspark", "py4j"}}
    assert knowing == {"spark", "daemon", "jobs", "demo"}


def test_the_adapters_know_no_image_library_and_the_kernels_nothing_but():
    for path in SOURCES:
        if unit(path) in {"spark", "jobs"}:
            assert not packages(path) & {"cv2", "skimage", "PIL", "tifffile"}, path
        if unit(path) in {"steps", "features"}:
            assert not packages(path) & {"pyspark", "pyarrow", "pandas", "pydicom", "deltalake"}, path


def test_modules_import_only_what_stands_with_them_or_left_of_them():
    line = re.search(r"^`errors, compiled, unzipped` ← .*?\n\n", page("docs/design.md"), re.MULTILINE | re.DOTALL)[0]
    layers = [re.findall(r"\w+", layer) for layer in line.split("←")]
    place = {name: number for number, names in enumerate(layers) for name in names}
    assert set(place) == {unit(path) for path in SOURCES} - {"__init__"}
    for path in SOURCES:
        for name in imports(path):
            known = [part for part in name.split(".")[:2] if part in place]
            if name.startswith("medspark.") and known and unit(path) != "__init__":
                assert place[known[0]] <= place[unit(path)], f"{path} imports {name}"


def test_every_benchmark_is_listed():
    named = set(re.findall(r"`(\w+\.py)`", page("benchmarks/README.md")))
    assert named == {path.name for path in ROOT.glob("benchmarks/*.py")}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", path.read_text("utf-8")):
        name, _, anchor = target.partition("#")
        there = path.parent / name if name else path
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


def test_every_promise_has_its_test():
    text = section(page("CONTRIBUTING.md"), "## Promises")
    promises = re.findall(r"^\d+\. .+?(?=^\d+\. |\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(promises) == 6
    for promise in promises:
        named = re.findall(r"`(tests/\S+\.py)`:\s+`(test_\w+)`", promise)
        assert named, promise
        for file, test in named:
            assert f"def {test}(" in page(file), f"{file}: {test}"


def test_the_changelog_begins_with_this_version():
    assert re.search(r"^## \[(.+?)\]", page("CHANGELOG.md"), re.MULTILINE)[1] == medspark.__version__
