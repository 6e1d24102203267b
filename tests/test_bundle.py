import hashlib
import json
import pickle
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_iris

from medspark import __version__
from medspark.bundle import FORMAT, SPLIT, load, replace_split, save
from medspark.errors import ContractError
from medspark.models.forest import forest

IRIS = load_iris()
NAMES = ["lbp_0", "lbp_1", "edges_density", "mask_n_regions"]
MODEL = forest(IRIS.data, IRIS.target_names[IRIS.target], trees=4)
FILES = [
    "model.json",
    "model.json.sha256",
    "card.md",
    "split.parquet",
    *(f"arrays/{name}.npy" for name in MODEL.arrays()),
]


def make_manifest(**changes):
    return {
        "kind": "forest",
        "feature_names": NAMES,
        "recipe": {"steps": [{"use": "median", "size": 5}], "features": []},
        "recipe_id": "recipe-1",
        "seed": 42,
        "parameters": {"trees": 4, "depth": 3},
        "split": {"by": "patient", "test_fraction": 0.2},
        "metrics": {"auc": 0.987654, "sensitivity": None, "note": "no rows of a|b", "confusion": [[1, 0], [0, 1]]},
        "reference": {"features": {}, "probabilities": {}},
        "accepted": True,
        **changes,
    }


def make_split(**changes):
    columns = {
        "path": ["/b", "/a", "/a", "/c", "/d"],
        "frame": [0, 1, 0, 0, 0],
        "patient_id": ["P2", "P1", "P1", "P3", "P3"],
        "label": ["setosa", "virginica", "setosa", "setosa", "versicolor"],
        "side": ["train", "train", "train", "test", "test"],
        "fold": [0, 1, 1, None, None],
    }
    return pa.table({**columns, **changes})


def make_bundle(directory, **changes):
    return save(directory, MODEL, manifest=make_manifest(**changes), split_table=make_split())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("models"))


@pytest.fixture
def copy(saved, tmp_path):
    """A bundle that a test may damage."""
    return Path(shutil.copytree(saved.directory, tmp_path / "copy"))


def rewrite(directory, **changes):
    """Change model.json as its author could: with a seal that fits."""
    content = json.loads((directory / "model.json").read_text()) | changes
    text = json.dumps(content)
    (directory / "model.json").write_text(text)
    (directory / "model.json.sha256").write_text(f"{hashlib.sha256(text.encode()).hexdigest()}  model.json\n")


def test_a_model_read_back_is_the_one_that_was_saved(saved):
    again = load(str(saved.directory))
    assert np.array_equal(again.predict_proba(IRIS.data), MODEL.predict_proba(IRIS.data))
    assert again.classes == ["setosa", "versicolor", "virginica"]
    assert again.feature_names == NAMES
    assert again.recipe == make_manifest()["recipe"]
    assert again.recipe_id == "recipe-1"
    assert again.model_id == saved.model_id == saved.directory.name
    assert {key: again.manifest[key] for key in make_manifest()} == make_manifest()
    assert again.manifest["format"] == FORMAT


def test_parameters_are_mapped_not_read(saved):
    assert all(isinstance(array, np.memmap) for array in load(saved.directory).model.arrays().values())


def test_a_bundle_can_be_sent_to_the_executors(saved):
    bundle = load(saved.directory)
    before = pickle.loads(pickle.dumps(bundle))  # noqa: S301  # as Spark does
    bundle.predict_proba(IRIS.data)
    after = pickle.loads(pickle.dumps(bundle))  # noqa: S301  # as Spark does
    for sent in (before, after):
        assert np.array_equal(sent.predict_proba(IRIS.data), MODEL.predict_proba(IRIS.data))


def test_the_id_is_kind_time_and_content(saved, tmp_path):
    kind, time, content = re.fullmatch(r"(\w+)-(\d{8}T\d{6}Z)-([0-9a-f]{8})", saved.model_id).groups()
    written = datetime.strptime(time, "%Y%m%dT%H%M%S%z")
    assert kind == "forest"
    assert timedelta(0) <= datetime.now(UTC) - written < timedelta(minutes=10)
    assert saved.manifest["training"]["created_at"] == written.isoformat()
    assert make_bundle(tmp_path, seed=43).model_id.rpartition("-")[2] != content


def test_model_json_lists_the_sha256_of_every_other_file(saved):
    found = {
        path.relative_to(saved.directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in saved.directory.rglob("*")
        if path.is_file()
    }
    assert sorted(found) == sorted(FILES)
    seal = (saved.directory / "model.json.sha256").read_text()
    assert seal == f"{found.pop('model.json')}  model.json\n"
    del found["model.json.sha256"]
    assert saved.manifest["files"] == found


def test_the_training_manifest_is_counted_from_the_split(saved):
    training = dict(saved.manifest["training"])
    del training["created_at"]
    assert training == {
        "n_rows": 5,
        "n_rows_without_patient": 0,
        "n_patients": 3,
        "n_patients_on_both_sides": 0,
        "by_side": {
            "test": {"n_rows": 2, "n_patients": 1, "n_by_class": {"setosa": 1, "versicolor": 1}},
            "train": {"n_rows": 3, "n_patients": 2, "n_by_class": {"setosa": 2, "virginica": 1}},
        },
    }


def test_the_split_is_kept_in_order_of_path_and_frame(saved):
    table = pq.read_table(saved.directory / "split.parquet")
    assert table.schema.equals(SPLIT)
    order = make_split().to_pandas().sort_values(["path", "frame"], ignore_index=True)
    assert table.to_pylist() == pa.Table.from_pandas(order, schema=SPLIT).to_pylist()


def test_versions_are_written_down(saved):
    import sklearn  # only its version is asked for

    assert saved.manifest["versions"] == {
        "medspark": __version__,
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
    }


def test_the_card_tells_people_what_the_model_is_and_is_not(saved):
    card = (saved.directory / "card.md").read_text()
    for line in (
        f"# Model {saved.model_id}",
        "**Not a medical device.**",
        "5 rows (frames of images) of 3 patients.",
        "| train | 3 | 2 | setosa 2, virginica 1 |",
        "| auc | 0.9877 |",
        "| sensitivity | undefined |",
        r"| note | no rows of a\|b |",
        "Settings: by patient, test_fraction 0.2. No patient is on both sides.",
        "Seed 42; trees 4, depth 3. Features are of recipe `recipe-1`",
        "## Limits",
    ):
        assert line in card
    assert "confusion" not in card
    assert "/a" not in card.split()  # no file of the archive is named


@pytest.mark.parametrize(
    ("patients", "said"),
    [
        (["P1", "P2", "P3", "P1", "P4"], "**1 patients are on both sides"),
        (["P1", None, None, "P2", None], "**3 rows have no patient id: one patient may be on both sides.**"),
    ],
)
def test_the_card_admits_what_is_wrong_with_the_split(tmp_path, patients, said):
    bundle = save(tmp_path, MODEL, manifest=make_manifest(), split_table=make_split(patient_id=patients))
    assert said in (bundle.directory / "card.md").read_text()


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("where", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("name", FILES)
def test_one_changed_bit_in_any_file_is_refused_with_its_name(copy, name, where):
    path = copy / name
    flip(path, int(where * (path.stat().st_size - 1)))
    with pytest.raises(ContractError, match=f"{re.escape(name)}.*(copy it again|train it anew)"):
        load(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_with_its_name(copy, name):
    (copy / name).unlink()
    with pytest.raises(ContractError, match=f"{re.escape(str(copy / name))}: missing"):
        load(copy)


@pytest.mark.parametrize("name", ["split.parquet", "arrays/value.npy"])
def test_a_file_cut_short_is_refused(copy, name):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-1])
    with pytest.raises(ContractError, match=re.escape(name)):
        load(copy)


def test_a_feature_renamed_in_model_json_is_refused(copy):
    text = (copy / "model.json").read_text()
    (copy / "model.json").write_text(text.replace("edges_density", "edges_length"))
    with pytest.raises(ContractError, match=r"model\.json.*do not agree"):
        load(copy)


def test_a_path_without_a_model_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ContractError, match=r"model\.json: missing.*check the path"):
            load(path)


def test_a_newer_format_is_refused_with_the_way_out(copy):
    rewrite(copy, format=FORMAT + 1, versions={"medspark": "9.0"})
    with pytest.raises(ContractError, match=r"model\.json: format 2 was written by medspark 9\.0.*update medspark"):
        load(copy)


def test_an_unknown_kind_is_refused_with_the_nearest_known(copy):
    rewrite(copy, kind="forrest")
    with pytest.raises(ContractError, match=r"model\.json.*'forrest'; did you mean 'forest'"):
        load(copy)


def test_a_lack_of_arrays_is_named_even_when_every_seal_fits(copy):
    files = json.loads((copy / "model.json").read_text())["files"]
    del files["arrays/threshold.npy"]
    rewrite(copy, files=files)
    with pytest.raises(ContractError, match="no array threshold"):
        load(copy)


def test_a_bundle_moved_elsewhere_and_files_beside_it_do_no_harm(copy):
    (copy / ".DS_Store").write_bytes(b"x")
    assert np.array_equal(load(copy).predict_proba(IRIS.data), MODEL.predict_proba(IRIS.data))


def test_features_of_the_recipe_in_any_order_with_others_fit(saved):
    saved.check_features(["path", *reversed(NAMES), "extra"], "recipe-1")


def test_features_of_another_recipe_are_refused_with_both_ids(saved):
    with pytest.raises(ContractError, match="recipe recipe-1, these are of recipe recipe-2; extract with"):
        saved.check_features(NAMES, "recipe-2")


def test_missing_features_are_named(saved):
    with pytest.raises(ContractError, match="2 of its 4 features are missing: lbp_0, edges_density;"):
        saved.check_features(["lbp_1", "mask_n_regions", "lbp_00"], "recipe-1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": {"auc": float("nan")}}, "metrics cannot be written as JSON"),
        ({"parameters": {"depth": np.float32("inf")}}, "parameters cannot be written as JSON"),
        ({"recipe": {"steps": {1, 2}}}, "recipe cannot be written as JSON"),
        ({"kind": "forrest"}, "did you mean 'forest'"),
        ({"feature_names": NAMES[:3]}, "3 feature names, 3 of them different, for a model of 4 features"),
        ({"feature_names": [*NAMES[:3], "lbp_0"]}, "4 feature names, 3 of them different"),
        ({"remarks": ""}, "remarks missing or not known"),
    ],
)
def test_a_manifest_that_does_not_fit_leaves_nothing_behind(tmp_path, changes, message):
    with pytest.raises(ContractError, match=message):
        make_bundle(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_an_incomplete_manifest_or_split_is_refused(tmp_path):
    manifest = make_manifest()
    del manifest["recipe_id"]
    with pytest.raises(ContractError, match="recipe_id missing"):
        save(tmp_path, MODEL, manifest=manifest, split_table=make_split())
    with pytest.raises(ContractError, match="no column side, fold"):
        save(tmp_path, MODEL, manifest=make_manifest(), split_table=make_split().drop_columns(["side", "fold"]))


def test_a_split_with_other_rows_is_sealed_again_and_nothing_else_is_changed(copy, saved):
    rows = saved.split_table.slice(1, 2)
    replace_split(copy, rows)
    again = load(copy)
    assert again.split_table.equals(rows)
    assert again.model_id == saved.model_id
    same = [name for name in FILES if name not in ("split.parquet", "model.json", "model.json.sha256")]
    assert all((copy / name).read_bytes() == (saved.directory / name).read_bytes() for name in same)
    before, after = (json.loads((root / "model.json").read_text()) for root in (saved.directory, copy))
    after["files"]["split.parquet"] = before["files"]["split.parquet"]
    assert after == before
    assert sorted(path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()) == sorted(FILES)


@pytest.mark.parametrize("n_replaced", [1, 2])
def test_a_split_that_was_only_partly_sealed_is_refused_until_it_is_done_again(copy, saved, n_replaced):
    rows = saved.split_table.slice(1, 2)
    replace_split(copy, rows)
    for name in ("split.parquet", "model.json", "model.json.sha256")[n_replaced:]:
        shutil.copy(saved.directory / name, copy / name)
    with pytest.raises(ContractError):
        load(copy)
    replace_split(copy, rows)
    assert load(copy).split_table.equals(rows)


def test_model_json_is_strict_json(saved):
    def refuse(constant):
        raise AssertionError(constant)

    json.loads((saved.directory / "model.json").read_text(), parse_constant=refuse)


def test_only_the_complete_directory_appears(tmp_path):
    bundle = make_bundle(tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == [bundle.directory]


def test_the_same_model_saved_twice_at_once_is_there_once(tmp_path):
    bundles = [make_bundle(tmp_path) for _ in range(4)]
    assert {path.name for path in tmp_path.iterdir()} == {bundle.model_id for bundle in bundles}
