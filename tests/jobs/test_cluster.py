"""What is killed on a cluster in the middle of extract costs no row and adds none: the tables are those of a local run.

The recipe has a feature that waits at a gate once some files are measured. So what is killed is at work for certain,
and when it is killed does not depend on how fast the machine is.
"""

import contextlib
import hashlib
import json
import shutil
import sys
from pathlib import Path

import hosts
import pytest
from cluster import parent, processes, running
from line import last_run, rows, run

from medspark.jobs import extract, index
from medspark.phantom import write_png_set

N_GOOD, N_BAD, N_FREE = 210, 30, 140
GATES = """
import os
import time
from pathlib import Path


def gated(image, *, place, n_free):
    if image.shape != (64, 64):  # that of the rehearsal
        with Path(place, "notes").open("a+") as notes:
            notes.write(f"{os.getppid()}\\n")  # the Python worker, which guards this process
            notes.flush()
            notes.seek(0)
            is_held = len(notes.readlines()) > n_free
        while is_held and Path(place, "gate").exists():
            time.sleep(0.01)
    return {"gated": float(image.std())}
"""
PROBE = """
import json, sys
from pathlib import Path
from pyspark.sql import SparkSession, functions as F
from medspark.jobs import extract

def found(_):
    import sys, numpy, medspark
    return [sys.executable, str(sys.version_info[:2]), numpy.__file__, medspark.__file__, *sys.path]

def on_disk(home, text):
    files = [path for path in Path(home).glob("*/*/blockmgr-*/*/shuffle_*.data")]
    return len(files), any(text.encode() in path.read_bytes() for path in files)

told, home, *options = sys.argv[1:]
spark = SparkSession.builder.getOrCreate()
places = spark.sparkContext.parallelize(range(4), 4).map(found).collect()
shuffled = spark.range(4).select(F.sha2(F.col("id").cast("string"), 256)).repartition(4).rdd
shuffled.count()
Path(told).write_text(json.dumps({"places": places, "shuffled": on_disk(home, sys.argv[3])}))
sys.exit(extract.main(options[1:]))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of three hosts that reach nobody but each other; of this machine alone where none can be made."""
    with contextlib.ExitStack() as stack:
        machines = stack.enter_context(hosts.connected(3)) if hosts.can_be_made() else [hosts.LOOPBACK] * 3
        yield stack.enter_context(running(tmp_path_factory.mktemp("cluster"), machines))


@pytest.fixture(scope="module")
def home(spark, tmp_path_factory):
    """A directory with an archive, its listing, and the module of the gate."""
    home = tmp_path_factory.mktemp("home")
    (home / "gates.py").write_text(GATES)
    spark.sparkContext.addPyFile(str(home / "gates.py"))
    write_png_set(home / "archive", n=N_GOOD + N_BAD, size=128)
    for number, path in enumerate(sorted((home / "archive").iterdir())):
        content = path.read_bytes()
        path.write_bytes({1: content[:300], 2: b"", 3: b"no image"}.get(number % 24, content))
    assert run(index, spark, "--input", home / "archive", "--warehouse", home / "listed")[0] == 0
    return home


@pytest.fixture(scope="module")
def wanted(spark, home):
    """The rows and counts of a local run that nobody disturbs."""
    shutil.copytree(home / "listed", home / "local")
    assert run(extract, spark, *options(home, home / "local"))[0] == 0
    assert len(workers(home)) == N_GOOD
    return tables(home / "local"), counts(home / "local")


@pytest.fixture
def warehouse(home, tmp_path):
    return shutil.copytree(home / "listed", tmp_path / "warehouse")


@pytest.fixture
def begin(cluster, home, warehouse):
    """Begin an extract on the cluster; return the job and a Python worker that waits at the gate."""
    begun = []

    def begin(*more):
        (home / "gate").touch()
        (home / "notes").unlink(missing_ok=True)
        job = ("jobs/extract.py", *options(home, warehouse), *more)
        begun.append(cluster.submit(warehouse.parent.name, "--py-files", home / "gates.py", *job))
        return begun[0], cluster.until(lambda: workers(home)[N_FREE:], begun[0])[0]

    yield begin
    (home / "gate").unlink(missing_ok=True)
    cluster.kill(*cluster.family(*begun))  # where a test failed


def options(home, warehouse):
    gated = f'{{use="gates:gated", place="{home}", n_free={N_FREE}}}'
    features = f'features=[{{use="first_order"}}, {{use="lbp", points=8, radius=1}}, {gated}]'
    return "--warehouse", warehouse, "--set", features


def workers(home):
    """Return the Python worker that each file was measured by, in the order in which they began."""
    notes = home / "notes"
    return [int(worker) for worker in notes.read_text().split()] if notes.exists() else []


def tables(warehouse):
    """Return all rows to the last bit; processed in this run or in the one before is no difference."""
    found = {name: rows(warehouse, name) for name in ("images", "features", "quarantine")}
    for row in found["images"]:
        row["status"] = {"unchanged": "processed"}.get(row["status"], row["status"])
    return {name: [repr(row) for row in table] for name, table in found.items()}


def counts(warehouse):
    return {name: number for name, number in last_run(warehouse).items() if name.startswith("n_")}


def test_the_work_of_an_executor_that_is_killed_is_done_by_others(cluster, home, begin, warehouse, wanted):
    n_executors = len(cluster.executors())
    job, worker = begin()
    executor = parent(parent(worker))
    assert b"CoarseGrainedExecutorBackend" in Path(f"/proc/{executor}/cmdline").read_bytes()
    cluster.kill(executor)
    cluster.until(lambda: worker not in processes(), job)  # it ends with its executor, whatever it is at
    (home / "gate").unlink()
    cluster.succeed(job)
    assert (tables(warehouse), counts(warehouse)) == wanted
    assert len(workers(home)) > N_GOOD
    assert len(cluster.executors()) == n_executors + 3


def test_the_task_of_a_python_worker_that_is_killed_is_tried_again(cluster, home, begin, warehouse, wanted):
    n_executors = len(cluster.executors())
    job, worker = begin()
    cluster.kill(worker)
    (home / "gate").unlink()
    cluster.succeed(job)
    assert (tables(warehouse), counts(warehouse)) == wanted
    assert len(workers(home)) > N_GOOD
    assert len(cluster.executors()) == n_executors + 2


def test_a_run_after_one_whose_driver_was_killed_does_the_rest(spark, cluster, home, begin, *, warehouse, wanted):
    job, _ = begin("--set", "run.files_per_commit=60")
    cluster.kill(*cluster.family(job))
    cluster.until(lambda: processes().keys().isdisjoint(workers(home)))  # nobody has to clean up behind the driver
    (home / "gate").unlink()
    published, n_begun = rows(warehouse, "features"), len(workers(home))
    assert 0 < len(published) < N_FREE
    assert run(extract, spark, *options(home, warehouse))[0] == 0
    assert tables(warehouse) == wanted[0]
    left = N_GOOD - len(published)
    assert len(workers(home)) - n_begun == left
    assert counts(warehouse) == wanted[1] | {"n_processed": left, "n_unchanged": len(published)}


def test_executors_run_what_is_shipped_and_give_the_rows_of_local_mode(cluster, home, warehouse, wanted, tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    secret = hashlib.sha256(b"3").hexdigest()
    probe = (tmp_path / "probe.py", tmp_path / "told", cluster.home, secret, *options(home, warehouse))
    plain = ("--conf", "spark.shuffle.compress=false")
    cluster.succeed(cluster.submit("shipped", *plain, "--py-files", home / "gates.py", *probe, ships=True))
    told = json.loads((tmp_path / "told").read_text())

    for python, version, numpy, medspark, *path in told["places"]:
        work = [place for place in cluster.executors() if numpy.startswith(f"{place}/environment/lib/")]
        assert len(work) == 1
        assert medspark == f"{work[0]}/package/medspark/__init__.py"
        assert Path(python).resolve() == Path(sys.executable).resolve()
        assert version == str(sys.version_info[:2])
        assert not [place for place in path if place.startswith(sys.prefix) and "pyspark" not in place]
    assert (tables(warehouse), counts(warehouse)) == wanted

    n_files, is_plain = told["shuffled"]
    assert n_files
    assert not is_plain
    logs = [log.read_text() for place in cluster.executors() for log in place.glob("std*")]
    assert logs
    assert not [log for log in logs if str(home / "archive") in log or str(warehouse) in log]


def test_the_work_of_a_host_that_is_cut_off_is_done_by_another(cluster, home, begin, warehouse, wanted):
    hosts.need()
    job, worker = begin()
    cluster.host_of(worker).cut_off()  # the last test: this host does not come back
    (home / "gate").unlink()
    cluster.succeed(job)
    assert (tables(warehouse), counts(warehouse)) == wanted
    assert len(workers(home)) > N_GOOD
    assert b"no recent heartbeats" in (cluster.home / f"{warehouse.parent.name}.log").read_bytes()
