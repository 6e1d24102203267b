import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from medspark.errors import ConfigError, ConflictError
from medspark.warehouse import Change, Part, Warehouse, chunk_id, new_run_id

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
        warehouse.append_rows("runs", [{"path": f"run-{number}", "frame": number}], SCHEMA)
    assert paths(warehouse, "runs") == ["run-0", "run-1", "run-2"]


def test_what_a_run_wrote_for_itself_is_discarded_and_nothing_else(warehouse):
    own, others = ["_plan/run-1", "_outcomes/run-1-00000", "_outcomes/run-1-00012"], ["_outcomes/run-10", "_plan/run-2"]
    for place in (*own, *others):
        stage(warehouse, place.split("/")[1], ["x"], name=place.split("/")[0])
    publish(warehouse, "run-1", ["a"])
    pending = Path(warehouse.path("_pending", "run-1-00003.json"))
    pending.parent.mkdir()
    pending.touch()
    warehouse.discard("run-1")
    assert [Path(warehouse.path(place)).exists() for place in (*own, *others)] == [False] * 3 + [True] * 2
    assert pending.exists()
    assert paths(warehouse) == ["a"]


def test_files_that_nobody_published_do_no_harm_however_they_got_there(warehouse):
    stage(warehouse, "killed", ["x"])
    Path(warehouse.path("features", "killed", "part-00000.snappy.parquet")).write_bytes(b"half a file")
    publish(warehouse, "run-1", ["a"])
    assert paths(warehouse) == ["a"]


# Several at once


def test_of_files_that_tasks_left_twice_only_the_parts_of_the_change_count(warehouse):
    stage(warehouse, "run-1", ["one"], ["two"], ["two"])
    parts = warehouse.parts("features", "run-1")
    assert [part.n_rows for part in parts] == [1, 1, 1]
    warehouse.publish_all("run-1", [Change("features", SCHEMA, parts=parts[:2])])
    assert paths(warehouse) == ["one", "two"]


def test_a_part_that_another_machine_wrote_on_its_own_disk_is_told(warehouse):
    stage(warehouse, "run-1", ["one"])
    elsewhere = Part(warehouse.path("features", "run-1", "part-00001.parquet"), 1, 1000)
    with pytest.raises(ConfigError, match="put it on a disk that all machines share"):
        warehouse.publish_all(
            "run-1", [Change("features", SCHEMA, parts=[*warehouse.parts("features", "run-1"), elsewhere])]
        )
    assert warehouse.table("features") is None


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


# Several tables in one step

NARROW = pa.schema({"path": pa.string(), "frame": pa.int32()})
BEFORE = {"features": ["a", "b"]}
AFTER = {"features": ["a", "b2"], "quarantine": ["c"]}


def stage_both(warehouse, chunk, features, quarantine):
    stage(warehouse, chunk, features, schema=WIDER)
    stage(warehouse, chunk, quarantine, schema=NARROW, name="quarantine")


def changes(warehouse, versions=None):
    """Return what puts staged rows in the place of all there are, if the tables still have these versions."""
    return [
        Change("features", WIDER, warehouse.files("features"), versions and versions["features"]),
        Change("quarantine", NARROW, warehouse.files("quarantine"), versions and versions["quarantine"]),
    ]


def tables(warehouse):
    return {name: paths(warehouse, name) for name in ("features", "quarantine") if warehouse.table(name)}


def pending(warehouse):
    return [path.name for path in Path(warehouse.path("_pending")).glob("*.json")]


def test_several_tables_are_published_together_and_once(warehouse):
    publish(warehouse, "run-1", ["a"])
    stage_both(warehouse, "run-2", ["a", "b"], ["c"])
    planned = changes(warehouse)
    for _ in range(2):
        warehouse.publish_all("run-2", planned)
        assert tables(warehouse) == {"features": ["a", "b"], "quarantine": ["c"]}
    assert warehouse.schema("features").names == WIDER.names
    assert pending(warehouse) == []


def test_a_table_in_which_nothing_changes_gets_no_version(warehouse):
    stage_both(warehouse, "run-1", ["a"], ["c"])
    warehouse.publish_all("run-1", changes(warehouse))
    stage_both(warehouse, "run-2", ["b"], [])
    warehouse.publish_all("run-2", [Change("quarantine", NARROW), Change("features", WIDER)])
    assert tables(warehouse) == {"features": ["a", "b"], "quarantine": ["c"]}
    assert [warehouse.version(name) for name in ("features", "quarantine")] == [1, 0]


KILLED = """
import importlib, os, shutil, signal, sys
from pathlib import Path
here, before, doing, *writers = sys.argv[1:]
sys.path.insert(0, here)
from test_warehouse import Warehouse
module, name = doing.split(":")
do = getattr(importlib.import_module(module), name)

def watched(place, at_step):
    steps = iter(range(100_000))
    def trace(frame, event, arg):
        if frame.f_code.co_name in writers and "medspark" in frame.f_code.co_filename:
            at_step(next(steps))
            return trace
    sys.settrace(trace)
    do(Warehouse(place))

def in_child(function, *arguments):
    child = os.fork()  # while delta-rs has no threads yet, which would be missing
    if not child:
        try:
            function(*arguments)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]

def note(place, writes):
    states = []
    sizes = lambda: sorted((path, os.lstat(path).st_size) for path in Path(place).rglob("*"))
    watched(place, lambda step: states.append(sizes()))
    changes = [step for step in range(1, len(states)) if states[step] != states[step - 1]]
    Path(writes).write_text(" ".join(map(str, [0, *changes])))

assert in_child(note, shutil.copytree(before, f"{before} whole"), f"{before} writes") == 0
for step in map(int, Path(f"{before} writes").read_text().split()):
    place = shutil.copytree(before, f"{before} killed {step:05} 100% #")
    die = lambda now: now == step and os.kill(os.getpid(), signal.SIGKILL)
    assert in_child(watched, place, die) == signal.SIGKILL
"""


def kill_everywhere(warehouse, doing, *writers):
    """Do something (MODULE:FUNCTION) in copies of a warehouse, kill it after each of its writes, and return them.

    A copy is killed where one of these functions of medspark has written or deleted something, and before the first.
    """
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", KILLED, here, warehouse.uri, doing, *writers], check=True, timeout=300)
    return [Warehouse(str(path)) for path in sorted(Path(warehouse.uri).parent.glob("* killed *"))]


def publish_run_2(warehouse):
    warehouse.publish_all("run-2-00000", changes(warehouse))


WRITERS = ("publish_all", "_roll_forward", "_commit", "_try_to_commit", "_begin", "write", "remove")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Warehouses whose run was killed for good, each after another write, in the order of the run."""
    warehouse = Warehouse.at(str(tmp_path_factory.mktemp("killed") / "before"))
    publish(warehouse, "run-1", ["a"], ["b"])  # of a narrower recipe; quarantine begins with the second run
    stage_both(warehouse, "run-2-00000", ["a", "b2"], ["c"])
    return kill_everywhere(warehouse, "test_warehouse:publish_run_2", *WRITERS)


@pytest.fixture
def half_done(killed, tmp_path):
    """Return a copy of the first warehouse that is in a state, such as killed between two commits."""

    def copy(**state):
        found = next(one for one in killed if tables(one) == state and pending(one))
        return Warehouse(shutil.copytree(found.uri, f"{tmp_path}/moved 100% #"))

    return copy


def in_order(states):
    return [state for number, state in enumerate(states) if state not in states[:number]]


def test_killed_anywhere_the_tables_are_all_of_before_or_all_of_after_for_the_next_who_holds_them(killed, tmp_path):
    found, recovered = [], []
    for number, place in enumerate(killed):
        warehouse = Warehouse(shutil.copytree(place.uri, f"{tmp_path}/{number} 100% #"))
        found.append(tables(warehouse))
        with warehouse.hold("test"):
            recovered.append(tables(warehouse))
        assert pending(warehouse) == []
    assert in_order(found) == [BEFORE, {"features": AFTER["features"]}, AFTER]
    assert in_order(recovered) == [BEFORE, AFTER]
    assert recovered.index(AFTER) < found.index({"features": AFTER["features"]})  # written down is as good as done
    assert len(killed) > 6  # the directory, the plan in three steps, a column, two commits, the end


def test_killed_anywhere_doing_it_again_gives_the_rows_of_a_run_that_was_not_killed(killed, tmp_path):
    for number, place in enumerate(killed):
        warehouse = Warehouse(shutil.copytree(place.uri, f"{tmp_path}/{number} 100% #"))
        with warehouse.hold("test"):
            stage_both(warehouse, "run-3-00000", ["a", "b2"], ["c"])
            warehouse.publish_all("run-3-00000", changes(warehouse))
        assert tables(warehouse) == AFTER


@pytest.mark.parametrize("state", [BEFORE, {"features": AFTER["features"]}, AFTER])
def test_what_is_pending_is_completed_once_wherever_the_warehouse_was_moved(half_done, state):
    warehouse = half_done(**state)
    assert warehouse.recover() == 1
    assert tables(warehouse) == AFTER
    assert warehouse.recover() == 0


def test_what_is_pending_and_was_overtaken_is_given_up(half_done):
    warehouse = half_done(**BEFORE)
    publish(warehouse, "run-3", ["a3", "b"], replaced=warehouse.files("features"))  # by one without a lock
    assert warehouse.recover() == 0
    assert tables(warehouse) == {"features": ["a3", "b"]}
    assert pending(warehouse) == []


def test_what_was_begun_is_completed_even_if_another_one_came_in_between(half_done):
    warehouse = half_done(features=AFTER["features"])
    publish(warehouse, "run-3", ["d"])
    assert warehouse.recover() == 1
    assert tables(warehouse) == {"features": ["a", "b2", "d"], "quarantine": ["c"]}


# Who came in between


def test_a_commit_of_another_run_since_the_plan_is_a_conflict_and_nothing_is_changed(warehouse):
    stage_both(warehouse, "run-1", ["a"], ["c"])
    warehouse.publish_all("run-1", changes(warehouse))
    planned = changes(warehouse, {name: warehouse.version(name) for name in ("features", "quarantine")})
    stage(warehouse, "run-2", ["d"], schema=NARROW, name="quarantine")
    warehouse.publish("quarantine", NARROW, "run-2")
    before = tables(warehouse)
    stage_both(warehouse, "run-3", ["a3"], ["c3"])
    with pytest.raises(ConflictError, match=r"another run has changed .*/quarantine in the meantime; run again"):
        warehouse.publish_all("run-3", planned)
    assert tables(warehouse) == before == {"features": ["a"], "quarantine": ["c", "d"]}
    assert pending(warehouse) == []


def test_commits_of_the_same_run_since_the_plan_are_none(warehouse):
    publish(warehouse, "run-1", ["a"])
    version = warehouse.version("features")
    for number, schema in enumerate((SCHEMA, WIDER, SCHEMA)):  # a new column is a commit of its own
        chunk = chunk_id("run-2", number)
        stage(warehouse, chunk, [f"b{number}"], schema=schema)
        warehouse.publish("features", schema, chunk, based_on=version)
    assert paths(warehouse) == ["a", "b0", "b1", "b2"]
    stage(warehouse, "run-3", ["c"])
    with pytest.raises(ConflictError):
        warehouse.publish("features", SCHEMA, "run-3", based_on=version)


def test_a_table_that_was_begun_since_the_plan_is_a_conflict(warehouse):
    assert warehouse.version("features") == -1
    publish(warehouse, "run-1", ["a"])
    assert warehouse.version("features") == 0
    stage(warehouse, "run-2", ["b"])
    with pytest.raises(ConflictError):
        warehouse.publish("features", SCHEMA, "run-2", based_on=-1)


def test_a_commit_of_another_tool_is_that_of_another_run(warehouse):
    publish(warehouse, "run-1", ["a"], ["b"])
    version = warehouse.version("features")
    DeltaTable(warehouse.path("features")).optimize.compact()
    stage(warehouse, "run-1-00001", ["c"])
    with pytest.raises(ConflictError):
        warehouse.publish("features", SCHEMA, "run-1-00001", based_on=version)


@dataclass(frozen=True)
class Overtaken(Warehouse):
    """Another run commits at the worst moment: after the last look at a table, and before the commit."""

    looks: list = field(default_factory=list)

    def _check(self, table, step, chunk):
        super()._check(table, step, chunk)
        self.looks.append(table.version())
        if len(self.looks) == 2:
            stage(self, "run-2", ["d"], schema=NARROW, name=step.name)
            Warehouse(self.uri).publish(step.name, NARROW, "run-2")


def test_a_commit_between_the_look_and_our_own_is_seen(warehouse):
    publish(warehouse, "run-1", ["a"])
    stage(warehouse, "run-3", ["c"])
    with pytest.raises(ConflictError):
        Overtaken(warehouse.uri).publish("features", SCHEMA, "run-3", based_on=warehouse.version("features"))
    assert paths(warehouse) == ["a", "d"]


def test_all_is_all_there_is_at_the_moment_of_the_commit(warehouse):
    publish(warehouse, "run-1", ["a"])
    stage(warehouse, "run-3", ["c"])
    Overtaken(warehouse.uri).publish("features", SCHEMA, "run-3", replaced="all")
    assert paths(warehouse) == ["c"]


class OvertakenHalfWay(Warehouse):
    """Another run commits to the second table after our commit to the first."""

    def _commit(self, step, chunk, *, is_certain):
        if step.name == "quarantine":
            stage(self, "run-2", ["d"], schema=NARROW, name=step.name)
            Warehouse(self.uri).publish(step.name, NARROW, "run-2")
        return super()._commit(step, chunk, is_certain=is_certain)


def test_what_is_begun_is_completed_even_if_another_run_comes_in_between(warehouse):
    stage_both(warehouse, "run-1", ["a"], ["c"])
    warehouse.publish_all("run-1", changes(warehouse))
    stage_both(warehouse, "run-3", ["a3"], ["c3"])
    versions = {name: warehouse.version(name) for name in ("features", "quarantine")}
    OvertakenHalfWay(warehouse.uri).publish_all("run-3", changes(warehouse, versions))
    assert tables(warehouse) == {"features": ["a3"], "quarantine": ["c3", "d"]}


COUNTER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from test_warehouse import ConflictError, SCHEMA, Warehouse, pq, stage
warehouse, name, way = Warehouse(sys.argv[2]), sys.argv[3], sys.argv[4]

def add_one(chunk, is_checked):
    version = warehouse.version("features")
    n_rows = pq.read_table(*warehouse.files("features")).num_rows
    stage(warehouse, chunk, [f"row {n:02}" for n in range(n_rows + 1)])
    warehouse.publish("features", SCHEMA, chunk, replaced="all", based_on=version if is_checked else None)

done = tried = 0
while done < 5:
    tried += 1
    try:
        if way == "lock":
            with warehouse.hold("count"):
                add_one(f"{name}-{tried}", False)
        else:
            add_one(f"{name}-{tried}", True)
        done += 1
    except ConflictError:
        time.sleep(0.01)
"""


@pytest.mark.parametrize("way", ["lock", "version"])
def test_of_two_that_read_and_then_write_all_the_while_no_step_is_lost(warehouse, way):
    publish(warehouse, "run-0", ["row 00"])
    script = [sys.executable, "-c", COUNTER, str(Path(__file__).parent), warehouse.uri]
    started = [subprocess.Popen([*script, name, way]) for name in ("one", "two")]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    assert paths(warehouse) == [f"row {n:02}" for n in range(11)]


# Who holds it

HOLDER = """
import subprocess, sys
from medspark.warehouse import Warehouse
with Warehouse(sys.argv[1]).hold("extract"):
    outlives = subprocess.Popen(["sleep", "60"], close_fds=False, stdout=subprocess.DEVNULL)
    print(outlives.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(warehouse):
    """Another process that holds the warehouse until its input ends, and has a child that lives longer."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, warehouse.uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child = int(process.stdout.readline())
    yield process
    os.kill(child, signal.SIGKILL)  # it was alive
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def is_held(warehouse):
    """Tell whether anybody has the lock, as another process sees it."""
    with Path(warehouse.path(".lock")).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_who_comes_second_is_told_who_holds_the_warehouse(warehouse, holder):
    told = rf"another run \(extract, process {holder.pid} on {re.escape(socket.gethostname())}, since .* UTC\) holds"
    with (
        pytest.raises(ConflictError, match=rf"{told} the warehouse .*; run again when it is done"),
        warehouse.hold("x"),
    ):
        pass
    holder.stdin.close()
    assert holder.wait(timeout=60) == 0
    with warehouse.hold("index") as is_alone:
        assert is_alone
        assert is_held(warehouse)


def test_a_killed_run_holds_nothing_though_its_children_live(warehouse, holder):
    holder.kill()
    holder.wait()
    with warehouse.hold("index"):
        assert "index, process" in Path(warehouse.path(".lock")).read_text()


def test_who_holds_it_may_hold_it_again(warehouse):
    with warehouse.hold("reprocess"):
        with warehouse.hold("index"), Warehouse(warehouse.uri).hold("extract"):
            pass
        assert is_held(warehouse)
    assert not is_held(warehouse)


def test_a_failure_ends_the_hold(warehouse):
    with pytest.raises(RuntimeError), warehouse.hold("extract"):
        raise RuntimeError
    assert not is_held(warehouse)


UNLOCKABLE = """
import errno, fcntl, sys
from medspark.warehouse import Warehouse
def refuse(*_):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = refuse
with Warehouse(sys.argv[1]).hold("extract") as is_alone:
    print(is_alone)
"""


def test_a_file_system_without_locks_is_no_reason_to_stop(warehouse):
    done = subprocess.run(
        [sys.executable, "-c", UNLOCKABLE, warehouse.uri], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


APPENDER = """
import sys
sys.path.insert(0, sys.argv[1])
from test_warehouse import SCHEMA, Warehouse
for number in range(8):
    Warehouse(sys.argv[2]).append_rows("runs", [{"path": f"{sys.argv[3]}-{number}"}], SCHEMA)
"""


def test_rows_appended_by_several_processes_that_begin_the_table_are_all_there(warehouse):
    names = ["one", "three", "two"]
    script = [sys.executable, "-c", APPENDER, str(Path(__file__).parent), warehouse.uri]
    started = [subprocess.Popen([*script, name]) for name in names]
    assert [process.wait(timeout=120) for process in started] == [0, 0, 0]
    assert paths(warehouse, "runs") == [f"{name}-{number}" for name in names for number in range(8)]


# A full disk

FULL = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from test_warehouse import SCHEMA, Warehouse, changes
warehouse = Warehouse(sys.argv[2])
planned = changes(warehouse)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
ways = [
    lambda: warehouse.publish("features", SCHEMA, "run-2"),
    lambda: warehouse.publish_all("run-2", planned),
    lambda: warehouse.append_rows("features", [{"path": "x"}], SCHEMA),
]
for way in ways:
    try:
        way()
    except OSError as error:
        print(error)
"""


@pytest.mark.parametrize("n_bytes", [0, 100])
def test_a_disk_that_takes_no_more_leaves_the_tables_as_they_were(warehouse, n_bytes):
    publish(warehouse, "run-1", ["a"])
    stage_both(warehouse, "run-2", ["b"], ["c"])
    script = [sys.executable, "-c", FULL, str(Path(__file__).parent), warehouse.uri, str(n_bytes)]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    told = done.stdout.splitlines()
    assert told[0] == f"[Errno 27] File too large: '{warehouse.path('features')}'"
    assert len(told) == 3
    assert all("File too large" in line for line in told)
    assert tables(warehouse) == {"features": ["a"]}
    assert pending(warehouse) == []
    with warehouse.hold("test"):
        warehouse.publish_all("run-2", changes(warehouse))
    assert tables(warehouse) == {"features": ["b"], "quarantine": ["c"]}


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
    with pytest.raises(ConfigError, match="ftp://host/x: give a path, or the s3:// URI of a prefix"):
        Warehouse.at("ftp://host/x")


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
