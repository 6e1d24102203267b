"""Kills in the middle of runs: after one more run, the tables must be those of a run that nobody disturbed.

    python benchmarks/chaos.py [--kills N] [--files N] [--files-per-commit N] [--seed N]

By turns the driver and a worker are killed (SIGKILL) at a random moment of `medspark extract` on an empty warehouse,
and the same command runs once more. Prints what each kill hit and the tally; the exit code is 1 if a row differs.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from medspark.phantom import write_png_set

RECIPE = 'features=[{use="first_order"}, {use="lbp", points=8, radius=1}]'
Rows = dict[str, list[dict[str, Any]]]


def make_archive(directory: Path, n_files: int) -> None:
    """Write small images; of each hundred one is cut, one is empty, and one is no image."""
    write_png_set(directory, n=n_files, size=64)
    for number, path in enumerate(sorted(directory.rglob("*.png"))):
        content = path.read_bytes()
        damaged = {1: content[:300], 2: b"", 3: b"no image"}.get(number % 100)
        if damaged is not None:
            path.write_bytes(damaged)


def command(archive: Path, warehouse: Path, files_per_commit: int) -> list[str]:
    """Return the command that is run, killed, and run again."""
    return [
        *(sys.executable, "-m", "medspark.cli", "extract", "--input", str(archive), "--warehouse", str(warehouse)),
        *("--set", RECIPE, "--set", f"run.files_per_commit={files_per_commit}"),
    ]


def rows(warehouse: Path) -> Rows:
    """Return all rows of the tables in order; processed by this run or by the one before is no difference."""
    found: Rows = {}
    for name in ("images", "features", "quarantine"):
        table = DeltaTable(str(warehouse / name)).to_pyarrow_table().to_pylist()
        found[name] = sorted(table, key=lambda row: (row["path"], -1 if row.get("frame") is None else row["frame"]))
    for row in found["images"]:
        row["status"] = {"unchanged": "processed"}.get(row["status"], row["status"])
    return found


def visible(warehouse: Path) -> str:
    """Return what could be seen of a run when it was killed."""
    commits = {
        name: len(list((warehouse / name / "_delta_log").glob("*.json")))
        for name in ("images", "features", "quarantine")
    }
    return ", ".join(f"{name} {n}" for name, n in commits.items())


def processes() -> dict[int, tuple[int, str]]:
    """Return parent and command line of every process."""
    listed = subprocess.run(["/bin/ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    lines = (line.split(None, 2) for line in listed.stdout.splitlines())
    return {int(pid): (int(parent), words[0] if words else "") for pid, parent, *words in lines}


def below(pid: int) -> dict[int, tuple[int, str]]:
    """Return the processes that descend from one."""
    everything = processes()
    found: dict[int, tuple[int, str]] = {}
    while more := {
        child: facts
        for child, facts in everything.items()
        if child not in found and (facts[0] in found or facts[0] == pid)
    }:
        found |= more
    return found


def victims(driver: int, *, is_worker: bool, rng: random.Random) -> list[int]:
    """Return whom to kill: the driver, its JVM or both; or a worker, none if there is none at this moment."""
    family = below(driver)
    jvm = [pid for pid, (parent, _) in family.items() if parent == driver]
    if not is_worker:
        return rng.choice([[driver], jvm, [driver, *jvm]])
    daemons = {pid for pid, (parent, words) in family.items() if parent in jvm and "daemon" in words}
    workers = [pid for pid, (parent, _) in family.items() if parent in daemons]
    return [rng.choice(workers)] if workers else []


def disturbed(argv: Sequence[str], delay: float, *, is_worker: bool, rng: random.Random) -> str | None:
    """Run a command, kill in the middle of it, and return what was hit; None if it was over before."""
    run = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    time.sleep(delay)
    hit: list[int] = []
    while run.poll() is None and not hit:
        hit = victims(run.pid, is_worker=is_worker, rng=rng)
        for pid in hit:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                hit = []
        if not hit:
            time.sleep(0.02)
    code = run.wait()
    return f"{'worker' if is_worker else 'driver'}, exit {code}" if hit else None


def differences(found: Rows, wanted: Rows) -> list[str]:
    """Return in words what differs, the tables by name."""
    return [
        f"{name}: {len(found[name])} rows, {len(wanted[name])} wanted" for name in wanted if found[name] != wanted[name]
    ]


def main() -> int:
    """Kill, run again, compare, and print the tally."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--files-per-commit", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    tally: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        os.environ["MEDSPARK_KEY"] = "a key for nobody's data"
        make_archive(home / "archive", options.files)
        warehouse = home / "warehouse"
        argv = command(home / "archive", warehouse, options.files_per_commit)
        began = time.monotonic()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        wanted = rows(warehouse)
        print(
            f"undisturbed: {seconds:.0f} s, { ({name: len(table) for name, table in wanted.items()}) } rows", flush=True
        )
        for number in range(options.kills):
            hit = None
            while hit is None:
                shutil.rmtree(warehouse)
                delay = rng.uniform(0.2, 1) * seconds
                hit = disturbed(argv, delay, is_worker=bool(number % 2), rng=rng)
            state = visible(warehouse)
            again = subprocess.run(argv, check=False, capture_output=True, text=True)
            wrong = differences(rows(warehouse), wanted) if again.returncode == 0 else [again.stderr.strip()[-300:]]
            tally["differ" if wrong else "equal"] += 1
            print(f"{number:3} {hit} after {delay:.1f} s; commits: {state}; again: {wrong or 'equal'}", flush=True)
    print(f"{tally['equal']} of {options.kills} kills left no trace after one more run")
    return int(tally["differ"] > 0)


if __name__ == "__main__":
    sys.exit(main())
