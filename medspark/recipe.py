"""A recipe: steps and features, run on one file from top to bottom. No Spark in here."""

import difflib
import hashlib
import json
import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from io import BufferedReader
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import medspark
from medspark.errors import (
    ConfigError,
    CorruptError,
    ImageError,
    MedsparkError,
    OutOfMemoryError,
    StepError,
    UnreadableError,
    did_you_mean,
    is_out_of_memory,
)
from medspark.features import FEATURES
from medspark.files import show_path
from medspark.fingerprint import fingerprint
from medspark.frame import DEFAULT_LIMITS, Frame, Image, Limits
from medspark.ops import Bound, Op, bind
from medspark.readers import opened, read_frames
from medspark.steps import STEPS

PACKAGED = ("default", "seed")
_FILES = {"default": "extract.toml", "seed": "seed.toml"}


@dataclass(frozen=True)
class Outcome:
    """What became of one frame: its features, or the stage that failed and why."""

    frame: int | None  # None: the file as a whole
    facts: Mapping[str, Any] = field(default_factory=dict)
    features: tuple[float, ...] | None = None  # in the order of the recipe's feature_names
    failed_stage: str | None = None
    reason: str | None = None
    error: str | None = None


class _PlaneFailedError(Exception):
    """Carries the name of the operation that failed, and its exception, up to ``Recipe.run_content``."""

    def __init__(self, stage: str, cause: Exception) -> None:
        super().__init__(stage)
        self.stage = stage
        self.cause = cause


@dataclass(frozen=True)
class Recipe:
    """Steps and features. Parameters are checked and the feature names are known before any file is read."""

    steps: tuple[Op, ...]
    features: tuple[Op, ...]

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> "Recipe":
        """Read the entries ``steps`` and ``features`` of a configuration."""
        lists = {key: table.get(key, []) for key in ("steps", "features")}
        for key in table:
            if key not in lists and difflib.get_close_matches(key, lists, n=1):
                raise ConfigError(f"recipe: unknown key {key!r}; {did_you_mean(key, lists)}")
        for key, entries in lists.items():
            if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
                raise ConfigError(f"{key}: a list of tables is needed, as in [[{key}]]")
        steps, features = (tuple(Op.from_dict(entry) for entry in entries) for entries in lists.values())
        return cls(steps, features)

    @classmethod
    def from_toml(cls, path: str | Path) -> "Recipe":
        """Read a recipe from a file, or one that comes with medspark: ``default`` or ``seed``."""
        if str(path) in PACKAGED:
            text = resources.files("medspark.conf").joinpath(_FILES[str(path)]).read_text("utf-8")
        else:
            try:
                text = Path(path).read_text("utf-8")
            except OSError as error:
                raise ConfigError(f"recipe {path}: {error.strerror}; packaged are: {', '.join(PACKAGED)}") from None
        try:
            return cls.from_dict(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"recipe {path}: {error}") from None

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Return what ``from_dict`` reads."""
        return {"steps": [op.to_dict() for op in self.steps], "features": [op.to_dict() for op in self.features]}

    @cached_property
    def recipe_id(self) -> str:
        """16 hexadecimal digits that change with any operation, any parameter, and medspark's version."""
        content = json.dumps([self.to_dict(), medspark.__version__], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The columns that this recipe makes, learned by running it once on a tiny image.

        Raises ConfigError for an unknown operation, a wrong parameter, a plane that no step wrote, a name given twice.
        """
        rows, columns = np.mgrid[0:64, 0:64]
        tiny = ((rows * 5 + columns * 3 + (rows // 8 + columns // 8) % 2 * 90) % 256).astype(np.uint8)
        try:
            named = list(self._measure(Frame(tiny)))
        except _PlaneFailedError as failed:
            raise ConfigError(f"recipe, {failed.stage}: {describe(failed.cause)}") from None
        names = [name for name, _ in named]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"recipe: the feature {name} is made twice")
        if not names:
            raise ConfigError("recipe: it has no features, so there is nothing to write")
        return tuple(names)

    def run(self, source: str | Path | bytes, *, limits: Limits = DEFAULT_LIMITS) -> Iterator[Outcome]:
        """Yield an outcome for each frame of a file (a path or its content); never raises for a bad image."""
        number: int | None = None
        if isinstance(source, bytes):
            given: AbstractContextManager[bytes | BufferedReader] = nullcontext(source)
        else:
            given = opened(show_path(os.fsencode(source)), limits=limits)
        try:
            with given as content:
                for outcome in self.run_content(content, limits=limits):
                    number = outcome.frame
                    yield outcome
        except ImageError as error:
            yield failure(None, "read", error)
        except MemoryError as error:
            cause = OutOfMemoryError("more memory is needed than there is")
            yield failure(None if number is None else number + 1, str(error) or "read", cause)

    def run_file(self, shown: str, *, limits: Limits) -> tuple[str | None, list[Outcome]]:
        """Return the SHA-256 of what a path names, if it could be read, and the outcome of each frame.

        The path is as ``show_path`` shows it, or a member of an archive. Raises MemoryError as ``run_content`` does.
        """
        try:
            with opened(shown, limits=limits) as content:
                return sha256(content), list(self.run_content(content, limits=limits))
        except ImageError as error:
            return None, [failure(None, "read", error)]

    def run_content(self, content: bytes | BufferedReader, *, limits: Limits) -> Iterator[Outcome]:
        """Yield an outcome for each frame of a file's content; this is the one place that catches everything.

        Only MemoryError passes, with the stage as its text: how much memory there is, is no property of the image.
        """
        names = self.feature_names  # a wrong recipe is no fault of the image
        number: int | None = None
        facts: dict[str, Any] = {}
        stage = "decode"
        try:
            for frame in read_frames(content, limits=limits):
                number = frame.number
                facts = _facts(frame)
                try:
                    measured = dict(self._measure(frame))
                    _require_names(names, measured)
                except _PlaneFailedError as failed:
                    if is_out_of_memory(failed.cause):
                        stage = failed.stage
                        raise failed.cause from None
                    yield failure(number, failed.stage, failed.cause, facts)
                else:
                    yield Outcome(number, facts, tuple(measured.values()))
            if number is None:
                yield failure(None, "decode", CorruptError("the file holds no frame"))
        except Exception as error:  # noqa: BLE001 - a bad image never stops a job
            if is_out_of_memory(error):
                raise MemoryError(stage) from None
            yield failure(None if number is None else number + 1, "decode", error, facts)

    def warm_up(self) -> None:
        """Prepare a worker: one thread, no chatter, kernels compiled and parameters checked."""
        cv2.setNumThreads(1)  # Spark runs a task on each core
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        _ = self.feature_names

    def planes(self, frame: Frame) -> dict[str, Image]:
        """Return the image after all steps, and every plane that a step put beside it.

        Raises StepError for what a step cannot take.
        """
        try:
            return self._planes(frame)
        except _PlaneFailedError as failed:
            raise failed.cause from None

    @cached_property
    def _bound_steps(self) -> tuple[Bound, ...]:
        return tuple(bind(op, STEPS) for op in self.steps)

    @cached_property
    def _bound_features(self) -> tuple[Bound, ...]:
        return tuple(bind(op, FEATURES) for op in self.features)

    def _planes(self, frame: Frame) -> dict[str, Image]:
        planes = {"image": frame.pixels}
        for step in self._bound_steps:
            planes[step.op.to] = _apply(step, planes, frame)
        return planes

    def _measure(self, frame: Frame) -> Iterator[tuple[str, float]]:
        planes = self._planes(frame)
        for feature in self._bound_features:
            plane = feature.op.of
            for name, value in _numbers(feature, _apply(feature, planes, frame)).items():
                full_name = name if plane == "image" else f"{plane}_{name}"
                if not math.isfinite(value):
                    raise _PlaneFailedError(feature.op.name, StepError(f"{full_name} is {value}"))
                yield full_name, value


def sha256(content: bytes | BufferedReader) -> str:
    """Return the SHA-256 of a file's content; raises UnreadableError."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    try:
        return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise UnreadableError(f"cannot be read: {os.strerror(error.errno or 0)}") from None


def _apply(bound: Bound, planes: Mapping[str, Image], frame: Frame) -> Any:
    if bound.op.of not in planes:
        missing = StepError(f"no step before it writes the plane {bound.op.of!r}; there are: {', '.join(planes)}")
        raise _PlaneFailedError(bound.op.name, missing)
    image = planes[bound.op.of]
    if bound.facts and image is not frame.pixels:  # the window was meant for the values of the file
        frame = replace(frame, window=None, is_inverted=False)
    try:
        return bound(image, frame)
    except Exception as error:  # noqa: BLE001 - which operation it was is worth more than the type
        raise _PlaneFailedError(bound.op.name, error) from None


def _numbers(feature: Bound, found: Any) -> dict[str, float]:
    """Return what a feature found; one from outside may give something else than it should."""
    try:
        return {name: float(value) for name, value in found.items()}
    except (AttributeError, TypeError, ValueError):
        raise _PlaneFailedError(feature.op.name, StepError("a feature must return {name: number}")) from None


def _require_names(names: tuple[str, ...], measured: Mapping[str, float]) -> None:
    if tuple(measured) != names:
        raise _PlaneFailedError("features", StepError("the names are not those of the rehearsal, or in another order"))


def _facts(frame: Frame) -> dict[str, Any]:
    rows, columns = frame.pixels.shape[:2]
    spacing = frame.spacing_mm or (None, None)
    return {
        **frame.identity,
        "modality": frame.modality,
        "rows": rows,
        "columns": columns,
        "row_spacing_mm": spacing[0],
        "column_spacing_mm": spacing[1],
        **frame.facts,
        "flags": list(frame.flags),
        "fingerprint": fingerprint(frame.pixels) if frame.pixels.ndim == 2 else None,
    }


def failure(number: int | None, stage: str, error: Exception, facts: Mapping[str, Any] | None = None) -> Outcome:
    """Return the outcome of something that went wrong."""
    reason = error.reason if isinstance(error, ImageError) else "step_failed"
    if stage == "decode" and not isinstance(error, ImageError):
        reason = "corrupt"
    return Outcome(number, facts or {}, failed_stage=stage, reason=reason, error=describe(error))


def describe(error: Exception) -> str:
    """Return a message without data of a patient: our own text, or only the kind and place of a foreign error."""
    if isinstance(error, MedsparkError):
        return str(error)
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f" in {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    return f"{type(error).__name__}{place}"
