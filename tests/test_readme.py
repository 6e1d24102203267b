"""What the README and the docs show runs: Python in a session, job lines through the real parser, TOML as a recipe."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from medspark.cli import JOBS
from medspark.config import load, parser
from medspark.recipe import Recipe
from medspark.spark import tables

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])


def blocks(path, language):
    """Return the code blocks of a page that are marked with a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def file_name(block):
    """Return the name in the first line of a block that is a file, as in ``# mine.py``, or None."""
    found = re.match(r"# (\w+\.\w+)\n", block)
    return found and found[1]


def having(language):
    return pytest.mark.parametrize("path", [p for p in PAGES if blocks(p, language)], ids=lambda path: path.name)


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """A directory with the files that the pages show; the working directory, and modules are found in it."""
    for path in PAGES:
        for block in (*blocks(path, "python"), *blocks(path, "toml")):
            if name := file_name(block):
                (tmp_path / name).write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def home(shown, hospital):
    """The same with an archive, and a warehouse that the whole line has filled."""
    (shown / "archive").symlink_to(hospital.archive)
    shutil.copytree(hospital.warehouse, shown / "warehouse")
    return shown


@having("python")
def test_the_python_of_a_page_runs_from_top_to_bottom(path, home, spark):
    names = {"__name__": path.stem, "spark": spark}
    for block in blocks(path, "python"):
        if not file_name(block):
            # The JVM of the tests was started in another directory, which read_images starts from.
            block = block.replace('read_images(spark, "', f'read_images(spark, "{home}/')  # noqa: PLW2901
            exec(compile(block, path.name, "exec"), names)  # noqa: S102 - our own pages


@having("toml")
@pytest.mark.usefixtures("shown")
def test_the_toml_of_a_page_is_a_recipe_that_runs(path):
    for block in blocks(path, "toml"):
        config = load(parser("test", "").parse_args(["--config", file_name(block)]))
        assert config.recipe_object.feature_names


def test_what_a_page_shows_of_a_recipe_of_ones_own_measures_images(home):
    config = load(parser("test", "").parse_args(["--config", "mine.toml"]))
    outcomes = [outcome for path in home.glob("archive/**/IM*") for outcome in config.recipe_object.run(path)]
    assert {outcome.reason for outcome in outcomes} == {None}
    assert any(outcome.features[0] > 0 for outcome in outcomes)


def job_lines():
    """Return every line of the pages that runs a job: what stands before the job, the job, and its options."""
    found = []
    for path in PAGES:
        for line in "".join(blocks(path, "sh")).splitlines():
            words = shlex.split(line, comments=True)
            for i, word in enumerate(words):
                if re.fullmatch(r"jobs/\w+\.py", word):
                    found.append(pytest.param(words[:i], word, words[i + 1 :], id=f"{path.name}: {line}"))
    return found


@pytest.mark.parametrize(("before", "job", "options"), job_lines())
def test_job_lines_are_understood_by_the_parser(before, job, options, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "mine.toml").write_text('features = [{use = "first_order"}]')
    monkeypatch.chdir(tmp_path)
    assert before[0] == "./spark-submit.sh"
    assert Path(job).stem in JOBS
    assert (ROOT / job).is_file()
    config = load(parser(Path(job).stem, "").parse_args(options))
    assert config.warehouse
    assert bool(config.input) or job != "jobs/index.py"
    assert bool(config.labels or config.labels_from) or job != "jobs/train.py"


def test_the_readme_runs_every_job_in_the_order_of_the_line():
    first_screen = blocks(ROOT / "README.md", "sh")[0]
    assert tuple(re.findall(r"jobs/(\w+)\.py", first_screen)) == JOBS


def test_what_the_readme_shows_of_the_features_is_a_part_of_the_table():
    head = re.search(r"^\| path \| frame \| patient_id .*$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)[0]
    columns = [name.strip() for name in head.strip("|").split("|")]
    assert set(columns) <= set(tables.features(Recipe.from_toml("default").feature_names).names)
