import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from medspark.errors import ConfigError, ConflictError
from medspark.warehouse import Warehouse, new_run_id

SCHEMA = pa.schema({"path": pa.string(), "frame": pa.int32(), "mean": pa.float64()})
WIDER = SCHEMA.append(pa.field("std", pa.float64()))


@pytest.fixture
def warehouse(tmp_path):
    return Warehouse.at(str(tmp_path / "ware house 100% é#1"))


def stage(warehouse, run_id, *parts, schema=SCHEMA, name="features"):
    """Write files where a run puts them, as Spark does: a part is a list of paths."""
    directory = Path(warehouse.path(name, run_id))
    directory.mkdir(parents=True)
    for number, paths in enumerate(parts):
        rows = [dict.fromkeys(schema.names, number) | {"path": path, "frame": number} for path in paths]
        pq.write_table(pa.Table.from_pylist(rows, schema), directory / f"part-{number:05}.snappy.parquet")
    (directory / "_SUCCESS").touch()


def publish(warehouse, run_id, *parts, replaced=(), schema=SCHEMA):
    stage(warehouse, run_id, *parts, schema=schema)
    warehouse.publish("features", schema, run_id, replaced=replaced)


def paths(warehouse, name="features"):
    """Return what a table holds, as delta-rs reads it and as its log says, which must be the same."""
    table = Path(warehouse.path(name))
    read = DeltaTable(str(table)).to_pyarrow_table().column("path").to_pylist()
    assert sorted(read) == sorted(by_hand(table))
    return sorted(read)


def by_hand(table):
    """Read a Delta table by its protocol: the log is added up, the files that are left are read."""
    files = set()
    for commit in sorted((table / "_delta_log").glob("*.json")):
        for line in commit.read_text().splitlines():
            action = json.loads(line)
            if "add" in action:
                files.add(unquote(action["add"]["path"]))
            if "remove" in action:
                files.remove(unquote(action["remove"]["path"]))
    return [path for file in files for path in pq.read_table(table / file).column("path").to_pylist()]


def n_commits(warehouse):
    return len(list(Path(warehouse.path("features", "_delta_log")).glob("*.json")))


def test_before_the_first_commit_there_is_nothing(warehouse):
    assert warehouse.table("features") is None
    assert warehouse.files("features") == []
    assert warehouse.schema("features").names == []


def test_what_is_staged_is_invisible_until_it_is_published(warehouse):
    stage(warehouse, "run-1", ["a", "b"], ["c"])
    assert warehouse.table("features") is None
    warehouse.publish("features", SCHEMA, "run-1")
    assert paths(warehouse) == ["a", "b", "c"]
    stage(warehouse, "run-2", ["d"])
    assert paths(warehouse) == ["a", "b", "c"]
    assert len(warehouse.files("features")) == 2


def test_a_run_becomes_visible_in_one_commit(warehouse):
    publish(warehouse, "run-1", ["a"])
    before, n_before = warehouse.table("features"), n_commits(warehouse)
    publish(warehouse, "run-2", ["b"], ["c"], ["d"], replaced="all")
    assert n_commits(warehouse) == n_before + 1
    assert before.to_pyarrow_table().column("path").to_pylist() == ["a"]  # who reads the old version reads on
    assert paths(warehouse) == ["b", "c", "d"]


def test_publishing_a_run_again_changes_nothing(warehouse):
    publish(warehouse, "run-1", ["a"])
    publish(warehouse, "run-2", ["b"], replaced=warehouse.files("features"))
    for run_id in ("run-1", "run-2", "run-1"):
        warehouse.publish("features", SCHEMA, run_id, replaced="all")
    assert paths(warehouse) == ["b"]
    assert n_commits(warehouse) == 2


def test_replaced_files_leave_and_the_others_stay(warehouse):
    publish(warehouse, "run-1", ["a"], ["b"])
    (of_a,) = (file for file in warehouse.files("features") if "00000" in file)
    publish(warehouse, "run-2", ["a2"], replaced={of_a})
    assert paths(warehouse) == ["a2", "b"]
    assert Path(of_a).exists()  # readers of the old version still need it


def test_files_are_paths_that_can_be_opened(warehouse):
    publish(warehouse, "run-1", ["a"], ["b"])
    files = warehouse.files("features")
    assert sorted(path for file in files for path in pq.read_table(file).column("path").to_pylist()) == ["a", "b"]


def test_all_can_be_replaced_by_nothing(warehouse):
    publish(warehouse, "run-1", ["a"])
    publish(warehouse, "run-2", replaced="all")
    assert paths(warehouse) == []


def test_a_first_run_without_rows_makes_an_empty_table(warehouse):
    publish(warehouse, "run-1", [])
    assert paths(warehouse) == []
    assert warehouse.schema("features") == SCHEMA


def test_new_columns_are_added_and_old_rows_have_null_there(warehouse):
    publish(warehouse, "run-1", ["a"])
    publish(warehouse, "run-2", ["b"], schema=WIDER)
    publish(warehouse, "run-3", ["c"])  # of the narrow recipe again
    assert warehouse.schema("features").names == WIDER.names
    rows = DeltaTable(warehouse.path("features")).to_pyarrow_table().sort_by("path").to_pylist()
    assert [row["std"] for row in rows] == [None, 0.0, None]
    assert paths(warehouse) == ["a", "b", "c"]


def test_the_log_counts_the_rows(warehouse):
    publish(warehouse, "run-1", ["a", "b"], ["c"])
    actions = pa.table(warehouse.table("features").get_add_actions(flatten=True))
    assert sorted(actions.column("num_records").to_pylist()) == [1, 2]


def test_a_commit_says_which_run_made_it(warehouse):
    publish(warehouse, "run-1", ["a"])
    publish(warehouse, "run-2", ["b"])
    log = sorted(Path(warehouse.path("features", "_delta_log")).glob("*.json"))
    assert [json.loads(commit.read_text().splitlines()[0])["commitInfo"]["run_id"] for commit in log] == [
        "run-1",
        "run-2",
    ]


def test_rows_are_appended_to_the_table_of_runs(warehouse):
    for number in range(3):
        warehouse.append_row("runs", {"path": f"run-{number}", "frame": number}, SCHEMA)
    assert paths(warehouse, "runs") == ["run-0", "run-1", "run-2"]


def test_what_was_staged_and_is_not_wanted_is_discarded(warehouse):
    publish(warehouse, "run-1", ["a"])
    stage(warehouse, "run-2", ["b"])
    warehouse.discard("features", "run-2")
    assert not Path(warehouse.path("features", "run-2")).exists()
    assert paths(warehouse) == ["a"]


def test_files_that_nobody_published_do_no_harm_however_they_got_there(warehouse):
    stage(warehouse, "killed", ["x"])
    Path(warehouse.path("features", "killed", "part-00000.snappy.parquet")).write_bytes(b"half a file")
    publish(warehouse, "run-1", ["a"])
    assert paths(warehouse) == ["a"]


# Several at once


def test_publishers_in_threads_lose_nothing_even_when_they_begin_the_table(warehouse):
    runs = [f"run-{number:02}" for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda run_id: publish(warehouse, run_id, [f"{run_id}/a", f"{run_id}/b"]), runs))
    assert paths(warehouse) == sorted(f"{run_id}/{letter}" for run_id in runs for letter in "ab")


PUBLISHER = """
import sys
sys.path.insert(0, sys.argv[1])
from medspark.warehouse import Warehouse
from test_warehouse import publish
for number in range(5):
    publish(Warehouse(sys.argv[2]), f"{sys.argv[3]}-{number}", [f"{sys.argv[3]}-{number}"])
"""


def test_publishers_in_processes_lose_nothing(warehouse):
    names = ["one", "two"]
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", PUBLISHER, here, warehouse.uri]
    started = [subprocess.Popen([*command, name]) for name in names]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    assert paths(warehouse) == sorted(f"{name}-{number}" for name in names for number in range(5))


def test_the_same_run_published_twice_at_once_is_there_once(warehouse):
    publish(warehouse, "run-0", ["a"])
    stage(warehouse, "run-1", ["b"])
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: warehouse.publish("features", SCHEMA, "run-1"), range(2)))
    assert paths(warehouse) == ["a", "b"]


def test_of_two_runs_that_replace_all_at_once_no_row_is_doubled(warehouse):
    publish(warehouse, "run-0", ["a"], ["b"])
    for run_id in ("run-1", "run-2"):
        stage(warehouse, run_id, ["a", "b"])
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda run_id: warehouse.publish("features", SCHEMA, run_id, replaced="all"), ("run-1", "run-2")))
    assert paths(warehouse) == ["a", "b"]


def test_of_two_runs_that_rewrite_the_same_file_the_second_is_told_to_run_again(warehouse):
    publish(warehouse, "run-0", ["a", "b", "c"])
    touched = warehouse.files("features")
    publish(warehouse, "run-1", ["a1", "b", "c"], replaced=touched)
    stage(warehouse, "run-2", ["a", "b2", "c"])  # made from what was there before run-1
    with pytest.raises(ConflictError, match=r"another run has changed .*; run again"):
        warehouse.publish("features", SCHEMA, "run-2", replaced=touched)
    assert paths(warehouse) == ["a1", "b", "c"]


def test_new_columns_and_new_rows_at_once_are_all_kept(warehouse):
    publish(warehouse, "run-0", ["a"])
    runs = [(f"run-{number}", WIDER if number % 2 else SCHEMA) for number in range(1, 9)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda run: publish(warehouse, run[0], [run[0]], schema=run[1]), runs))
    assert paths(warehouse) == ["a", *(run_id for run_id, _ in runs)]
    assert warehouse.schema("features").names == WIDER.names


# Where it is, and who ran


@pytest.mark.parametrize("uri", ["a b", "./a b", "file:{here}/a%20b", "file://{here}/a%20b", "{here}/x/../a b/"])
def test_a_warehouse_is_at_an_absolute_path(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Warehouse.at(uri.format(here=tmp_path)).uri == str(tmp_path / "a b")


@pytest.mark.parametrize("name", ["a%20b", "x%41/y", "a\\b", "file:///a%2520b"])
def test_a_path_that_delta_rs_misreads_is_refused(name):
    with pytest.raises(ConfigError, match="delta-rs misreads a path with a backslash or an escape such as %20"):
        Warehouse.at(name)


def test_a_warehouse_that_is_missing_or_far_away_is_refused():
    with pytest.raises(ConfigError, match="give --warehouse"):
        Warehouse.at("")
    with pytest.raises(ConfigError, match="s3://bucket/x: file systems other than the local one"):
        Warehouse.at("s3://bucket/x")


def test_a_warehouse_can_be_moved(warehouse, tmp_path):
    publish(warehouse, "run-1", ["a"])
    shutil.move(warehouse.uri, tmp_path / "moved")
    moved = Warehouse.at(str(tmp_path / "moved"))
    publish(moved, "run-2", ["b"])
    assert paths(moved) == ["a", "b"]


def test_run_ids_sort_by_time_and_are_not_given_twice():
    moment = datetime(2026, 11, 9, 23, 30, tzinfo=timezone(timedelta(hours=2)))
    assert new_run_id("extract", moment).startswith("extract-20261109T213000Z-")
    ids = [new_run_id("index", datetime.fromtimestamp(second, UTC)) for second in (1, 999, 10**9, 2 * 10**9)]
    assert ids == sorted(ids)
    assert len({new_run_id("index", moment) for _ in range(100)}) == 100
    assert os.sep not in "".join(ids)
