"""The model on disk: a directory of plain files that cannot execute code, each of them guarded by its sha256.

MODEL_ID/
├── model.json           what the model is, how it was trained, and the sha256 of each file below
├── model.json.sha256    the sha256 of model.json, for ``sha256sum --check``
├── card.md              the same for people
├── split.parquet        who stood on which side
└── arrays/NAME.npy      the parameters, mapped into memory and not copied until they are used
"""

import atexit
import hashlib
import io
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medspark import __version__, storage
from medspark.errors import ContractError, did_you_mean
from medspark.models import MODELS, Model
from medspark.remote import is_remote

FORMAT = 1  # of the directory; a reader refuses a higher one

SPLIT = pa.schema(
    {
        "path": pa.string(),
        "frame": pa.int32(),
        "patient_id": pa.string(),
        "label": pa.string(),
        "side": pa.string(),
        "fold": pa.int32(),
    }
)


class Manifest(TypedDict):
    """What the trainer tells about a model; all of it can be written as JSON."""

    kind: str  # a name in MODELS
    feature_names: list[str]  # in the order of the columns of X
    recipe: dict[str, Any]
    recipe_id: str
    seed: int
    parameters: dict[str, Any]  # of the model
    split: dict[str, Any]  # the settings that made the sides
    metrics: dict[str, Any]
    reference: dict[str, Any]  # distributions of the features and probabilities, as medspark.drift makes them
    accepted: bool  # whether it may become the current model: above the floor, and not worse than the one before


@dataclass(frozen=True)
class Bundle:
    """A model that was read from disk, and what was written down about it."""

    directory: Path
    manifest: Mapping[str, Any]  # the content of model.json
    model: Model
    is_copy: bool = False  # of one in an object store, on the disk of this machine

    @property
    def model_id(self) -> str:
        """Kind, time of writing and the first digits of the sha256 of the content."""
        return str(self.manifest["model_id"])

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the columns of ``predict_proba``."""
        return self.model.classes

    @property
    def feature_names(self) -> list[str]:
        """The names of the features, in the order of the columns of ``X``."""
        return list(self.manifest["feature_names"])

    @property
    def recipe_id(self) -> str:
        """Which recipe the features have to come from."""
        return str(self.manifest["recipe_id"])

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe itself."""
        return dict(self.manifest["recipe"])

    @property
    def split_table(self) -> pa.Table:
        """Who stood on which side: the rows of split.parquet."""
        return pq.read_table(self.directory / "split.parquet")

    def predict_proba(self, X: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return rows x classes probabilities; the columns of ``X`` are the features in the order of their names."""
        return self.model.predict_proba(X)

    def check_features(self, names: Iterable[str], recipe_id: str) -> None:
        """Raise ContractError if features of these names and this recipe cannot be scored; more names do no harm."""
        if recipe_id != self.recipe_id:
            raise ContractError(
                f"model {self.model_id} was trained on features of recipe {self.recipe_id}, these are of recipe "
                f"{recipe_id}; extract with the recipe of the model, or use a model of this recipe"
            )
        there = set(names)
        missing = [name for name in self.feature_names if name not in there]
        if missing:
            raise ContractError(
                f"model {self.model_id}: {len(missing)} of its {len(self.feature_names)} features are missing: "
                f"{', '.join(missing)}; extract them again with its recipe"
            )


def save(directory: Path | str, model: Model, *, manifest: Manifest, split_table: pa.Table) -> Bundle:
    """Write ``directory``/MODEL_ID and return the model as read back from there.

    ``split_table`` has the columns of ``SPLIT`` and a row for each row that was learned from or tested on; rows and
    patients are counted from it. The directory gets its name when it is complete; a killed run leaves at most a hidden
    ``.*.partial`` beside it. Raises ContractError if the parts do not fit together or cannot be written.
    """
    _require_fit(model, manifest, split_table)
    if is_remote(str(directory)):
        with tempfile.TemporaryDirectory() as home:
            written = save(home, model, manifest=manifest, split_table=split_table)
            _upload(written.directory, f"{directory}/{written.model_id}")
            return load(f"{directory}/{written.model_id}")
    staging = Path(directory) / f".{uuid.uuid4().hex}.partial"
    (staging / "arrays").mkdir(parents=True)
    try:
        model_id = _write(staging, model, manifest, split_table)
        _publish(staging, Path(directory) / model_id)
    except BaseException:
        shutil.rmtree(staging)
        raise
    return load(Path(directory) / model_id)


def load(directory: Path | str, *, is_verified: bool = False) -> Bundle:
    """Return the model in this directory, after a look at every byte of it unless another process has looked.

    From an object store it is copied to this machine.
    Raises ContractError, naming the file, if one is missing or was changed since it was saved, or if the model is of a
    kind or a format that this version does not know.
    """
    root = Path(_downloaded(str(directory)) if is_remote(str(directory)) else directory)
    for name in ("model.json", "model.json.sha256"):
        if not (root / name).is_file():
            raise ContractError(
                f"{root / name}: missing, so this is no complete model; check the path or copy it again"
            )
    if (root / "model.json.sha256").read_bytes() != _seal((root / "model.json").read_bytes()):
        raise _changed(root / "model.json", "it and model.json.sha256 do not agree")
    content = json.loads((root / "model.json").read_bytes())
    if content["format"] > FORMAT:
        raise ContractError(
            f"{root / 'model.json'}: format {content['format']} was written by medspark "
            f"{content['versions']['medspark']}, this is {__version__} and reads up to {FORMAT}; update medspark"
        )
    if content["kind"] not in MODELS:
        raise ContractError(
            f"{root / 'model.json'}: no model is of kind {content['kind']!r}; {did_you_mean(content['kind'], MODELS)}; "
            f"it was written by medspark {content['versions']['medspark']}, this is {__version__}"
        )
    for name, expected in content["files"].items():
        if not (root / name).is_file():
            raise _changed(root / name, "missing")
        if not is_verified and _sha256(root / name) != expected:
            raise _changed(root / name, "its sha256 is not the one in model.json")
    arrays = {
        Path(name).stem: np.load(root / name, mmap_mode="r", allow_pickle=False)
        for name in content["files"]
        if name.startswith("arrays/")
    }
    from_arrays = MODELS[content["kind"]].from_arrays
    model = from_arrays(arrays, classes=content["classes"], n_features=len(content["feature_names"]))
    return Bundle(root, content, model, is_copy=is_remote(str(directory)))


def list_models(directory: Path | str, *, recipe_id: str) -> list[str]:
    """Return the ids of the accepted models in a directory that were trained with a recipe, the oldest first."""
    found = []
    for path in _manifests(str(directory)):
        content = json.loads(storage.read(path))
        if content["recipe_id"] == recipe_id and content["accepted"]:
            found.append((content["training"]["created_at"], content["model_id"]))
    return [model_id for _, model_id in sorted(found)]


def _manifests(directory: str) -> list[str]:
    """Return the model.json of each model: it is written last."""
    if is_remote(directory):
        return [file.path for file in storage.files(directory) if file.path.endswith("/model.json")]
    return [str(path) for path in Path(directory).glob("[!.]*/model.json")]


def find(directory: Path | str, *, recipe_id: str, model_id: str = "") -> Bundle:
    """Return the model of this id or, without one, the current one: the newest accepted that was trained with a recipe.

    Raises ContractError if there is none, or if ``load`` refuses it.
    """
    models = list_models(directory, recipe_id=recipe_id)
    if model_id and f"{directory}/{model_id}/model.json" not in _manifests(str(directory)):
        raise ContractError(f"no model {model_id} in {directory}; of recipe {recipe_id} there are: {', '.join(models)}")
    if not model_id and not models:
        raise ContractError(f"no model of recipe {recipe_id} in {directory}: run train with this recipe first")
    return load(f"{directory}/{model_id or models[-1]}")


def current(directory: Path | str, *, recipe_id: str, model_id: str = "") -> Bundle | None:
    """Return what ``find`` does, or None if no model was asked for by its id and there is none."""
    if not model_id and not list_models(directory, recipe_id=recipe_id):
        return None
    return find(directory, recipe_id=recipe_id, model_id=model_id)


def replace_split(directory: Path | str, rows: pa.Table) -> None:
    """Put other rows into split.parquet, and its new sha256 where it is written down.

    A bundle of which a killed run replaced only some files is refused by ``load``; the same call again repairs it.
    """
    split = io.BytesIO()
    pq.write_table(rows, split)
    content = json.loads(storage.read(f"{directory}/model.json"))
    content["files"]["split.parquet"] = hashlib.sha256(split.getvalue()).hexdigest()
    manifest = _json(content)
    parts = {"split.parquet": split.getvalue(), "model.json": manifest, "model.json.sha256": _seal(manifest)}
    for name, part in parts.items():
        storage.write(f"{directory}/{name}", part)


def _upload(source: Path, target: str) -> None:
    """Copy a bundle into an object store; it is there with its model.json, which comes last."""
    files = sorted((path for path in source.rglob("*") if path.is_file()), key=lambda path: path.name == "model.json")
    for path in files:
        storage.write(f"{target}/{path.relative_to(source).as_posix()}", path.read_bytes())


def _downloaded(source: str) -> Path:
    """Return a copy of a bundle in an object store, which is removed when this process ends."""
    target = Path(tempfile.mkdtemp(prefix="medspark-model-"))
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    for file in storage.files(source):
        storage.write(str(target / file.path.removeprefix(f"{source}/")), storage.read(file.path))
    return target


def _require_fit(model: Model, manifest: Manifest, split_table: pa.Table) -> None:
    wrong = Manifest.__required_keys__ ^ manifest.keys()
    if wrong:
        raise ContractError(f"manifest: {', '.join(sorted(wrong))} missing or not known; see medspark.bundle.Manifest")
    if manifest["kind"] not in MODELS:
        raise ContractError(
            f"manifest: no model is of kind {manifest['kind']!r}; {did_you_mean(manifest['kind'], MODELS)}"
        )
    names = manifest["feature_names"]
    if len(names) != model.n_features or len(set(names)) != len(names):
        raise ContractError(
            f"manifest: {len(names)} feature names, {len(set(names))} of them different, for a model of "
            f"{model.n_features} features; name each column of X once"
        )
    missing = [name for name in SPLIT.names if name not in split_table.column_names]
    if missing:
        raise ContractError(f"split table: no column {', '.join(missing)}; it needs {', '.join(SPLIT.names)}")


def _write(root: Path, model: Model, manifest: Manifest, split_table: pa.Table) -> str:
    for name, array in model.arrays().items():
        np.save(root / "arrays" / f"{name}.npy", array, allow_pickle=False)
    rows = split_table.select(SPLIT.names).cast(SPLIT).sort_by([("path", "ascending"), ("frame", "ascending")])
    pq.write_table(rows, root / "split.parquet")

    created_at = datetime.now(UTC)
    content: dict[str, Any] = {
        "format": FORMAT,
        **manifest,
        "classes": model.classes,
        "training": {"created_at": created_at.isoformat(timespec="seconds"), **_counts(rows)},
        "versions": {"medspark": __version__, **{name: version(name) for name in ("scikit-learn", "numpy")}},
        "files": _hashes(root),
    }
    digest = hashlib.sha256(_json(content)).hexdigest()
    model_id = f"{manifest['kind']}-{created_at:%Y%m%dT%H%M%SZ}-{digest[:8]}"
    content = {"model_id": model_id, **content}
    (root / "card.md").write_text(_card(content), encoding="utf-8")
    content["files"] = _hashes(root)
    (root / "model.json").write_bytes(_json(content))
    (root / "model.json.sha256").write_bytes(_seal(_json(content)))
    return model_id


def _publish(staging: Path, target: Path) -> None:
    try:
        staging.rename(target)
    except OSError:
        if not target.exists():
            raise
        shutil.rmtree(staging)  # another run saved the very same content within this second


def _json(content: Mapping[str, Any]) -> bytes:
    for key, value in content.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ContractError(
                f"manifest: {key} cannot be written as JSON ({error}); use plain numbers, and None for NaN"
            ) from None
    return (json.dumps(content, allow_nan=False, ensure_ascii=False, indent=2) + "\n").encode()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hashes(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): _sha256(path) for path in files}


def _seal(manifest: bytes) -> bytes:
    return f"{hashlib.sha256(manifest).hexdigest()}  model.json\n".encode()


def _changed(path: Path, what: str) -> ContractError:
    return ContractError(f"{path}: {what}; the model is not as it was saved: copy it again or train it anew")


def _counts(rows: pa.Table) -> dict[str, Any]:
    sides = sorted(rows["side"].unique().to_pylist())
    parts = {side: rows.filter(pc.field("side") == side) for side in sides}
    by_side = {
        side: {
            "n_rows": part.num_rows,
            "n_patients": _n_patients(part),
            "n_by_class": {
                entry["values"]: entry["counts"] for entry in part.sort_by("label")["label"].value_counts().to_pylist()
            },
        }
        for side, part in parts.items()
    }
    n_patients = _n_patients(rows)
    return {
        "n_rows": rows.num_rows,
        "n_rows_without_patient": rows["patient_id"].null_count,
        "n_patients": n_patients,
        "n_patients_on_both_sides": sum(part["n_patients"] for part in by_side.values()) - n_patients,
        "by_side": by_side,
    }


def _n_patients(rows: pa.Table) -> int:
    return int(pc.count_distinct(rows["patient_id"], mode="only_valid").as_py())


CARD = """\
# Model {model_id}

**Not a medical device.** It is certified by nobody for anything. Do not use it to diagnose, to triage, or to decide
about the treatment of a person.

A model of kind `{kind}` that tells {n_classes} classes apart ({classes}) by {n_features} numbers measured on an image,
trained on {created_at} with medspark {medspark}.

## Data

{n_rows} rows (frames of images) of {n_patients} patients.

| side | rows | patients | rows of each class |
|---|---|---|---|
{sides}

## Split

Settings: {split}. {overlap} `split.parquet` says who stood on which side.

## Metrics

| metric | value | 95 % interval |
|---|---|---|
{metrics}

The intervals draw patients, not rows, 1,000 times anew.

## Parameters

Seed {seed}; {parameters}. Features are of recipe `{recipe_id}`, which is in `model.json`.

## Intended use

Research, and sorting or checking an archive, by people who look at the images before anything follows from a
prediction.

## Limits

- The metrics describe the test side of this one archive. Other hospitals, scanners, protocols and patients were not
  tried; expect worse there, and measure before use.
- Rows of one patient are alike, so the number of patients, not of rows, says how far the metrics can be trusted.
- Probabilities are shares of votes or scores. They were not calibrated to be frequencies.
- The labels were taken as they are, with their errors. No groups of patients (age, sex, origin) were compared.
- It answers for any image, also for one that is nothing like those it was trained on.
"""


def _card(content: Mapping[str, Any]) -> str:
    training = content["training"]
    return CARD.format(
        model_id=content["model_id"],
        kind=content["kind"],
        n_classes=len(content["classes"]),
        classes=", ".join(content["classes"]),
        n_features=len(content["feature_names"]),
        created_at=training["created_at"],
        medspark=content["versions"]["medspark"],
        n_rows=training["n_rows"],
        n_patients=training["n_patients"],
        sides="\n".join(
            _line(side, part["n_rows"], part["n_patients"], _settings(part["n_by_class"]))
            for side, part in training["by_side"].items()
        ),
        split=_settings(content["split"]),
        overlap=_overlap(training),
        metrics="\n".join(
            _line(
                name, "undefined" if value is None else f"{value:.4g}" if isinstance(value, float) else value, between
            )
            for name, value, between in _numbers(content["metrics"])
        ),
        seed=content["seed"],
        parameters=_settings(content["parameters"]),
        recipe_id=content["recipe_id"],
    )


def _numbers(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    intervals = metrics.get("intervals", {})
    for name, value in metrics.items():
        if not isinstance(value, dict | list):
            low, high = intervals.get(name) or (None, None)
            yield name, value, "" if low is None or high is None else f"{low:.4g} to {high:.4g}"


def _overlap(training: Mapping[str, Any]) -> str:
    n_both, n_unknown = training["n_patients_on_both_sides"], training["n_rows_without_patient"]
    if n_both:
        return f"**{n_both} patients are on both sides: the metrics are better than they should be.**"
    if n_unknown:
        return f"**{n_unknown} rows have no patient id: one patient may be on both sides.**"
    return "No patient is on both sides."


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "none"


def _line(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
