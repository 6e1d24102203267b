import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from line import listing
from test_bundle import MODEL, make_manifest
from test_warehouse import HOLDER, SCHEMA, kill_everywhere, paths, publish, stage

from medspark import bundle
from medspark.errors import ConfigError, ConflictError, ContractError
from medspark.privacy.pseudonym import pseudonym
from medspark.spark import tables
from medspark.upkeep import FEWEST, MERGED_BYTES, SMALL_BYTES, Merged, _merge, forget, merge, vacuum
from medspark.warehouse import Warehouse


@pytest.fixture
def warehouse(tmp_path):
    return Warehouse.at(str(tmp_path / "ware house 100% é#1"))


def write(warehouse, *parts, content=b"12345", days_old=0):
    """Write a file that no table knows, and return its path."""
    file = Path(warehouse.path(*parts))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    age(file, days_old)
    return file


def age(path, days):
    then = datetime.now(UTC).timestamp() - days * 86400
    os.utime(path, (then, then))


def removed_hours_ago(warehouse, hours):
    """Let the newest version of the features be of so long ago."""
    (*_, newest) = sorted(Path(warehouse.path("features", "_delta_log")).glob("*.json"))
    actions = [json.loads(line) for line in newest.read_text().splitlines()]
    for action in actions:
        if "remove" in action:
            action["remove"]["deletionTimestamp"] -= hours * 3_600_000
    newest.write_text("\n".join(json.dumps(action) for action in actions))


def summed(removed):
    return {one.directory: (one.n_files, one.n_bytes) for one in removed}


# Vacuum


def test_what_a_killed_run_left_is_removed_and_counted(warehouse):
    publish(warehouse, "run-1", ["a"])
    before = listing(warehouse.uri)
    left = {
        "features": [
            write(warehouse, "features", "run-2", "part-00000.zstd.parquet", content=b"half a file"),
            write(warehouse, "features", "run-2", ".part-00000.zstd.parquet.crc"),
            write(warehouse, "features", "run-3", "_temporary", "0", "task_1", "part-00000.zstd.parquet"),
        ],
        "predictions": [write(warehouse, "predictions", "run-2", "_SUCCESS", content=b"")],  # not even begun
        "_outcomes": [write(warehouse, "_outcomes", "run-2-00000", "part-00000.parquet")],
        "_plan": [write(warehouse, "_plan", "run-2", "part-00000.parquet", content=b"1")],
    }
    Path(warehouse.path("features", "run-4", "_temporary", "0")).mkdir(parents=True)
    expected = {name: (len(files), sum(file.stat().st_size for file in files)) for name, files in left.items()}
    assert summed(vacuum(warehouse)) == expected
    after = listing(warehouse.uri)
    del after[warehouse.path(".lock")]
    assert after == before
    assert {path.name for path in Path(warehouse.uri).iterdir()} == {".lock", "features"}
    assert {path.name for path in Path(warehouse.path("features")).iterdir()} == {"_delta_log", "run-1"}
    assert vacuum(warehouse) == []


def test_files_leave_when_their_table_has_not_used_them_for_as_long_as_the_retention(warehouse):
    publish(warehouse, "run-1", ["a"], ["b"])
    publish(warehouse, "run-2", ["a2"], replaced=warehouse.files("features"))
    removed_hours_ago(warehouse, 30)
    publish(warehouse, "run-3", ["a3"], replaced=warehouse.files("features"))
    assert vacuum(warehouse) == []
    assert vacuum(warehouse, retention_hours=31) == []
    sizes = [file.stat().st_size for file in Path(warehouse.path("features", "run-1")).iterdir()]
    assert summed(vacuum(warehouse, retention_hours=29)) == {"features": (3, sum(sizes))}  # two parts and _SUCCESS
    assert summed(vacuum(warehouse, retention_hours=0))["features"][0] == 2
    assert [path.name for path in Path(warehouse.path("features")).glob("run-*")] == ["run-3"]
    assert paths(warehouse) == ["a3"]


def test_who_reads_an_old_version_reads_on_within_the_retention(warehouse):
    publish(warehouse, "run-1", ["a"])
    old = warehouse.table("features")
    publish(warehouse, "run-2", ["b"], replaced="all")
    vacuum(warehouse)
    assert old.to_pyarrow_table().column("path").to_pylist() == ["a"]
    vacuum(warehouse, retention_hours=0)
    with pytest.raises(FileNotFoundError):
        old.to_pyarrow_table()
    assert paths(warehouse) == ["b"]


def test_what_left_is_known_from_a_checkpoint_too(warehouse):
    publish(warehouse, "run-1", ["a"])
    publish(warehouse, "run-2", ["b"], replaced="all")
    warehouse.table("features").create_checkpoint()
    for version in (0, 1):
        Path(warehouse.path("features", "_delta_log", f"{version:020}.json")).unlink()
    assert vacuum(warehouse) == []
    assert [one.n_files for one in vacuum(warehouse, retention_hours=0)] == [2]
    assert DeltaTable(warehouse.path("features")).to_pyarrow_table().column("path").to_pylist() == ["b"]


def test_a_part_of_a_run_that_was_replaced_leaves_and_the_others_stay(warehouse):
    publish(warehouse, "run-1", ["a"], ["b"])
    (of_a,) = (file for file in warehouse.files("features") if "00000" in file)
    crc = write(warehouse, "features", "run-1", f".{Path(of_a).name}.crc")
    publish(warehouse, "run-2", ["a2"], replaced={of_a})
    vacuum(warehouse, retention_hours=0)
    assert not crc.exists()
    there = {path.name for path in Path(warehouse.path("features", "run-1")).iterdir()}
    assert there == {"_SUCCESS", "part-00001.snappy.parquet"}
    assert paths(warehouse) == ["a2", "b"]


def test_a_dry_run_tells_the_same_and_removes_nothing(warehouse):
    publish(warehouse, "run-1", ["a"])
    publish(warehouse, "run-2", ["b"], replaced="all")
    stage(warehouse, "run-3", ["c"])
    write(warehouse, "_outcomes", "run-3", "part")
    with warehouse.hold("test"):  # makes .lock
        pass
    before = listing(warehouse.uri)
    told = vacuum(warehouse, retention_hours=0, dry_run=True)
    after = listing(warehouse.uri)
    del before[warehouse.path(".lock")], after[warehouse.path(".lock")]
    assert after == before
    assert vacuum(warehouse, retention_hours=0) == told
    assert [str(one).split(",")[0] for one in told] == ["features: 4 files", "_outcomes: 1 files"]


def test_drafts_and_single_files_leave_when_they_are_a_day_old(warehouse):
    publish(warehouse, "run-1", ["a"])
    places = [
        ("recipes", "0123456789abcdef.3f2a1b"),
        ("models", ".0123.partial", "arrays", "value.npy"),
        ("models", "forest-1", "split.3f2a1b"),
        ("_pending", "run-2.3f2a1b"),
        ("features", "row-0123.parquet"),  # of a job that writes without the lock
        ("features", "_delta_log", "00000000000000000001.json#1"),
    ]
    files = [write(warehouse, *place) for place in places]
    kept = [
        write(warehouse, "recipes", "0123456789abcdef.json", days_old=9),
        write(warehouse, "models", "forest-1", "model.json", days_old=9),
        write(warehouse, "reports", "run-1", "index.html", days_old=9),
        write(warehouse, "notes.txt", days_old=9),
    ]
    assert vacuum(warehouse, retention_hours=0) == []
    for file in files:
        age(file, 2)
    age(Path(warehouse.path("models", ".0123.partial")), 2)
    assert sum(one.n_files for one in vacuum(warehouse)) == len(places)
    assert not any(file.exists() for file in files)
    assert not Path(warehouse.path("models", ".0123.partial")).exists()
    assert all(file.exists() for file in kept)
    assert paths(warehouse) == ["a"]


WITHOUT_LOCKS = """
import errno, fcntl, sys
from medspark.upkeep import vacuum
from medspark.warehouse import Warehouse
def refuse(*_):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = refuse
vacuum(Warehouse(sys.argv[1]), retention_hours=0)
"""


def test_where_there_are_no_locks_the_files_of_today_may_be_those_of_a_run_that_lives(warehouse):
    publish(warehouse, "run-1", ["a"])
    young = [write(warehouse, *place, "part.parquet") for place in (("features", "run-2"), ("_outcomes", "run-2"))]
    old = [
        write(warehouse, *place, "part.parquet", days_old=2) for place in (("features", "run-3"), ("_plan", "run-3"))
    ]
    hollow = Path(warehouse.path("features", "run-2", "_temporary"))
    hollow.mkdir()
    subprocess.run([sys.executable, "-c", WITHOUT_LOCKS, warehouse.uri], check=True)
    assert all(path.exists() for path in (*young, hollow))
    assert not any(path.exists() for path in old)
    assert paths(warehouse) == ["a"]


DIES = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_warehouse import Warehouse, changes, stage_both
warehouse = Warehouse(sys.argv[2])
stage_both(warehouse, "run-2", ["a2"], ["c"])
planned = changes(warehouse)
Warehouse._roll_forward = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
warehouse.publish_all("run-2", planned)
"""


def test_what_is_pending_is_kept_and_can_be_completed(warehouse):
    publish(warehouse, "run-1", ["a"])
    subprocess.run([sys.executable, "-c", DIES, str(Path(__file__).parent), warehouse.uri], check=False)
    vacuum(warehouse, retention_hours=0)
    assert paths(warehouse) == ["a"]
    with warehouse.hold("test"):
        assert (paths(warehouse), paths(warehouse, "quarantine")) == (["a2"], ["c"])
    vacuum(warehouse, retention_hours=0)
    assert (paths(warehouse), paths(warehouse, "quarantine")) == (["a2"], ["c"])


FULL_DISK = """
import resource, sys
from medspark.upkeep import vacuum
from medspark.warehouse import Warehouse
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
print(*vacuum(Warehouse(sys.argv[1])))
"""


def test_a_full_disk_does_not_keep_it_from_making_room(warehouse):
    publish(warehouse, "run-1", ["a"])
    write(warehouse, "_outcomes", "run-2", "part")
    subprocess.run([sys.executable, "-c", DIES, str(Path(__file__).parent), warehouse.uri], check=False)
    script = [sys.executable, "-c", FULL_DISK, warehouse.uri]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("_outcomes: 1 files, 5 bytes\n", "")


@contextlib.contextmanager
def held(warehouse):
    """Let another process hold the warehouse."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDER, warehouse.uri], **pipes) as process:
        child = int(process.stdout.readline())
        yield
        os.kill(child, 9)
        process.stdin.close()


@pytest.mark.parametrize("upkeep", [vacuum, lambda warehouse: forget(warehouse, "0" * 64)])
def test_while_a_run_is_at_work_nothing_is_removed(warehouse, upkeep):
    publish(warehouse, "run-1", ["a"])
    file = write(warehouse, "_outcomes", "run-2", "part")
    with held(warehouse), pytest.raises(ConflictError, match=r"another run \(extract, process \d+ on .*\) holds"):
        upkeep(warehouse)
    assert file.exists()


@pytest.mark.parametrize("upkeep", [vacuum, lambda warehouse: forget(warehouse, "0" * 64)])
def test_a_place_that_is_no_warehouse_is_left_alone(tmp_path, upkeep):
    file = tmp_path / "_drafts" / "letter.txt"
    file.parent.mkdir()
    file.touch()
    with pytest.raises(ConfigError, match="is no warehouse: none of the tables is there; check --warehouse"):
        upkeep(Warehouse(str(tmp_path)))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


def test_a_retention_below_zero_is_refused(warehouse):
    with pytest.raises(ConfigError, match="--retention-hours -1: must be 0 or more"):
        vacuum(warehouse, retention_hours=-1)


OPERATIONS = st.sampled_from(
    ["append", "replace one", "replace all", "stage", "row", "optimise", "vacuum", "vacuum all"]
)


@given(operations=st.lists(OPERATIONS, min_size=2, max_size=12))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happened_no_file_that_a_table_uses_is_touched(tmp_path_factory, operations):
    warehouse = Warehouse.at(str(tmp_path_factory.mktemp("life") / "ware house 100% é#1"))
    publish(warehouse, "run-0", ["0"])
    rows = ["0"]
    for number, operation in enumerate(operations):
        run_id, new = f"run-{1 + number}", f"{1 + number}"
        if operation == "append":
            publish(warehouse, run_id, [new])
            rows = [*rows, new]
        elif operation == "replace one":
            first = warehouse.files("features")[0]
            rest = pq.read_table(first, partitioning=None).column("path").to_pylist()
            publish(warehouse, run_id, [new], replaced=[first])
            rows = [*(row for row in rows if row not in rest), new]
        elif operation == "replace all":
            publish(warehouse, run_id, [new], replaced="all")
            rows = [new]
        elif operation == "stage":
            stage(warehouse, run_id, [new])
        elif operation == "row":
            warehouse.append_rows("features", [{"path": new}], SCHEMA)
            rows = [*rows, new]
        elif operation == "optimise":
            DeltaTable(warehouse.path("features")).optimize.compact()
        else:
            vacuum(warehouse, retention_hours=0 if operation == "vacuum all" else 168)
        assert paths(warehouse) == sorted(rows)


# Merge

NUMBERS = tables.arrow(tables.features([f"f{number}" for number in range(3)]))
NIGHT = datetime(2026, 3, 29, 1, 30, 0, 123456, UTC)


def measured(name, number):
    """Return a row with something in every kind of column, and nothing where there may be nothing."""
    odd = {"modified_at": NIGHT, "flags": ["mosaic", "é"], "fingerprint": b"\x00\xff", "image_position_mm": [0.1, None]}
    return {"path": f"/{name}", "frame": number, "f0": float("nan"), "f1": -0.0, **(odd if number % 2 else {})}


def night(warehouse, run_id, n_files, *, schema=NUMBERS, n_rows=3, name="features"):
    """Publish files as the tasks of a night do."""
    directory = Path(warehouse.path(name, run_id))
    directory.mkdir(parents=True)
    for number in range(n_files):
        rows = [measured(f"{run_id} {number}", frame) for frame in range(n_rows)]
        rows = [{key: value for key, value in row.items() if key in schema.names} for row in rows]
        pq.write_table(pa.Table.from_pylist(rows, schema), directory / f"part-{number:05}-0a1b2c3d.parquet")
    warehouse.publish(name, schema, run_id)


def table_rows(table):
    """Return a table as text, sorted, by which nan, null and the sign of zero differ."""
    found = table.to_pyarrow_table()
    return found.schema, sorted(map(str, found.to_pylist()))


def sizes_of(warehouse, name="features"):
    return [Path(file).stat().st_size for file in warehouse.files(name)]


def test_small_files_are_merged_and_the_rows_with_their_types_stay(warehouse):
    narrow = pa.schema([field for field in NUMBERS if field.name not in ("f2", "flags")])
    night(warehouse, "run-1", 5, schema=narrow)
    night(warehouse, "run-2", 5)
    before, n_bytes = table_rows(warehouse.table("features")), sum(sizes_of(warehouse))
    assert merge(warehouse) == [Merged("features", 10, n_bytes)]
    (file,) = warehouse.files("features")
    assert table_rows(warehouse.table("features")) == before
    assert len(before[1]) == 30
    assert pq.read_schema(file).remove_metadata() == warehouse.schema("features")
    assert {pq.read_metadata(file).row_group(0).column(n).compression for n in range(3)} == {"SNAPPY"}
    assert merge(warehouse) == []


def test_the_log_counts_merged_rows_and_says_nothing_else_of_them(warehouse):
    night(warehouse, "run-1", FEWEST)
    merge(warehouse)
    (*_, newest) = sorted(Path(warehouse.path("features", "_delta_log")).glob("*.json"))
    actions = [json.loads(line) for line in newest.read_text().splitlines()]
    (added,) = (action["add"] for action in actions if "add" in action)
    assert json.loads(added["stats"]) == {"numRecords": 3 * FEWEST}
    assert sum("remove" in action for action in actions) == FEWEST


def test_who_reads_the_small_files_reads_on_until_the_retention_has_passed(warehouse):
    night(warehouse, "run-1", FEWEST)
    old = warehouse.table("features")
    before = table_rows(old)
    merge(warehouse)
    assert vacuum(warehouse) == []
    assert table_rows(old) == before
    removed_hours_ago(warehouse, 169)
    assert [one.n_files for one in vacuum(warehouse)] == [FEWEST]
    with pytest.raises(FileNotFoundError):
        old.to_pyarrow_table()
    assert table_rows(warehouse.table("features")) == before


def test_few_small_files_are_left_alone(warehouse):
    night(warehouse, "run-1", FEWEST - 1)
    before = warehouse.files("features")
    assert merge(warehouse) == []
    assert warehouse.files("features") == before


def test_other_tables_and_large_files_are_left_alone(warehouse):
    rng = np.random.default_rng(1)
    large = pa.table({"path": [rng.bytes(SMALL_BYTES).hex()], "frame": pa.array([7], pa.int32())})
    directory = Path(warehouse.path("features", "run-0"))
    directory.mkdir(parents=True)
    pq.write_table(large, directory / "part-00000.parquet", compression="none")
    warehouse.publish("features", large.schema, "run-0")
    night(warehouse, "run-1", FEWEST)
    night(warehouse, "run-1", FEWEST, name="runs")
    (kept,) = (file for file in warehouse.files("features") if "run-0" in file)
    assert [one.table for one in merge(warehouse)] == ["features"]
    assert kept in warehouse.files("features")
    assert len(warehouse.files("features")) == 2
    assert len(warehouse.files("runs")) == FEWEST


def test_a_merged_file_is_not_much_larger_than_it_should_be_and_the_rest_goes_into_another(warehouse):
    rng = np.random.default_rng(1)
    schema = pa.schema([("path", pa.string()), ("frame", pa.int32()), ("noise", pa.float64())])
    directory = Path(warehouse.path("features", "run-1"))
    directory.mkdir(parents=True)
    for number in range(20):
        noise = pa.table({"path": ["/x"] * 600_000, "frame": [number] * 600_000, "noise": rng.random(600_000)}, schema)
        pq.write_table(noise, directory / f"part-{number:05}.parquet", use_dictionary=["path"])
    warehouse.publish("features", schema, "run-1")
    before = pa.concat_tables(map(pq.read_table, sorted(warehouse.files("features"))))
    assert all(size < SMALL_BYTES for size in sizes_of(warehouse))
    merge(warehouse)
    sizes = sizes_of(warehouse)
    assert len(sizes) == 2
    assert MERGED_BYTES <= max(sizes) < 1.5 * MERGED_BYTES
    assert pa.concat_tables(map(pq.read_table, sorted(warehouse.files("features")))).equals(before)
    assert merge(warehouse) == []


def test_a_dry_run_of_merge_tells_the_same_and_changes_nothing(warehouse):
    night(warehouse, "run-1", FEWEST)
    with warehouse.hold("test"):
        pass
    before = listing(warehouse.uri)
    told = merge(warehouse, dry_run=True)
    after = listing(warehouse.uri)
    del before[warehouse.path(".lock")], after[warehouse.path(".lock")]
    assert after == before
    assert merge(warehouse) == told
    assert str(told[0]) == f"features: 8 small files merged, {told[0].n_bytes:,} bytes"


def test_what_a_run_has_added_in_the_meantime_is_not_lost_and_the_merge_gives_up(warehouse):
    night(warehouse, "run-1", FEWEST)
    files, version = warehouse.files("features"), warehouse.version("features")
    night(warehouse, "run-2", 1)
    with pytest.raises(ConflictError, match=r"another run has changed .*features in the meantime; run again"):
        _merge(warehouse, "features", files, version, "vacuum-1")
    assert len(warehouse.files("features")) == FEWEST + 1
    vacuum(warehouse)
    assert not list(Path(warehouse.path("features")).glob("vacuum*"))
    assert [one.n_files for one in merge(warehouse)] == [FEWEST + 1]
    assert len(table_rows(warehouse.table("features"))[1]) == 3 * (FEWEST + 1)


def merge_all(warehouse):
    merge(warehouse)


def test_killed_anywhere_no_row_is_lost_or_there_twice_and_the_merge_is_completed_by_doing_it_again(tmp_path):
    before = Warehouse.at(str(tmp_path / "before"))
    for name in ("features", "quarantine"):
        night(before, "run-1", FEWEST, name=name)
    rows = table_rows(before.table("features"))
    writers = ("merge", "_merge", "_write", "write", "publish_all", "_roll_forward", "_commit", "_try_to_commit")
    killed = kill_everywhere(before, "test_upkeep:merge_all", *writers)
    assert len(killed) > 8
    for warehouse in killed:
        assert table_rows(warehouse.table("features")) == rows
        vacuum(warehouse)
        merge(warehouse)
        for name in ("features", "quarantine"):
            assert table_rows(warehouse.table(name)) == rows
            assert len(warehouse.files(name)) == 1
            n_files = len(list(Path(warehouse.path(name)).glob("*/*.parquet")))
            assert n_files == FEWEST + 1  # nothing half-written stays


DIES_BETWEEN = DIES.replace(
    "Warehouse._roll_forward = lambda *_: os.kill(os.getpid(), signal.SIGKILL)",
    """
commit = Warehouse._commit
def first(self, step, *args, **options):
    if step.name == "quarantine":
        os.kill(os.getpid(), signal.SIGKILL)
    return commit(self, step, *args, **options)
Warehouse._commit = first
""",
)


def test_what_a_killed_run_was_about_to_replace_is_replaced_and_not_merged(warehouse):
    for name in ("features", "quarantine"):
        stage(warehouse, "run-1", *([f"b{number}"] for number in range(FEWEST)), name=name)
        warehouse.publish(name, SCHEMA, "run-1")
    subprocess.run([sys.executable, "-c", DIES_BETWEEN, str(Path(__file__).parent), warehouse.uri], check=False)
    assert (len(paths(warehouse)), len(paths(warehouse, "quarantine"))) == (1, FEWEST)
    assert merge(warehouse) == []
    assert (paths(warehouse), paths(warehouse, "quarantine")) == (["a2"], ["c"])


NO_ROOM = (
    FULL_DISK.replace("print(*vacuum(Warehouse(sys.argv[1])))", "").replace(
        "from medspark.upkeep import vacuum", "from medspark.cli import main"
    )
    + 'sys.exit(main(["vacuum", "--warehouse", sys.argv[1]]))'
)


def test_a_merge_without_room_is_told_after_what_was_removed_and_leaves_nothing_behind(warehouse):
    night(warehouse, "run-1", FEWEST)
    write(warehouse, "_outcomes", "run-2", "part")
    before = listing(warehouse.path("features"))
    script = [sys.executable, "-c", NO_ROOM, warehouse.uri]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "_outcomes: 1 files, 5 bytes\n")
    assert re.fullmatch(r"medspark vacuum: failed, run again to continue: \[Errno 27\] File too large.*\n", done.stderr)
    assert listing(warehouse.path("features")) == before
    assert not list(Path(warehouse.path("features")).glob("vacuum*/*"))


def test_a_damaged_file_stops_the_merge_and_is_named(warehouse):
    night(warehouse, "run-1", FEWEST)
    damaged = Path(warehouse.files("features")[3])
    damaged.write_bytes(b"PAR1" * (damaged.stat().st_size // 4))
    with pytest.raises(
        ContractError, match=rf"{re.escape(damaged.name)}: a table uses this file, and it cannot be read"
    ):
        merge(warehouse)
    assert len(warehouse.files("features")) == FEWEST


def test_a_patient_is_forgotten_in_merged_files_and_in_those_that_were_merged(copy):
    for number in range(FEWEST):
        put(copy, "features", [frame(f"/hisfile {number}", HIS), frame(f"/other {number}", OTHER)], f"night-{number}")
    before = rows_of(copy)
    assert [one.table for one in merge(copy)] == ["features"]
    assert rows_of(copy) == before
    forget(copy, HIS)
    assert traces(copy, HIS, "hisfile") == set()
    assert rows_of(copy) == without(before, HIS)


# Forget

HIS, OTHER, LABELLED = (str(pseudonym(b"a key", name)) for name in ("P1", "P2", "P3"))
MOMENT = datetime(2026, 3, 29, 1, 30, 0, 123456, UTC)
SCHEMAS = {
    "images": tables.arrow(tables.IMAGES),
    "series": tables.arrow(tables.SERIES),
    "features": tables.arrow(tables.features(["mean"])),
    "quarantine": tables.arrow(tables.QUARANTINE),
    "predictions": tables.arrow(tables.PREDICTIONS),
    "leaks": tables.arrow(tables.LEAKS),
    "runs": tables.arrow(tables.RUNS),
}


def image(path, patient, **facts):
    return {"path": path, "patient_id": patient, "modified_at": MOMENT, "flags": ["same_content"], **facts}


def frame(path, patient=None, number=0, **facts):
    return {"path": path, "frame": number, "patient_id": patient, "mean": 0.1, **facts}


def instances(*names):
    return [{"path": path, "frame": 0} for path in names]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """A warehouse with a patient in every corner. Copy it."""
    return make_hospital(tmp_path_factory.mktemp("hospital"))


def make_hospital(home):
    """Return a warehouse with a patient in every corner; the names of his files begin with "hisfile"."""
    archive = home / "arch ive é'1"
    archive.mkdir()
    one, two, member, former, other, png = (
        str(archive / name)
        for name in ("hisfile 1", "hisfile é'2", "z.zip!/hisfile", "hisfile that was", "o.dcm", "p.png")
    )
    for name in ("hisfile 1", "o.dcm", "z.zip"):
        (archive / name).touch()
    warehouse = Warehouse.at(str(home / "ware house 100% é#1"))
    everything = {
        "images": [image(one, HIS), image(two, HIS), image(member, HIS), image(other, OTHER), image(png, None)],
        "series": [
            {"series_uid": "s1", "patient_id": HIS, "instances": instances(one, two), "shape": [2, 3]},
            {"series_uid": "s2", "patient_id": None, "instances": instances(other, member), "affine": [0.5]},
            {"series_uid": "s3", "patient_id": OTHER, "instances": instances(other), "reasons": ["gap", "tilt"]},
            {"series_uid": "s4", "patient_id": None, "instances": None, "n_images": 0},
        ],
        "features": [
            *(frame(one, HIS, number, image_position_mm=[0.5, -1.0, 2.0]) for number in range(2)),
            frame(member, None),
            frame(other, OTHER, image_position_mm=[0.5, -1.0, 2.0], flags=["mosaic"], modified_at=MOMENT),
            frame(png, None),
        ],
        "quarantine": [frame(one, number=2), frame(two, number=None), frame(other, number=1, reason="truncated")],
        "predictions": [
            frame(one, probability=[0.25, 0.75]),
            frame(two),
            frame(other, probability=[1.0, 0.0]),
            frame(png),
        ],
        "leaks": [
            {"kind": "near", "path_a": one, "frame_a": 0, "path_b": other, "frame_b": 0, "distance": 0.001},
            {"kind": "near", "path_a": other, "frame_a": 1, "path_b": two, "frame_b": 0, "distance": 0.002},
            {"kind": "two_labels", "path_a": other, "frame_a": 0, "path_b": "/another", "frame_b": 0, "distance": 0.0},
        ],
    }
    put(warehouse, "images", [image(former, HIS)], "run-0")
    for name, rows in everything.items():
        put(warehouse, name, rows, "run-1", replaced="all")
    put(warehouse, "features", [frame("/hisfile of a killed run", HIS)], "run-2", is_published=False)
    put(warehouse, "_outcomes", [frame(one, HIS)], "run-3", schema=SCHEMAS["features"], is_published=False)
    write(warehouse, "features", "run-4", "part-00000.zstd.parquet", content=b"half a file")
    warehouse.append_rows("runs", [{"run_id": "run-1", "started_at": MOMENT}], SCHEMAS["runs"])
    # Another tool leaves the least and greatest values of its files in the log, and what was asked of it.
    for name in ("images", "series", "features"):
        DeltaTable(warehouse.path(name)).optimize.compact()
    DeltaTable(warehouse.path("predictions")).delete("path like '%hisfile _''2'")
    write(warehouse, "reports", "report-1", "index.html", content=b"<p>hisfile")
    sides = [(one, HIS), (other, OTHER), (png, LABELLED), (member, None)]
    split = [
        {"path": path, "frame": 0, "patient_id": patient, "label": "a", "side": "train"} for path, patient in sides
    ]
    for seed in (1, 2):
        table = pa.Table.from_pylist(split if seed == 1 else split[1:3], bundle.SPLIT)
        bundle.save(warehouse.path("models"), MODEL, manifest=make_manifest(seed=seed), split_table=table)
    write(warehouse, "models", ".0123.partial", "split.parquet", content=b"hisfile")
    return warehouse


def put(warehouse, name, rows, run_id, *, schema=None, replaced=(), is_published=True):
    """Write rows in two files, as a run of Spark does."""
    directory = Path(warehouse.path(name, run_id))
    directory.mkdir(parents=True)
    for number in range(2):
        table = pa.Table.from_pylist(rows[number::2], schema or SCHEMAS[name])
        pq.write_table(table, directory / f"part-{number:05}.zstd.parquet")
    if is_published:
        warehouse.publish(name, SCHEMAS[name], run_id, replaced=replaced)


@pytest.fixture
def copy(hospital, tmp_path):
    return Warehouse(shutil.copytree(hospital.uri, f"{tmp_path}/{Path(hospital.uri).name}"))


def rows_of(warehouse):
    """Return the rows of every table and of every split, in an order that does not depend on files."""
    names = [name for name in SCHEMAS if warehouse.table(name)]
    found = {name: DeltaTable(warehouse.path(name)).to_pyarrow_table().to_pylist() for name in names}
    for model in Path(warehouse.path("models")).glob("[!.]*"):
        found[f"models/{model.name}"] = bundle.load(model).split_table.to_pylist()
    return {name: sorted(rows, key=str) for name, rows in found.items()}


def is_his(row, *patients):
    names = [
        row.get("path"),
        row.get("path_a"),
        row.get("path_b"),
        *(instance["path"] for instance in row.get("instances") or []),
    ]
    return row.get("patient_id") in patients or any("hisfile" in name for name in names if name)


def everything_written(warehouse):
    """Yield every file with all that is in it, and all that Parquet says of it."""
    for file in Path(warehouse.uri).rglob("*"):
        if file.is_file():
            yield file, str(file).encode() + file.read_bytes()
            with contextlib.suppress(pa.ArrowInvalid):
                content = pq.ParquetFile(file)
                yield file, f"{content.metadata.to_dict()} {content.read().to_pylist()}".encode()


def traces(warehouse, *words):
    return {
        str(file) for file, content in everything_written(warehouse) if any(word.encode() in content for word in words)
    }


def without(before, *patients):
    return {name: [row for row in rows if not is_his(row, *patients)] for name, rows in before.items()}


def test_a_patient_is_gone_from_every_byte_and_all_others_stay(copy):
    before = rows_of(copy)
    found = traces(copy, HIS, "hisfile")
    assert len(found) > 20
    assert sum("_delta_log" in file for file in found) == 4
    told = forget(copy, HIS)
    assert traces(copy, HIS, "hisfile") == set()
    after = rows_of(copy)
    assert after == without(before, HIS)
    assert all(after.values())
    assert told.n_rows == {name: n for name in before if (n := len(before[name]) - len(after[name]))}
    counts = {name: pa.table(copy.table(name).get_add_actions())["num_records"] for name in SCHEMAS}
    assert {name: sum(found.to_pylist()) for name, found in counts.items()} == {
        name: len(after[name]) for name in SCHEMAS
    }
    assert told.n_rows.keys() == {"images", "series", "features", "quarantine", "predictions", "leaks", *told.n_rows}
    assert (told.n_reports, told.n_paths) == (1, 5)


def test_what_no_table_needed_and_nobody_knew_stays_for_vacuum(copy):
    forget(copy, HIS)
    vacuum(copy, retention_hours=0)
    before = rows_of(copy)
    assert vacuum(copy, retention_hours=0) == []
    assert rows_of(copy) == before


def test_it_names_the_files_that_bring_him_back(hospital, copy):
    archive = Path(hospital.uri).parent / "arch ive é'1"
    told = forget(copy, HIS)
    assert told.present == [f"{archive}/hisfile 1", f"{archive}/z.zip!/hisfile"]
    lines = str(told).splitlines()
    assert lines[-4] == "in the archive there are still 2 of the patient's 5 files"
    assert lines[-3] == "delete them there, or the next run brings them back:"
    assert lines[-2:] == told.present
    assert "images: 3 rows" in lines
    assert "reports: 1 (all of them: their pages may show images of the patient)" in lines


def test_a_dry_run_of_forget_tells_the_same_and_changes_nothing(copy):
    with copy.hold("test"):
        pass
    before = listing(copy.uri)
    told = forget(copy, HIS, dry_run=True)
    after = listing(copy.uri)
    del before[copy.path(".lock")], after[copy.path(".lock")]
    assert after == before
    assert forget(copy, HIS) == told


def test_a_patient_of_the_labels_alone_is_forgotten_with_the_files_that_they_name(copy):
    before = rows_of(copy)
    told = forget(copy, LABELLED)
    kept = {name: [row for row in rows if "p.png" not in str(row)] for name, rows in before.items()}
    assert rows_of(copy) == kept
    assert told.n_paths == 1
    assert traces(copy, LABELLED, "p.png") == set()


def test_a_file_that_was_taken_for_his_once_leaves_with_all_its_rows(copy):
    before = rows_of(copy)
    (other,) = (row["path"] for row in before["quarantine"] if row["path"].endswith("o.dcm"))
    put(copy, "images", [image(other, HIS)], "run-5")
    put(copy, "images", before["images"], "run-6", replaced="all")
    forget(copy, HIS)
    assert traces(copy, HIS, "hisfile", "o.dcm") == set()


def test_an_unknown_patient_changes_nothing(copy):
    before = rows_of(copy)
    with pytest.raises(ConfigError, match=r"--patient: nothing in .* knows it; see patient_id"):
        forget(copy, "0" * 64)
    assert rows_of(copy) == before
    forget(copy, HIS)
    with pytest.raises(ConfigError, match="knows it"):
        forget(copy, HIS)


@pytest.mark.parametrize("patient", ["Doe^Jane", "", "0" * 63, "A" * 64, "0" * 64 + "' or 'a' = 'a"])
def test_what_is_no_pseudonym_is_refused_and_not_repeated(copy, patient):
    with pytest.raises(ConfigError, match="--patient is no pseudonym") as caught:
        forget(copy, patient)
    assert not patient or patient not in str(caught.value)


def test_a_damaged_model_stops_it_before_anything_is_changed(copy):
    model = next(Path(copy.path("models")).glob("[!.]*"))
    with (model / "card.md").open("a") as file:
        file.write("!")
    before = listing(copy.uri)
    with pytest.raises(ContractError, match=r"card\.md.*train it anew"):
        forget(copy, HIS)
    after = listing(copy.uri)
    assert {path: facts for path, facts in after.items() if not path.endswith(".lock")} == before


def test_a_damaged_file_of_a_table_stops_it_before_anything_is_changed(copy):
    Path(copy.files("quarantine")[0]).write_bytes(b"PAR1")
    before = listing(copy.uri)
    with pytest.raises(ContractError, match=r"a table uses this file, and it cannot be read"):
        forget(copy, HIS)
    after = listing(copy.uri)
    assert {path: facts for path, facts in after.items() if not path.endswith(".lock")} == before


def test_what_killed_writers_left_of_him_leaves_with_him(copy):
    model = next(Path(copy.path("models")).glob("[!.]*")).name
    places = [("models", model, "split.3f2a1b"), ("features", "run-9", "part-00000.3f2a1b"), ("runs", "row-1.3f2a1b")]
    for place in places:
        write(copy, *place, content=b"hisfile")
    forget(copy, HIS)
    assert traces(copy, HIS, "hisfile") == set()


def forget_him(warehouse):
    forget(warehouse, HIS)


def test_killed_anywhere_it_is_completed_by_doing_it_again(hospital, tmp_path):
    before = Warehouse(shutil.copytree(hospital.uri, f"{tmp_path}/before"))
    vacuum(before, retention_hours=0)  # each file less is a point less to be killed at
    for name in ("series", "quarantine", "runs"):
        shutil.rmtree(before.path(name))
    put(before, "images", rows_of(before)["images"], "run-5", replaced="all")
    kept = without(rows_of(before), HIS)
    functions = ("forget", "_erase", "_copy_others", "_cut_log", "replace_split", "publish_all", "_roll_forward")
    killed = kill_everywhere(before, "test_upkeep:forget_him", *functions)
    assert len(killed) > 30  # and the last two had nothing to do any more but to forget that they did it
    for warehouse in killed[:-2]:
        forget(warehouse, HIS)
    for warehouse in killed:
        assert traces(warehouse, HIS, "hisfile") == set()
        assert rows_of(warehouse) == kept


def test_what_came_back_before_it_was_completed_is_erased_too(copy):
    put(copy, "features", [frame("/hisfile of today", HIS)], "run-5")
    put(copy, "predictions", [frame("/hisfile of today")], "run-5")
    write(copy, "_forget", f"{HIS}.json", content=b'["/hisfile of yesterday"]')
    put(copy, "predictions", [frame("/hisfile of yesterday")], "run-6")
    forget(copy, HIS)
    assert traces(copy, HIS, "hisfile") == set()


@pytest.fixture
def by_spark(spark, warehouse):
    """The tables of one patient and of another, written by Spark, and how to read them."""
    schemas = {
        "images": tables.IMAGES,
        "series": tables.SERIES,
        "features": tables.features(["mean"]),
        "predictions": tables.PREDICTIONS,
    }
    placement = {"image_position_mm": [0.5, -1.0], "slice_thickness_mm": None}
    rows = {
        "images": [image("/hisfile", HIS), image("/o", OTHER, rows=7, is_localizer=True, placements=[placement, None])],
        "series": [{"series_uid": path, "instances": instances(path), "shape": [1, 2]} for path in ("/hisfile", "/o")],
        "features": [frame("/hisfile", HIS), frame("/o", OTHER, flags=["mosaic", "x"], modified_at=MOMENT, mean=0.1)],
        "predictions": [frame(path, probability=[0.1, 0.9]) for path in ("/hisfile", "/o")],
    }
    for name, schema in schemas.items():
        found = spark.createDataFrame(pa.Table.from_pylist(rows[name], tables.arrow(schema))).coalesce(1)
        tables.stage(found, warehouse, name, "run-1")
        warehouse.publish(name, tables.arrow(schema), "run-1")
    return lambda: {name: tables.read(spark, warehouse, name, schema).collect() for name, schema in schemas.items()}


def test_spark_reads_what_was_written_anew_as_it_was_before(warehouse, by_spark):
    before = by_spark()
    assert {len(rows) for rows in before.values()} == {2}
    forget(warehouse, HIS)
    after = by_spark()
    assert after == {name: [row for row in rows if "hisfile" not in str(row)] for name, rows in before.items()}
    assert {len(rows) for rows in after.values()} == {1}
    assert after["images"][0]["modified_at"] == MOMENT.replace(tzinfo=None)
    assert after["images"][0]["placements"][0]["image_position_mm"] == [0.5, -1.0]
