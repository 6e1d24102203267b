"""conf/*.toml and the command line into frozen dataclasses; an unknown key is an error that names the nearest one.

One configuration serves every job of the line: each reads what it needs.
"""

import argparse
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from medspark.errors import ConfigError, did_you_mean
from medspark.frame import Limits
from medspark.models import MODELS
from medspark.ops import WORDS, is_a
from medspark.recipe import Recipe
from medspark.selection import Candidate, grid, parameters_of


@dataclass(frozen=True)
class RunConfig:
    """When a run is acceptable, what it tries again, and how it says what it does."""

    max_failed: float = 1.0
    retry: tuple[str, ...] = ()
    files_per_commit: int = 100_000  # what a run that is killed may have to do again
    log: str = "text"  # or json: an object a line


@dataclass(frozen=True)
class ModelConfig:
    """What is trained. Every key of ``[model]`` that is not one of these is a parameter of the kind."""

    kind: str = "forest"
    engine: str = "exact"
    workers: int = 2  # tasks that learn together with the engine xgboost; another number gives another forest
    seed: int = 42
    positive: str = ""  # the class that sensitivity is of; empty: of two the second in alphabetical order
    compare: tuple[str | Mapping[str, Any], ...] = ()  # kinds, or tables of a kind and its parameters
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def candidate(self) -> Candidate:
        """The kind with its parameters."""
        return Candidate(self.kind, self.parameters)

    @property
    def compared(self) -> list[Candidate]:
        """What is trained beside it, to be compared."""
        return [Candidate.of(entry) for entry in self.compare]


@dataclass(frozen=True)
class SplitConfig:
    """Who learns from whom."""

    by: str = "patient"
    test_fraction: float = 0.2
    folds: int = 0
    group_duplicates: bool = False


@dataclass(frozen=True)
class EvaluationConfig:
    """What is asked of a model besides its metrics."""

    subgroups: tuple[str, ...] = ("modality", "manufacturer")  # columns of the labels, of features or of images
    sensitivity: float = 0.0  # that the operating point reaches; 0: none is chosen
    random_split: bool = False  # beside it, what a split of rows at random would have shown


@dataclass(frozen=True)
class FloorConfig:
    """What a model must reach to become the current one."""

    auc: float = 0.0
    balanced_accuracy: float = 0.0
    sensitivity: float = 0.0
    specificity: float = 0.0


@dataclass(frozen=True)
class DriftConfig:
    """From where on a scoring run says ``retrain``."""

    psi: float = 0.25
    ks: float = 0.2


@dataclass(frozen=True)
class MlflowConfig:
    """Where else a model is written down."""

    tracking_uri: str = ""  # of an MLflow server; empty: nowhere
    experiment: str = "medspark"
    registered_model: str = ""  # of which each model is a version; empty: none


@dataclass(frozen=True)
class PrivacyConfig:
    """What tables may say."""

    paths: str = "plain"
    key_file: str = ""


@dataclass(frozen=True)
class ReportConfig:
    """What the report shows."""

    contact_sheet: int = 8  # images shown small; 0: none leave the executors


@dataclass(frozen=True)
class Config:
    """Everything a job can be told."""

    input: tuple[str, ...] = ()
    warehouse: str = ""
    labels: str = ""
    labels_from: str = ""
    model_id: str = ""  # empty: the newest of the same recipe
    recipe: str = ""
    steps: tuple[Mapping[str, Any], ...] = ()
    features: tuple[Mapping[str, Any], ...] = ()
    limits: Limits = field(default_factory=Limits)
    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    search: Mapping[str, Any] = field(default_factory=dict)  # parameters of the model, each with the values to try
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    floor: FloorConfig = field(default_factory=FloorConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    mlflow: MlflowConfig = field(default_factory=MlflowConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    update: bool = False  # train: the new model must not be worse than the current one
    dry_run: bool = False

    @cached_property
    def recipe_object(self) -> Recipe:
        """The recipe that stands in the configuration, or the one it names."""
        if self.steps or self.features:
            if self.recipe:
                raise ConfigError(
                    f"recipe = {self.recipe!r} and [[steps]] or [[features]] in place: give one of the two"
                )
            return Recipe.from_dict({"steps": list(self.steps), "features": list(self.features)})
        return Recipe.from_toml(self.recipe or "default")

    def require(self, *names: str) -> None:
        """Raise ConfigError if one of these was not given."""
        for name in names:
            if not getattr(self, name):
                raise ConfigError(
                    f"{name} is missing: give --{name.replace('_', '-')} or {name} = ... in the configuration"
                )


_CHOICES: dict[str, tuple[str | bool, ...]] = {
    "labels_from": ("", "parent"),
    "model.kind": tuple(MODELS),
    "model.engine": ("exact", "mllib", "xgboost", "auto"),
    "privacy.paths": ("plain",),
    "run.log": ("text", "json"),
}
_RANGES: dict[str, tuple[float, float]] = {
    "limits.seconds_per_file": (0.1, 1e6),
    "limits.memory_mb": (64, 1e9),
    "limits.max_pixels": (1, 2**40),
    "run.max_failed": (0, 1),
    "run.files_per_commit": (1, 1e9),
    "model.workers": (1, 1e4),
    "model.seed": (0, 2**32 - 1),
    "evaluation.sensitivity": (0, 1),
    "split.test_fraction": (0.01, 0.99),
    "split.folds": (0, 100),
    **{f"floor.{entry.name}": (0, 1) for entry in fields(FloorConfig)},
    "drift.psi": (0, 100),
    "drift.ks": (0, 1),
    "report.contact_sheet": (0, 64),
}


def parser(job: str, description: str) -> argparse.ArgumentParser:
    """Return the command line that every job understands."""
    args = argparse.ArgumentParser(prog=f"medspark {job}", description=description)
    args.add_argument("--config", metavar="FILE", help="TOML; examples are in conf/")
    args.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="override one key: model.trees=500"
    )
    args.add_argument("--input", metavar="URI", action="append", help="directory, file or glob of images; repeatable")
    args.add_argument("--warehouse", metavar="URI", help="where tables, models and reports live")
    args.add_argument(
        "--labels", metavar="FILE", help="CSV path,label[,patient_id][,split]; paths relative to the input"
    )
    args.add_argument("--labels-from", metavar="parent", help="class = name of the directory")
    args.add_argument("--model", dest="model_id", metavar="ID", help="default: the newest of the same recipe")
    args.add_argument(
        "--retry", metavar="REASON", action="append", help="try again what is in quarantine for this reason; repeatable"
    )
    args.add_argument(
        "--update", action="store_true", default=None, help="train: keep the current model if the new one is worse"
    )
    args.add_argument("--dry-run", action="store_true", default=None, help="print what would be done, and do nothing")
    return args


def load(arguments: argparse.Namespace) -> Config:
    """Return the configuration of a job: defaults, then the file, then --set, then the options.

    Raises ConfigError for an unknown key, a value of another type, or one outside its range.
    """
    table: dict[str, Any] = _read(arguments.config) if arguments.config else {}
    for text in arguments.set:
        _override(table, text)
    options = {
        key: value
        for key, value in vars(arguments).items()
        if key not in ("config", "set", "retry") and value is not None
    }
    table.update(options)
    if arguments.retry:
        table.setdefault("run", {})["retry"] = arguments.retry
    config: Config = _build(Config, table, "")
    for key, allowed in _CHOICES.items():
        if (value := _value(config, key)) not in allowed:
            raise ConfigError(f"{key} = {value!r}: allowed are {', '.join(repr(choice) for choice in allowed)}")
    _require_reasons(config.run.retry)
    _require_candidates(config)
    for key, (low, high) in _RANGES.items():
        if not low <= (value := _value(config, key)) <= high:
            raise ConfigError(f"{key} = {value!r}: must be between {low:g} and {high:g}")
    return config


def _require_candidates(config: Config) -> None:
    """Look at the names and types of all parameters; their ranges are told by a rehearsal."""
    for name, values in config.search.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"search.{name} = {values!r}: must be a list of values to try")
    grid(config.model.candidate, config.search)
    _ = config.model.compared


def _require_reasons(codes: Sequence[str]) -> None:
    if codes:
        from medspark.report.reasons import REASONS  # beside what draws the report, which is slow to import

        for code in codes:
            if code not in REASONS:
                raise ConfigError(f"run.retry: no reason is called {code!r}; {did_you_mean(code, REASONS)}")


def _read(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: {error}") from None


def _override(table: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: section.key=value is needed")
    *sections, last = key.strip().split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {text}: {section} is not a section")
    try:
        table[last] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        table[last] = value  # a bare word is a string


def _build(kind: type[Any], table: Mapping[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    known = [entry.name for entry in fields(kind)]
    if kind is ModelConfig:
        table, known = _with_parameters(table, known)
    for key in table:
        if key not in known:
            raise ConfigError(f"unknown key {where}{key}; {_nearest(key, known)}")
    return kind(**{key: _typed(hints[key], value, f"{where}{key}") for key, value in table.items() if key in hints})


def _with_parameters(table: Mapping[str, Any], settings: Sequence[str]) -> tuple[Mapping[str, Any], list[str]]:
    """Put the parameters of the kind of model, which stand beside the other keys, into their place."""
    kind = table.get("kind", ModelConfig.kind)
    own = parameters_of(kind) if kind in MODELS else {}
    known = [*(name for name in settings if name != "parameters"), *own]
    if "parameters" in table:
        raise ConfigError("unknown key model.parameters; write them into [model] itself")
    given = {key: value for key, value in table.items() if key in own}
    return {**{key: value for key, value in table.items() if key not in own}, "parameters": given}, [
        *known,
        "parameters",
    ]


def _nearest(key: str, known: Sequence[str]) -> str:
    """Name the section that has this key, or else the nearest key here."""
    if key in parameters_of(ModelConfig.kind):
        return f"did you mean model.{key}?"
    for section in fields(Config):
        kind = section.type
        if is_dataclass(kind) and key in (inner.name for inner in fields(kind)):
            return f"did you mean {section.name}.{key}?"
    return did_you_mean(key, known)


def _typed(hint: Any, value: Any, key: str) -> Any:
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} is a section, got {value!r}")
        return _build(hint, value, f"{key}.")  # type: ignore[arg-type]
    if get_origin(hint) is Mapping:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} is a section, got {value!r}")
        return value
    if get_origin(hint) is tuple:
        return _tuple(get_args(hint)[0], value, key)
    if not is_a(value, hint):
        raise ConfigError(f"{key} = {value!r}: must be {WORDS[hint]}")
    return hint(value)


def _tuple(item: Any, value: Any, key: str) -> tuple[Any, ...]:
    if isinstance(value, str) and item is str:
        return (value,)
    allowed = tuple(get_origin(kind) or kind for kind in get_args(item)) if isinstance(item, types.UnionType) else ()
    wanted = allowed or (get_origin(item) or item,)
    if not isinstance(value, (list, tuple)) or not all(isinstance(entry, wanted) for entry in value):
        raise ConfigError(f"{key} = {value!r}: must be a list of {' or '.join(_MANY[kind] for kind in wanted)}")
    return tuple(value)


_MANY: dict[Any, str] = {str: "texts", Mapping: "tables"}


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value
