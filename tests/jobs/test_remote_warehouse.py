"""The warehouse in an object store: the same tables and models as on a disk, to the last bit, and no commit is lost."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import make_pixels, make_png
from deltalake import DeltaTable, Schema
from line import rows
from nights import Nights
from store import BUCKET, OTHER_BUCKET, answer, apart, error, serving

from medspark import bundle, storage
from medspark.errors import ConfigError
from medspark.models.forest import forest
from medspark.spark.guard import end_idle
from medspark.warehouse import PENDING, Change, Part, Warehouse, _Step

ARCHIVE, WAREHOUSE = f"s3://{BUCKET}/wards", f"s3://{OTHER_BUCKET}/ware/house"
SCHEMA = pa.schema({"path": pa.string(), "frame": pa.int32()})


@pytest.fixture(scope="module")
def store(tmp_path_factory, deploy):
    with serving(tmp_path_factory.mktemp("s3"), deploy) as store:
        yield store


@pytest.fixture
def reached(store, monkeypatch):
    """The server, where the environment leads to it."""
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    end_idle()  # it has another environment
    return store


def far_rows(store, name, place=WAREHOUSE):
    options = {key.lower(): value for key, value in store.environment().items()} | {"aws_allow_http": "true"}
    found = DeltaTable(f"{place}/{name}", storage_options=options).to_pyarrow_table().to_pylist()
    return sorted(found, key=lambda row: (row.get("path") or "", row.get("frame") or 0))


# The whole line


@pytest.fixture(scope="module")
def line(store, hospital):
    """What the jobs say, and what there is after the first line and after a night in which three objects changed."""
    for path in hospital.archive.rglob("*"):
        if path.is_file():
            store.put({f"wards/{path.relative_to(hospital.archive)}": path.read_bytes()})
    session = Nights(os.environ | store.environment())
    here = ("--warehouse", WAREHOUSE, "--labels", hospital.inventory.labels)
    told = {"index": session.run("index", "--input", ARCHIVE, *here)}
    told |= {job: session.run(job, *here) for job in ("extract", "train", "score", "report")}
    refused = session.run("train", *here, "--set", 'model.engine="mllib"')
    first = {name: far_rows(store, name) for name in ("images", "series", "features", "quarantine", "predictions")}
    *_, changed, gone = sorted({row["path"] for row in first["features"]})
    store.put({changed.removeprefix(f"s3://{BUCKET}/"): make_png(make_pixels(seed=9)), "wards/zz/new.png": make_png()})
    store.delete(gone.removeprefix(f"s3://{BUCKET}/"))
    told["reprocess"] = session.run("reprocess", "--input", ARCHIVE, *here)
    second = {name: far_rows(store, name) for name in first}
    keys = [each["Key"] for each in store.client.list_objects_v2(Bucket=OTHER_BUCKET, MaxKeys=1000)["Contents"]]
    return {"told": told, "end": session.end(), "first": first, "second": second, "keys": keys, "refused": refused} | {
        "changed": changed, "gone": gone, "runs": far_rows(store, "runs"),
    }  # fmt: skip


def without(table, root, *names):
    return [
        {key: value for key, value in row.items() if key not in names} | {"path": row["path"].removeprefix(str(root))}
        for row in table
    ]


def test_every_job_of_the_line_says_what_it_says_on_a_disk(line, hospital):
    wanted = {**hospital.codes, "reprocess": hospital.codes["extract"]}
    assert line["told"] == wanted
    assert line["end"][0] == 0
    assert [text for text in line["end"][1] if "libpng" not in text] == []


@pytest.mark.parametrize("name", ["features", "quarantine", "predictions"])
def test_the_tables_are_those_on_a_disk_to_the_last_bit(line, hospital, name):
    own = ("modified_at", "model_id", "error")  # an object is no file
    assert line["first"][name]
    far = without(line["first"][name], ARCHIVE, *own)
    assert [repr(row) for row in far] == [
        repr(row) for row in without(rows(hospital.warehouse, name), hospital.archive, *own)
    ]


def test_a_night_replaces_what_changed_and_keeps_the_rest(line):
    before, after = (
        {(row["path"], row["frame"]): row for row in line[night]["features"]} for night in ("first", "second")
    )
    changed, gone, new = line["changed"], line["gone"], f"{ARCHIVE}/zz/new.png"
    assert after[changed, 0]["content_sha256"] != before[changed, 0]["content_sha256"]
    assert {path for path, _ in after} - {path for path, _ in before} == {new}
    assert {path for (path, _), row in after.items() if row["gone_at"]} == {gone}
    for place in before.keys() & after.keys():
        if place[0] not in (changed, gone):
            assert repr(after[place]) == repr(before[place])
    scored = {(row["path"], row["frame"]) for row in line["second"]["predictions"] if row["gone_at"] is None}
    assert scored == {place for place, row in after.items() if row["gone_at"] is None}


def test_nothing_is_left_of_what_a_run_wrote_for_itself(line):
    assert [key for key in line["keys"] if key.startswith("ware/house/_") and not key.endswith("/")] == []
    assert [key for key in line["keys"] if key.startswith("ware/house/reports/report-") and key.endswith("index.html")]
    assert {row["job"] for row in line["runs"]} == {"index", "extract", "train", "score", "report", "reprocess"}


def test_sparks_own_forest_is_refused_before_anything_is_done(line):
    assert line["refused"].startswith("ConfigError: model.engine = 'mllib' needs a directory that Spark itself reaches")
    assert len([row for row in line["runs"] if row["job"] == "train"]) == 1


# Commits


def written(warehouse, chunk, *paths, name="features"):
    """Write a file as an executor does, and return it."""
    content = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([{"path": path, "frame": 0} for path in paths], SCHEMA), content)
    path = warehouse.path(name, chunk, "part.parquet")
    storage.write(path, content.getvalue().to_pybytes())
    return Part(path, len(paths), content.getvalue().size)


def published(place, chunk, *paths, name="features", **options):
    warehouse = Warehouse.at(place)
    part = written(warehouse, chunk, *paths, name=name)
    warehouse.publish_all(chunk, [Change(name, SCHEMA, parts=[part], **options)])
    return [warehouse.version(name), warehouse.files(name)]


def published_by_many(place, n):
    with ThreadPoolExecutor(n) as pool:
        list(pool.map(lambda number: published(place, f"run-{number}", f"path {number}"), range(n)))
    return Warehouse.at(place).version("features")


def begun_and_recovered(place):
    """Do what a run does that is killed before its first commit, and then what the next one does."""
    warehouse = Warehouse.at(place)
    names = ("features", "quarantine")
    changes = [Change(name, SCHEMA, parts=[written(warehouse, "run-1-00000", name, name=name)]) for name in names]
    schema = Schema.from_arrow(SCHEMA)
    steps = [_Step(one.name, schema, warehouse._staged(one.name, one.parts), []) for one in changes]
    plan = json.dumps([step.to_dict() for step in steps])
    storage.write(warehouse.path(PENDING, "run-1-00000.json"), plan.encode())
    with warehouse.hold("index"):
        return [file.path for file in storage.files(warehouse.path(PENDING))]


def paths_of(store, place, name="features"):
    return [row["path"] for row in far_rows(store, name, place)]


def test_publishers_at_once_lose_nothing_even_when_they_begin_the_table(store):
    place = f"s3://{OTHER_BUCKET}/many"
    assert apart(store, published_by_many, place, 6) == ("", 5)
    assert paths_of(store, place) == [f"path {number}" for number in range(6)]


def test_a_change_that_is_based_on_an_older_version_is_refused(store):
    place = f"s3://{OTHER_BUCKET}/older"
    _, (version, files) = apart(store, published, place, "run-1", "a")
    assert version == 0
    assert apart(store, published, place, "run-2", "b", replaced=files, based_on=0)[1][0] == 1
    told = apart(store, published, place, "run-3", "c", replaced=files, based_on=0)
    assert told == ("ConflictError", f"another run has changed {place}/features in the meantime; run again")
    assert paths_of(store, place) == ["b"]


def test_what_a_killed_run_had_begun_is_completed_by_the_next_one(store):
    place = f"s3://{OTHER_BUCKET}/killed"
    assert apart(store, begun_and_recovered, place) == ("", [])
    assert [paths_of(store, place, name) for name in ("features", "quarantine")] == [["features"], ["quarantine"]]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("gs://bucket/x", "only s3:// can hold a warehouse"),
        ("s3://bucket", "a prefix is needed"),
        ("s3://bucket/a b", "a prefix is needed"),
        ("s3://bucket/a//b", "a prefix is needed"),
        ("s3://bucket/a#b", "a prefix is needed"),
        ("s3://key:secret@bucket/x", "credentials belong in the environment"),
        ("ftp://host/x", "give a path, or the s3:// URI of a prefix"),
    ],
)
def test_a_place_that_cannot_hold_a_warehouse_is_refused(uri, message):
    with pytest.raises(ConfigError, match=message) as refused:
        Warehouse.at(uri)
    assert "secret" not in str(refused.value)


def test_a_slash_at_the_end_and_the_name_of_hadoop_lead_to_the_same_warehouse():
    assert Warehouse.at("s3a://bucket/x/").uri == "s3://bucket/x"


# Files


def stored(place):
    storage.write(f"{place}/a/one.json", b"1")
    storage.write(f"{place}/a/deep/two.json", b"22")
    storage.write(f"{place}/a/one.json", b"111")
    listed = [[each.path.removeprefix(place), each.n_bytes] for each in storage.files(f"{place}/a") if each.n_bytes]
    flat = [each.path.removeprefix(place) for each in storage.files(f"{place}/a", is_deep=False) if each.n_bytes]
    content = storage.read(f"{place}/a/one.json")
    storage.remove(f"{place}/a/one.json")
    storage.remove(f"{place}/a/one.json")
    try:
        storage.read(f"{place}/a/one.json")
    except FileNotFoundError:
        return listed, flat, content, storage.files(f"{place}/nothing")


@pytest.mark.usefixtures("reached")
def test_files_of_a_store_are_as_those_on_a_disk(tmp_path):
    wanted = [["/a/deep/two.json", 2], ["/a/one.json", 3]], ["/a/one.json"], b"111", []
    assert answer(stored, f"s3://{OTHER_BUCKET}/files") == wanted
    assert stored(str(tmp_path)) == wanted


# Models


def saved_and_loaded(place, manifest, split):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 2)), np.repeat(["a", "b"], 30)
    model = forest(X + (y == "b")[:, None], y, trees=5, depth=3)
    saved = bundle.save(place, model, manifest=manifest, split_table=split)
    found = bundle.find(place, recipe_id=manifest["recipe_id"])
    equal = np.array_equal(found.predict_proba(X), model.predict_proba(X))
    bundle.replace_split(f"{place}/{saved.model_id}", split.slice(1))
    again = bundle.load(f"{place}/{saved.model_id}")
    return saved.model_id, found.model_id, equal, again.split_table.num_rows, saved.is_copy


def spoiled(place, model_id):
    path = f"{place}/{model_id}/card.md"
    storage.write(path, storage.read(path) + b" ")
    bundle.load(f"{place}/{model_id}")


MANIFEST = {
    "kind": "forest", "feature_names": ["x", "z"], "recipe": {}, "recipe_id": "0123456789abcdef", "seed": 42,
    "parameters": {}, "split": {}, "metrics": {}, "reference": {}, "accepted": True,
}  # fmt: skip


@pytest.mark.usefixtures("reached")
def test_a_model_in_a_store_is_what_was_saved_and_a_changed_byte_is_refused():
    place = f"s3://{OTHER_BUCKET}/models"
    row = {"path": "p", "frame": 0, "patient_id": "x", "label": "a", "side": "train", "fold": None}
    split = pa.Table.from_pylist([row, row | {"path": "q", "label": "b"}], bundle.SPLIT)
    saved, found, is_equal, n_rows, is_copy = answer(saved_and_loaded, place, MANIFEST, split)
    assert (saved, is_equal, n_rows, is_copy) == (found, True, 1, True)
    kind, told = error(spoiled, place, saved)
    assert kind == "ContractError"
    assert "card.md: its sha256 is not the one in model.json" in told
    kind, told = error(bundle.find, place, recipe_id="0123456789abcdef", model_id="forest-none")
    assert told == f"no model forest-none in {place}; of recipe 0123456789abcdef there are: {saved}"
