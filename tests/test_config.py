from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from medspark import Recipe
from medspark.config import Config, load, parser
from medspark.errors import ConfigError
from medspark.frame import Limits

EXAMPLES = sorted((Path(__file__).parents[1] / "conf").glob("*.toml"))

# Every key, with a value that is not its default.
ALL = """
input = ["a", "b"]
warehouse = "w"
labels = "l.csv"
labels_from = "parent"
model_id = "m"
recipe = "seed"
update = true
dry_run = true
[limits]
seconds_per_file = 5
memory_mb = 128
max_pixels = 1000
[run]
max_failed = 0.5
retry = ["timeout", "crashed"]
files_per_commit = 10
log = "json"
[model]
engine = "auto"
workers = 3
positive = "ill"
compare = ["forest", {kind = "forest", trees = 5}]
trees = 7
depth = 0
seed = 1
[search]
depth = [3, 10]
[split]
by = "study"
test_fraction = 0.5
folds = 5
group_duplicates = true
[evaluation]
subgroups = ["sex"]
sensitivity = 0.9
random_split = true
[floor]
auc = 0.9
balanced_accuracy = 0.8
sensitivity = 0.7
specificity = 0.6
[drift]
psi = 0.1
ks = 0.1
[mlflow]
tracking_uri = "http://tracking"
experiment = "chests"
registered_model = "pneumonia"
[privacy]
key_file = "k"
[report]
contact_sheet = 0
"""
# Keys of the contract that have one value yet, and keys that stand for another.
ONE_VALUE = {"model.kind", "privacy.paths"}
IN_PLACE_OF_A_NAME = {"steps", "features"}


def configured(*argv, toml=None, tmp_path=None):
    if toml is not None:
        (tmp_path / "job.toml").write_text(toml, "utf-8")
        argv = ("--config", str(tmp_path / "job.toml"), *argv)
    return load(parser("test", "").parse_args([str(word) for word in argv]))


def values(config, prefix=""):
    """Return {section.key: value}."""
    found = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        inner = values(value, f"{entry.name}.") if is_dataclass(value) else {f"{prefix}{entry.name}": value}
        found.update(inner)
    parameters = found.pop("model.parameters", {})
    return found | {f"model.{name}": value for name, value in parameters.items()}


def refused(*argv, **options):
    with pytest.raises(ConfigError) as caught:
        configured(*argv, **options)
    return str(caught.value)


def test_nothing_given_is_the_defaults():
    assert configured() == Config()
    assert configured().limits == Limits(seconds_per_file=60, memory_mb=4096, max_pixels=400_000_000)
    assert configured().model.candidate.parameters["depth"] == 3


def test_every_key_is_taken_from_the_file(tmp_path):
    found, defaults = values(configured(toml=ALL, tmp_path=tmp_path)), values(Config())
    unchanged = {key for key in found if key in defaults and found[key] == defaults[key]}
    assert {key: found[key] for key in found.keys() - defaults} == {"model.trees": 7, "model.depth": 0}
    assert unchanged == ONE_VALUE | IN_PLACE_OF_A_NAME
    assert found["input"] == ("a", "b")
    assert found["limits.seconds_per_file"] == 5.0
    assert found["run.retry"] == ("timeout", "crashed")


def test_keys_with_one_value_take_that_value():
    one = {key: values(Config())[key] for key in ONE_VALUE}
    literals = [f"{key}={str(value).lower()}" for key, value in one.items()]
    assert configured(*(word for text in literals for word in ("--set", text))) == Config()


def test_every_key_can_be_set_on_the_command_line(tmp_path):
    sections = ""
    settings = []
    for line in ALL.strip().splitlines():
        if line.startswith("["):
            sections = line.strip("[]") + "."
        else:
            settings += ["--set", sections + line.replace(" = ", "=", 1)]
    assert configured(*settings) == configured(toml=ALL, tmp_path=tmp_path)


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_the_examples_load_and_their_recipes_run(path):
    assert configured("--config", path).recipe_object.feature_names


def test_there_are_examples():
    assert {"extract.toml", "seed.toml"} <= {path.name for path in EXAMPLES}


# Who wins


def test_options_come_before_set_before_the_file_before_the_defaults(tmp_path):
    toml = 'warehouse = "file"\nlabels = "file"\n[model]\ntrees = 1\ndepth = 1\n'
    config = configured("--warehouse", "option", "--set", "warehouse=set", "--set", "labels=set",
                        "--set", "model.trees=2", toml=toml, tmp_path=tmp_path)  # fmt: skip
    assert (config.warehouse, config.labels, config.model.parameters["trees"]) == ("option", "set", 2)
    assert (config.model.parameters["depth"], config.model.seed) == (1, 42)


def test_the_last_set_of_a_key_wins():
    assert configured("--set", "model.trees=5", "--set", "model.trees=6").model.parameters["trees"] == 6


def test_an_option_that_is_not_given_overrides_nothing(tmp_path):
    assert configured(toml="dry_run = true", tmp_path=tmp_path).dry_run
    assert configured("--dry-run").dry_run


def test_input_is_repeatable_and_one_text_is_a_list_of_one(tmp_path):
    assert configured("--input", "a", "--input", "b").input == ("a", "b")
    assert configured("--set", "input=a").input == ("a",)
    assert configured(toml='input = "a"', tmp_path=tmp_path).input == ("a",)


def test_the_option_model_is_the_key_model_id():
    assert configured("--model", "forest-1").model_id == "forest-1"


# What a value may look like


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("model.trees=500", "model.trees", 500),
        ("model.trees = 500", "model.trees", 500),
        ("limits.max_pixels=1_000", "limits.max_pixels", 1000),
        ("run.max_failed=1e-3", "run.max_failed", 0.001),
        ("dry_run=true", "dry_run", True),
        ('warehouse="a b"', "warehouse", "a b"),
        ("warehouse=/data/a=b", "warehouse", "/data/a=b"),
        ("warehouse=s3://x/y", "warehouse", "s3://x/y"),
        ("warehouse=", "warehouse", ""),
        ("split.by=study", "split.by", "study"),
        ('run.retry=["timeout"]', "run.retry", ("timeout",)),
        ("run.retry=timeout", "run.retry", ("timeout",)),
        ('features=[{use="density"}]', "features", ({"use": "density"},)),
    ],
)
def test_set_takes_a_toml_literal_or_a_bare_word(text, key, value):
    assert values(configured("--set", text))[key] == value


def test_a_whole_number_is_a_number_but_not_the_other_way_round():
    assert isinstance(configured("--set", "run.max_failed=1").run.max_failed, float)
    assert refused("--set", "model.trees=5.0") == "model.trees = 5.0: must be a whole number"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.tres=5", "unknown key model.tres; did you mean 'trees'?"),
        ("modle.trees=5", "unknown key modle; did you mean 'model'?"),
        ("limits.max_pixel=5", "unknown key limits.max_pixel; did you mean 'max_pixels'?"),
        ("trees=5", "unknown key trees; did you mean model.trees?"),
        ("key_file=k", "unknown key key_file; did you mean privacy.key_file?"),
        ("model.auc=1", "unknown key model.auc; did you mean floor.auc?"),
        ("floor.qqq=1", "unknown key floor.qqq; known are: auc"),
        ("warehouse=5", "warehouse = 5: must be text"),
        ("model.trees=many", "model.trees = 'many': must be a whole number"),
        ("model.trees=true", "model.trees = True: must be a whole number"),
        ("floor.auc=true", "floor.auc = True: must be a number"),
        ("floor.auc=high", "floor.auc = 'high': must be a number"),
        ("dry_run=1", "dry_run = 1: must be true or false"),
        ("run.retry=5", "run.retry = 5: must be a list of texts"),
        ("run.retry=to_large", "run.retry: no reason is called 'to_large'; did you mean 'too_large'?"),
        ("run.retry=[5]", "run.retry = [5]: must be a list of texts"),
        ("steps=[5]", "steps = [5]: must be a list of tables"),
        ("steps=median", "steps = 'median': must be a list of tables"),
        ("model=5", "model is a section, got 5"),
        ("warehouse.x=5", "warehouse = {'x': 5}: must be text"),
        ("model.trees.x=5", "model.trees = {'x': 5}: must be a whole number"),
        ("model.kind=forrest", "model.kind = 'forrest': allowed are 'boosting', 'forest', 'logistic', 'svm', 'tree'"),
        ("labels_from=path", "labels_from = 'path': allowed are '', 'parent'"),
        ("search.depth=3", "search.depth = 3: must be a list of values to try"),
        ("search.depht=[3]", "unknown key model.depht; did you mean 'depth'?"),
        ("search.depth=[1.5]", "model.depth = 1.5: must be a whole number"),
        ('model.compare=["forrest"]', "model.kind = 'forrest': did you mean 'forest'?"),
        ("model.compare=[1]", "model.compare = [1]: must be a list of texts or tables"),
        ("model.compare=[{tres=1}]", "unknown key model.tres; did you mean 'trees'?"),
        ("search=3", "search is a section, got 3"),
        ("model.parameters={trees=1}", "unknown key model.parameters; write them into [model] itself"),
        ("split.test_fraction=1.0", "split.test_fraction = 1.0: must be between 0.01 and 0.99"),
        ("run.max_failed=1.01", "run.max_failed = 1.01: must be between 0 and 1"),
        ("floor.auc=nan", "floor.auc = nan: must be between 0 and 1"),
        ("limits.seconds_per_file=inf", "limits.seconds_per_file = inf: must be between"),
        ("limits.memory_mb=1", "limits.memory_mb = 1: must be between 64 and 1e+09"),
        ("model.trees", "--set model.trees: section.key=value is needed"),
        ("=5", "--set =5: section.key=value is needed"),
    ],
)
def test_what_is_wrong_is_told_with_the_key_the_value_and_the_way_out(text, message):
    assert refused("--set", text).startswith(message)


def test_a_key_inside_of_a_value_from_the_file_is_not_a_section(tmp_path):
    assert refused("--set", "labels.x=1", toml='labels = "l"', tmp_path=tmp_path) == (
        "--set labels.x=1: labels is not a section"
    )


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[model]\ntres = 5", "unknown key model.tres; did you mean 'trees'?"),
        ("[modell]\ntrees = 5", "unknown key modell; did you mean 'model'?"),
        ("model = 5", "model is a section, got 5"),
        ("warehouse = ", "job.toml: "),
        ("[model]\ntrees = 5\ntrees = 6", "job.toml: "),
    ],
)
def test_a_wrong_file_is_refused(toml, message, tmp_path):
    assert message in refused(toml=toml, tmp_path=tmp_path)


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path):
    assert refused("--config", tmp_path / "none.toml").endswith("none.toml: No such file or directory")
    (tmp_path / "latin.toml").write_bytes(b'labels = "\xe9"')
    assert "latin.toml: 'utf-8' codec" in refused("--config", tmp_path / "latin.toml")


# The recipe


def test_a_recipe_is_named_or_stands_in_place(tmp_path):
    assert configured().recipe_object == Recipe.from_toml("default")
    assert configured("--set", "recipe=seed").recipe_object == Recipe.from_toml("seed")
    in_place = '[[steps]]\nuse = "median"\nsize = 3\n[[features]]\nuse = "density"\n'
    (tmp_path / "own.toml").write_text(in_place)
    config = configured(toml=in_place, tmp_path=tmp_path)
    assert config.recipe_object == configured("--set", f"recipe={tmp_path / 'own.toml'}").recipe_object
    assert config.recipe_object.feature_names == ("density",)


def test_a_recipe_by_name_and_in_place_is_one_too_many(tmp_path):
    toml = 'recipe = "seed"\n[[features]]\nuse = "density"\n'
    with pytest.raises(ConfigError, match=r"recipe = 'seed' and .* in place: give one of the two"):
        _ = configured(toml=toml, tmp_path=tmp_path).recipe_object


def test_what_a_job_needs_is_asked_for_with_its_option():
    with pytest.raises(ConfigError, match="warehouse is missing: give --warehouse or warehouse = "):
        configured("--input", "a").require("input", "warehouse")
    configured("--input", "a", "--warehouse", "w").require("input", "warehouse")
