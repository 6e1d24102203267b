"""Upkeep of a warehouse on a real S3 server, in another process: who has used a store must not fork."""

import shutil
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import pytest
from store import BUCKET, serving
from test_upkeep import (
    HIS,
    OTHER,
    frame,
    image,
    make_hospital,
    night,
    put,
    removed_hours_ago,
    rows_of,
    summed,
    table_rows,
    traces,
    without,
    write,
)
from test_warehouse import publish, stage

from medspark.errors import ConfigError, ConflictError
from medspark.upkeep import FEWEST, Forgotten, Merged, _merge, forget, merge, vacuum
from medspark.warehouse import Warehouse


@contextmanager
def process(store, *user):
    """Let functions run in a process that reaches the store; it is no fork: this one has used delta-rs."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment(*user).items():
            patch.setenv(name, value)
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            yield lambda function, *args, **options: pool.submit(function, *args, **options).result(timeout=120)


@pytest.fixture(scope="module")
def store(tmp_path_factory, deploy):
    with serving(tmp_path_factory.mktemp("s3"), deploy) as store:
        yield store


@pytest.fixture(scope="module")
def away(store):
    """Call a function, and return what it returns or raise what it raises, in a process that reaches the store."""
    with process(store) as call:
        yield call


@pytest.fixture
def here(tmp_path):
    """A warehouse on the disk, to be sent."""
    return Warehouse.at(str(tmp_path / "here"))


def sent(warehouse, store, prefix):
    """Return a warehouse in the store that has the files of one on a disk."""
    files = [path for path in Path(warehouse.uri).rglob("*") if path.is_file() and path.name != ".lock"]
    store.put({f"{prefix}/{path.relative_to(warehouse.uri)}": path.read_bytes() for path in files})
    return Warehouse.at(f"s3://{BUCKET}/{prefix}")


def keys(warehouse, store):
    """Return the names of all objects of a warehouse, without the marks of directories, which pyarrow makes."""
    prefix = f"{warehouse.uri.removeprefix(f's3://{BUCKET}/')}/"
    pages = store.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    found = (each["Key"].removeprefix(prefix) for page in pages for each in page.get("Contents", []))
    return {key for key in found if not key.endswith("/")}


def fetched(warehouse, store, directory):
    """Return a copy on the disk of a warehouse in the store."""
    prefix = warehouse.uri.removeprefix(f"s3://{BUCKET}/")
    for key in keys(warehouse, store):
        path = Path(directory, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.client.get_object(Bucket=BUCKET, Key=f"{prefix}/{key}")["Body"].read())
    return Warehouse(str(directory))


def in_two_days():
    return datetime.now(UTC) + timedelta(days=2)


# Vacuum


def test_what_a_killed_run_left_is_removed_when_it_is_a_day_old_and_nothing_that_is_in_use(here, store, away):
    publish(here, "run-1", ["a"])
    write(here, "recipes", "0123456789abcdef.json")
    write(here, "reports", "report-1", "index.html")
    write(here, "models", "forest-1", "model.json")
    write(here, "models", "forest-1", "split.parquet")
    write(here, "notes.txt")
    kept = keys(sent(here, store, "kept"), store) - {"features/run-1/_SUCCESS"}
    stage(here, "run-2", ["b"])
    write(here, "predictions", "run-2", "part-00000.parquet")  # not even begun
    write(here, "_outcomes", "run-2-00000", "part-00000.parquet", content=b"123")
    write(here, "models", "forest-2", "split.parquet", content=b"1")  # its model.json would have come last
    warehouse = sent(here, store, "killed")
    before = keys(warehouse, store)
    assert away(vacuum, warehouse) == []
    told = away(vacuum, warehouse, now=in_two_days(), dry_run=True)
    assert keys(warehouse, store) == before
    assert away(vacuum, warehouse, now=in_two_days()) == told
    n_bytes = sum(file.stat().st_size for file in Path(here.path("features", "run-2")).iterdir())
    expected = {"features": (2, n_bytes), "predictions": (1, 5), "_outcomes": (1, 3), "models": (1, 1)}
    assert summed(told) == expected
    assert keys(warehouse, store) == kept | {"features/run-1/_SUCCESS"}


def test_files_leave_when_their_table_has_not_used_them_for_as_long_as_the_retention(here, store, away, tmp_path):
    publish(here, "run-1", ["a"])
    publish(here, "run-2", ["b"], replaced="all")
    removed_hours_ago(here, 30)
    warehouse = sent(here, store, "left")
    assert away(vacuum, warehouse, now=in_two_days(), retention_hours=80) == []
    (told,) = away(vacuum, warehouse, now=in_two_days(), retention_hours=77)
    assert told.n_files == 2
    assert not any(key.startswith("features/run-1") for key in keys(warehouse, store))
    assert table_rows(fetched(warehouse, store, tmp_path / "there").table("features")) == table_rows(
        here.table("features")
    )


def test_what_is_pending_is_kept(here, store, away):
    publish(here, "run-1", ["a"])
    stage(here, "run-2", ["b"])
    plan = '[{"name": "features", "schema": %s, "added": [{"path": "run-2/part-00000.snappy.parquet", "size": 1, '
    plan += '"partition_values": {}, "modification_time": 0, "data_change": true, "stats": "{}"}], "replaced": []}]'
    schema = here.table("features").schema().to_json()
    write(here, "_pending", "run-2.json", content=(plan % schema).encode())
    warehouse = sent(here, store, "pending")
    assert away(vacuum, warehouse, now=in_two_days(), retention_hours=0) == []
    assert {"_pending/run-2.json", "features/run-2/part-00000.snappy.parquet"} <= keys(warehouse, store)


@pytest.mark.parametrize("upkeep", [vacuum, merge, forget])
def test_a_place_that_is_no_warehouse_is_left_alone(store, away, upkeep):
    store.put({"letters/_drafts/letter.txt": b"dear", "letters/images/x.png": b""})
    warehouse = Warehouse.at(f"s3://{BUCKET}/letters")
    options = (HIS,) if upkeep is forget else ()
    with pytest.raises(ConfigError, match="is no warehouse: none of the tables is there"):
        away(upkeep, warehouse, *options)
    assert keys(warehouse, store) == {"_drafts/letter.txt", "images/x.png"}


# Merge


def test_small_files_are_merged_and_who_reads_them_reads_on(here, store, away, tmp_path):
    night(here, "run-1", FEWEST)
    before = table_rows(here.table("features"))
    warehouse = sent(here, store, "merge")
    n_bytes = sum(Path(file).stat().st_size for file in here.files("features"))
    assert away(merge, warehouse, dry_run=True) == away(merge, warehouse) == [Merged("features", FEWEST, n_bytes)]
    there = fetched(warehouse, store, tmp_path / "there")
    assert len(there.files("features")) == 1
    assert table_rows(there.table("features")) == before
    old = there.table("features")
    old.load_as_version(0)
    assert table_rows(old) == before
    assert away(merge, warehouse) == []
    assert away(vacuum, warehouse, now=in_two_days()) == []
    assert away(vacuum, warehouse, now=in_two_days(), retention_hours=0)[0].n_files == FEWEST
    assert table_rows(fetched(warehouse, store, tmp_path / "later").table("features")) == before


def test_a_run_at_work_keeps_what_it_has_added_and_the_merge_gives_up(here, store, away):
    night(here, "run-1", FEWEST)
    warehouse = sent(here, store, "overtaken")
    files = [warehouse.path(file.removeprefix(f"{here.uri}/")) for file in here.files("features")]
    away(warehouse.append_rows, "features", [{"path": "/new"}], here.schema("features"))
    with pytest.raises(ConflictError, match=r"another run has changed .*features in the meantime"):
        away(_merge, warehouse, "features", files, 0, "vacuum-1")
    after = away(warehouse.files, "features")
    assert set(files) < set(after)
    assert len(after) == FEWEST + 1


# Forget


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    return make_hospital(tmp_path_factory.mktemp("hospital"))


def test_a_patient_is_gone_from_every_byte_and_all_others_stay_as_on_a_disk(hospital, store, away, tmp_path):
    here = Warehouse(shutil.copytree(hospital.uri, f"{tmp_path}/here"))
    warehouse = sent(here, store, "forget")
    before = rows_of(here)
    told = forget(here, HIS)
    assert away(forget, warehouse, HIS, dry_run=True) == told
    assert away(forget, warehouse, HIS) == told
    there = fetched(warehouse, store, tmp_path / "there")
    assert traces(there, HIS, "hisfile") == set()
    assert rows_of(there) == rows_of(here) == without(before, HIS)
    assert not [key for key in keys(warehouse, store) if key.startswith(("_forget/", "reports/"))]
    with pytest.raises(ConfigError, match=r"--patient: nothing in .* knows it"):
        away(forget, warehouse, HIS)


def test_half_way_it_is_completed_by_doing_it_again(hospital, store, away, tmp_path):
    here = Warehouse(shutil.copytree(hospital.uri, f"{tmp_path}/here"))
    put(here, "predictions", [frame("/hisfile of yesterday")], "run-6")
    write(here, "_forget", f"{HIS}.json", content=b'["/hisfile of yesterday"]')
    warehouse = sent(here, store, "again")
    told = away(forget, warehouse, HIS)
    assert isinstance(told, Forgotten)
    there = fetched(warehouse, store, tmp_path / "there")
    assert traces(there, HIS, "hisfile") == set()
    assert rows_of(there) == without(rows_of(here), HIS)


def test_objects_of_the_archive_that_bring_him_back_are_named(here, store, away):
    store.put({"wards/one.dcm": b"1", "wards/two.zip": b"2"})
    names = ["wards/one.dcm", "wards/gone.dcm", "wards/two.zip!/inner.dcm", "wards/gone.zip!/inner.dcm"]
    found = [f"s3://{BUCKET}/{name}" for name in names]
    put(here, "images", [image(path, HIS) for path in found] + [image("/o", OTHER)], "run-1")
    told = away(forget, here, HIS)
    assert told.n_paths == 4
    assert sorted(told.present) == [found[0], found[2]]


def test_a_store_that_refuses_a_file_stops_it_before_anything_is_changed(here, tmp_path_factory, deploy):
    put(here, "features", [frame("/hisfile", HIS), frame("/o", OTHER)], "run-1")
    put(here, "features", [frame("/hisfile", HIS)], "run-2", is_published=False)
    with serving(tmp_path_factory.mktemp("own"), deploy) as own:
        warehouse = sent(here, own, "closed")
        before = keys(warehouse, own)
        user = own.allow("clerk", but="closed/features/run-2/part-00000.zstd.parquet")
        with process(own, *user) as call, pytest.raises(OSError, match="access denied"):
            call(forget, warehouse, HIS)
        assert keys(warehouse, own) == before
