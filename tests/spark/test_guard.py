"""Whatever an item does to its process, there is one result for each item, in order, and the job goes on."""

import ctypes
import functools
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.errors import PythonException

from medspark.spark.guard import Death, end_idle, guarded

LIBC = ctypes.CDLL(None)


class PanicError(BaseException):
    """As pyo3 makes of a panic in Rust."""


def hoard():
    hoarded = []
    while True:
        hoarded.append(bytearray(1 << 20))


def loop():
    while True:
        pass


def give_up(error):
    raise error


def recurse():
    sys.setrecursionlimit(10**9)
    recurse_in_c = lambda n: next(map(recurse_in_c, [n]))  # noqa: E731 - as short as what it stands for
    recurse_in_c(0)


CRASHES = {
    "segfault": (lambda: ctypes.string_at(0), "took the process down (signal SIGSEGV)"),
    "abort": (os.abort, "took the process down (signal SIGABRT)"),
    "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), "took the process down (signal SIGKILL)"),
    "terminated": (lambda: os.kill(os.getpid(), signal.SIGTERM), "took the process down (signal SIGTERM)"),
    "interrupted": (lambda: os.kill(os.getpid(), signal.SIGINT), "took the process down (signal SIGINT)"),
    "realtime": (lambda: os.kill(os.getpid(), 40), "took the process down (signal 40)"),
    "exit 0": (lambda: os._exit(0), "ended the process (exit code 0)"),
    "exit 3": (lambda: os._exit(3), "ended the process (exit code 3)"),
    "panic": (functools.partial(give_up, PanicError("Nobody^Test")), "ended the process (PanicError)"),
    "sys.exit": (lambda: sys.exit("Nobody^Test"), "ended the process (SystemExit)"),
}
HANGS = {
    "loop": loop,
    "sleep": lambda: time.sleep(1e6),
    "regex": lambda: re.match(r"(a+)+$", "a" * 60 + "b"),  # in C, and it never gives Python a turn
    "pause": LIBC.pause,
}
HOGS = {
    "hoard": hoard,
    "numpy": lambda: np.ones(1 << 34),
    "opencv": lambda: cv2.resize(np.zeros((9, 9), np.uint8), (1 << 18, 1 << 18)),
}
QUICK = ("segfault", "killed", "exit 0", "exit 3", "panic", "numpy")


def work(item):
    """A number gives its square and the name of a killer what the killer does."""
    if isinstance(item, int):
        return item**2
    killers = {name: killer for name, (killer, _) in CRASHES.items()} | HANGS | HOGS
    return killers[item]()


def expected(item):
    if item in CRASHES:
        return Death("crashed", CRASHES[item][1])
    if item in HOGS:
        return Death("out_of_memory", "needs more than 256 MiB (limits.memory_mb)")
    return work(item)


def run(items, function=work, *, seconds=60.0, memory_mb=256):
    return list(guarded(function, items, seconds=seconds, memory_mb=memory_mb))


def pid(_):
    return os.getpid()


def lives(process):
    """Tell whether a process is there; one that only waits to be reaped, by whoever is its parent, has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(process):
    """Wait for the end of a process for some seconds."""
    until = time.monotonic() + 20
    while lives(process) and time.monotonic() < until:
        time.sleep(0.01)
    return not lives(process)


def open_files():
    return sorted(Path("/dev/fd").iterdir())


def children():
    """The children of this process, those that have ended and were not reaped among them."""
    return {int(child) for file in Path("/proc/self/task").glob("*/children") for child in file.read_text().split()}


@pytest.fixture(autouse=True)
def nothing_stays(request):
    """No test leaves a process or a file open; those of a Spark session are its own."""
    end_idle()
    before = children(), open_files()
    yield
    end_idle()
    assert "spark" in request.fixturenames or (children(), open_files()) == before


@pytest.mark.parametrize("killer", CRASHES)
def test_a_crash_takes_the_place_of_its_result_and_says_how_it_came(killer):
    assert run([2, killer, 3]) == [4, Death("crashed", CRASHES[killer][1]), 9]


@pytest.mark.parametrize("killer", HANGS)
def test_what_takes_too_long_is_ended(killer):
    assert run([2, killer, 3], seconds=0.3) == [
        4,
        Death("timeout", "took longer than 0.3 s (limits.seconds_per_file)"),
        9,
    ]


@pytest.mark.parametrize("killer", HOGS)
def test_what_takes_too_much_memory_is_told_from_a_crash(killer):
    assert run([2, killer, 3]) == [4, Death("out_of_memory", "needs more than 256 MiB (limits.memory_mb)"), 9]


def test_the_memory_limit_is_in_addition_to_what_the_process_had():
    def take(megabytes):
        return len(bytearray(megabytes << 20))

    assert run([200], take, memory_mb=300) == [200 << 20]
    assert run([200], take, memory_mb=100) == [Death("out_of_memory", "needs more than 100 MiB (limits.memory_mb)")]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="newer Python counts calls in C, and raises RecursionError")
def test_a_stack_that_runs_over_is_a_crash():
    assert run([2, 0, 3], lambda item: item or recurse()) == [2, expected("segfault"), 3]


@settings(max_examples=25)
@given(st.lists(st.integers(0, 99) | st.sampled_from(QUICK), max_size=12), st.integers(1, 12))
def test_results_are_those_of_direct_calls_in_order_however_items_are_cut_into_batches(items, size):
    found = [result for start in range(0, len(items), size) for result in run(items[start : start + size])]
    assert found == [expected(item) for item in items]


def test_nothing_gives_nothing_and_starts_no_process():
    before = children()
    assert run([]) == []
    assert children() == before


def test_a_result_that_looks_like_a_death_is_a_result():
    assert run([1, 2], lambda item: (item, Death("crashed", "not really"))) == [
        (1, Death("crashed", "not really")),
        (2, Death("crashed", "not really")),
    ]


def test_an_item_does_not_die_of_what_another_left_behind():
    left = []

    def fragile(item):
        if item == "leave":
            left.append(item)
        elif left:
            os.abort()
        return item

    items = ["first", "leave", "second", "third", "leave", "fourth"]
    assert run(items, fragile) == items


def test_batches_and_results_may_be_far_larger_than_a_pipe():
    items = [bytes([number % 256]) * 20_000 for number in range(1000)]
    run([b""], bytes.upper)  # a child to send the batch to: one that is forked for it has it already
    assert run(items, bytes.upper) == [item.upper() for item in items]
    assert run([50_000_000], bytes, memory_mb=1000) == [bytes(50_000_000)]


def test_a_batch_larger_than_the_memory_limit_is_not_to_blame():
    run([b""], len, memory_mb=100)
    assert run([bytes(200 << 20)], len, memory_mb=100) == [200 << 20]


def test_time_is_counted_for_each_item_and_not_while_nobody_asks():
    found = guarded(lambda item: time.sleep(0.2) or "x" * item, [10, 10**6, 10**6, 10], seconds=0.5, memory_mb=256)
    lengths = []
    for result in found:
        lengths.append(len(result))
        time.sleep(0.6)
    assert lengths == [10, 10**6, 10**6, 10]


def test_what_the_work_raises_fails_the_call_and_names_the_place():
    with pytest.raises(RuntimeError) as caught:
        run([1, 2], lambda _: {}["a fault of ours"])
    assert "KeyError: 'a fault of ours'" in str(caught.value)
    assert 'test_guard.py", line' in str(caught.value)


def test_a_result_that_cannot_be_pickled_fails_the_call():
    with pytest.raises(RuntimeError) as caught:
        run([1], lambda _: lambda: None)
    assert "pickle" in str(caught.value)


def test_items_that_cannot_be_pickled_fail_the_call():
    run([1], type)
    with pytest.raises(AttributeError, match="pickle"):
        run([lambda: None], type)


def test_a_healthy_child_works_for_many_batches_and_calls():
    @dataclass(frozen=True)
    class Equal:
        number: int

        def __call__(self, _):
            return os.getpid()

    (process,) = {*run(range(5), Equal(1)), *run(range(3), Equal(1), seconds=5), *run([1], Equal(1))}
    assert process != os.getpid()
    assert run([1], Equal(2)) != [process]
    assert not lives(process)
    (other,) = run([1], Equal(2))
    assert run([1], Equal(2), memory_mb=257) != [other]
    assert not lives(other)


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_child_that_dies_while_it_is_idle_costs_no_row(is_gone):
    (process,) = run([0], pid)
    os.kill(process, signal.SIGKILL)
    if is_gone:
        assert ends(process)
    found = run([1, 2, 3], pid)
    assert len(found) == 3
    assert len({*found, process}) == 2


def test_a_child_of_calls_that_take_turns_answers_each_its_own():
    pairs = zip(
        guarded(work, [1, 2, "exit 3", 4], seconds=60, memory_mb=256),
        guarded(work, [5, 6, 7, 8], seconds=60, memory_mb=256),
        strict=True,
    )
    before = children()
    assert list(pairs) == [(1, 25), (4, 36), (expected("exit 3"), 49), (16, 64)]
    assert len(children() - before) == 1


def test_results_that_nobody_wants_do_not_reach_the_next_call():
    found = guarded(work, [1, 2, 3], seconds=60, memory_mb=256)
    assert next(found) == 1
    found.close()
    assert run([5, 6]) == [25, 36]


def test_the_child_holds_no_file_of_its_parent():
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    number = theirs.fileno()
    run([0], lambda _: os.write(number, b"from the child"))
    theirs.close()
    assert ours.recv(100) == b""  # the end, though the child still lives: what it wrote went nowhere
    ours.close()


def test_an_object_of_the_parent_that_goes_closes_no_file_of_the_child():
    with Path("/dev/null").open("rb", buffering=0) as inherited:
        kept = [inherited]

        def read(_):
            with Path("/dev/zero").open("rb", buffering=0) as file:
                kept.pop().close()
                return file.read(3)

        assert run([0], read) == [b"\0\0\0"]


def test_work_that_closes_what_it_should_not_is_a_crash():
    (death,) = run([0], lambda _: os.closerange(3, 1000))
    assert death.reason == "crashed"  # it ends by itself, or we end it: whoever is first


def test_deaths_leave_no_files_and_no_processes():
    before = children(), open_files()
    assert run(["exit 3"] * 200) == [expected("exit 3")] * 200
    assert (children(), open_files()) == before


def test_the_child_has_the_signals_of_a_plain_process_and_writes_no_core():
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        assert run(["terminated"]) == [expected("terminated")]
        assert run([0], lambda _: resource.getrlimit(resource.RLIMIT_CORE)) == [(0, 0)]
    finally:
        signal.signal(signal.SIGTERM, before)


SCRIPT = """
import atexit, os, sys, time
from medspark.spark.guard import guarded

def work(item):
    print(os.getpid(), flush=True)
    until = time.monotonic() + 60
    while item == "loop" and time.monotonic() < until:
        pass
    return item

atexit.register(print, "at exit")
print("begin ", end="")
how = sys.argv[1]
list(guarded(work, [how], seconds=60, memory_mb=256))
if how == "idle":
    print("idle", flush=True)
    time.sleep(60)
if how == "quick":
    os._exit(0)
"""


@pytest.mark.parametrize("how", ["loop", "idle", "quick", "normal"])
def test_no_child_outlives_its_parent_and_none_repeats_what_the_parent_does(how):
    command = [sys.executable, "-c", SCRIPT, how]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=buffered) as parent:
        begin, child = parent.stdout.readline().split()
        if how == "loop":
            assert lives(int(child))
        if how == "idle":
            assert parent.stdout.readline() == "idle\n"
            assert lives(int(child))
        if how in ("loop", "idle"):
            parent.kill()
            assert ends(int(child))
        assert (begin, parent.stdout.read()) == ("begin", "at exit\n" if how == "normal" else "")
    assert ends(int(child))
    assert how != "normal" or not Path(f"/proc/{child}").exists()  # reaped by the parent, not by whoever comes after


def test_a_process_forked_elsewhere_leaves_our_child_alone():
    (process,) = run([0], pid)
    other = os.fork()
    if other == 0:
        try:
            os._exit(run([0], pid) == [process])
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 0
    assert run([0], pid) == [process]


def test_one_bad_row_does_not_fail_a_spark_job(spark):
    def measure(number):
        if number % 50 == 7:
            ctypes.string_at(0)
        if number == 60:
            os._exit(3)
        return number * 10

    def rows(batches):
        for batch in batches:
            found = list(guarded(measure, batch.column("id").to_pylist(), seconds=60, memory_mb=1024))
            values = [None if isinstance(result, Death) else result for result in found]
            errors = [result.error if isinstance(result, Death) else None for result in found]
            columns = [batch.column("id"), pa.array(values, pa.int64()), pa.array(errors, pa.string())]
            yield pa.RecordBatch.from_arrays(columns, ["id", "value", "error"])

    found = spark.range(0, 200, 1, 3).mapInArrow(rows, "id long, value long, error string").collect()
    bad = dict.fromkeys((7, 57, 107, 157), expected("segfault").error) | {60: expected("exit 3").error}
    assert sorted(map(tuple, found)) == [
        (number, None if number in bad else number * 10, bad.get(number)) for number in range(200)
    ]


def test_a_spark_worker_keeps_its_child_from_task_to_task(spark):
    @dataclass(frozen=True)
    class Pid:
        salt: int

        def __call__(self, _):
            return os.getpid()

    def rows(batches):
        for batch in batches:
            for child in guarded(Pid(1), batch.column("id").to_pylist(), seconds=60, memory_mb=1024):
                yield pa.RecordBatch.from_pydict({"worker": [os.getpid()], "child": [child]})

    pairs = set()
    for _ in range(3):
        pairs |= {tuple(row) for row in spark.range(0, 40, 1, 4).mapInArrow(rows, "worker long, child long").collect()}
    workers, kept = zip(*pairs, strict=True)
    assert len(set(workers)) == len(pairs) < 12
    assert not set(workers) & set(kept)
    assert all(lives(child) for child in kept)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    assert all(ends(child) for child in kept)


def test_a_fault_of_ours_fails_the_spark_job_with_its_kind_and_place(spark):
    def rows(batches):
        for batch in batches:
            list(guarded(lambda _: int("Nobody^Test"), batch.column("id").to_pylist(), seconds=60, memory_mb=1024))
            yield batch

    with pytest.raises(PythonException) as caught:
        spark.range(1).mapInArrow(rows, "id long").collect()
    assert f'File "{__file__}", line {rows.__code__.co_firstlineno + 2}, in <lambda>' in str(caught.value)
    assert "\nValueError: " in str(caught.value)
