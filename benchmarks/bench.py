"""medspark and others on the same images, each in turns with the floor: a bare pool of processes with the same recipe.

    python benchmarks/bench.py [--workloads a b c d] [--against floor medspark job ray ...] [--rounds 5] [--scale 1.0]
                               [--base floor] [--cores 2] [--home DIRECTORY] [--markdown FILE] [--json FILE]

Floor and contestant are alive together and take turns, so that a busy machine slows both; who waits for its turn is
stopped, or Dask's threads alone would take 3 % of two cores from the other. A ratio is the median of those of the
rounds; ``--base dask`` races the others against Dask, which tells more of two than what each is to the floor. Start-up
is what passes from the start of the process to its answer for one file. A round before those that count warms both up;
in it memory is measured, as PSS, and the numbers are compared. ``floor`` against itself shows how far two equal things
differ here. Who is slow, or only compared, gets a part of the files, and the base the same part.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import random
import select
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import meter
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from workloads import HOME, WORKLOADS, make

Time = Literal["wall", "cpu"]
TIMES: tuple[Time, ...] = ("wall", "cpu")
HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE / ".envs"
PATIENCE_SECONDS, FAREWELL_SECONDS = 3600, 60
FEWEST = 8  # files of a part: of three, one of two cores gets twice as many as the other


@dataclass(frozen=True)
class Contestant:
    """A script that speaks the protocol of turns.py; ``environment`` None: this Python."""

    script: str
    package: str  # whose version is worth knowing
    environment: str | None = None
    arguments: tuple[str, ...] = ()
    share: float = 1.0  # of the files

    @property
    def python(self) -> Path:
        """The Python that runs it."""
        return ENVIRONMENTS / self.environment / "bin" / "python" if self.environment else Path(sys.executable)

    @property
    def is_installed(self) -> bool:
        """Whether its environment is complete."""
        return self.environment is None or (ENVIRONMENTS / self.environment / "up-to-date").exists()

    @property
    def version(self) -> str:
        """Its package and version."""
        if self.environment is None:
            return f"{self.package} {importlib.metadata.version(self.package)}"
        path = [str(place) for place in self.python.parents[1].glob("lib/python*/site-packages")]
        found = next(iter(importlib.metadata.distributions(name=self.package, path=path)))
        return f"{self.package} {found.version}"


CONTESTANTS = {
    "floor": Contestant("floor.py", "numpy", share=1 / 4),
    "medspark": Contestant("medspark_spark.py", "medspark"),
    "job": Contestant("medspark_spark.py", "medspark", arguments=("--whole",)),
    "ray": Contestant("ray_data.py", "ray", "ray", share=1 / 2),
    "daft": Contestant("daft_data.py", "daft", "daft", share=1 / 2),
    "dask": Contestant("dask_bag.py", "dask", "dask", share=1 / 2),
    "udfs": Contestant("udfs.py", "pyspark", share=1 / 10),
    "udfs-skimage": Contestant("udfs.py", "pyspark", arguments=("--scikit-image",), share=1 / 40),
    "joblib": Contestant("joblib_skimage.py", "scikit-image", share=1 / 40),
    "seed": Contestant("seed.py", "scikit-image", share=1 / 40),
}


class FailedError(Exception):
    """A contestant has no answer; the message says why."""


@dataclass(frozen=True)
class Turn:
    """One pass of one contestant."""

    wall: float
    cpu: float

    def seconds(self, what: Time) -> float:
        """Return one of its two times."""
        return self.wall if what == "wall" else self.cpu


class Player:
    """A contestant that runs, and is stopped until its next turn."""

    def __init__(self, name: str, cores: int, home: Path) -> None:
        contestant = CONTESTANTS[name]
        self.name = name
        self.home = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=home))
        self.log = self.home / "log"
        script = HERE / "contestants" / contestant.script
        command = [str(contestant.python), str(script), "--cores", str(cores), *contestant.arguments]
        self.began = time.perf_counter()
        with self.log.open("w") as log:
            self.metered = meter.Metered(command, log=log)

    def start(self, path: str) -> Turn:
        """Return what passed from the start of the process to the answer for one file."""
        self.take([path])
        return Turn(time.perf_counter() - self.began, self.metered.cpu())

    def take(self, paths: Sequence[str]) -> Turn:
        """Have it make a pass, the result of which is ``out`` until its next turn."""
        place = self.home / "turn"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        self.out = place / "out"
        (place / "files").write_text("\n".join(paths), "utf-8")
        with self.metered.awake():
            began, before = time.perf_counter(), self.metered.cpu()
            rows = self._ask({"files": str(place / "files"), "out": str(self.out)})
            turn = Turn(time.perf_counter() - began, self.metered.cpu() - before)
        if rows != len(paths):
            raise FailedError(f"{self.name}: {rows} rows of {len(paths)} images")
        return turn

    def _ask(self, question: dict[str, str]) -> int:
        requests, answers = self.metered.requests, self.metered.answers
        with suppress(BrokenPipeError):  # it has ended, as the lines below will find
            requests.write(f"{json.dumps(question)}\n".encode())
            requests.flush()
        if not select.select([answers], [], [], PATIENCE_SECONDS)[0]:
            raise FailedError(f"{self.name}: no answer in {PATIENCE_SECONDS} s")
        line = answers.readline()
        if not line:
            last = (self.log.read_text(errors="replace").strip() or "without a word").splitlines()[-1]
            raise FailedError(f"{self.name}: it ended: {last[:200]}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise FailedError(f"{self.name}: {answer['error']}")
        return int(answer["rows"])


@contextmanager
def playing(name: str, cores: int, home: Path) -> Iterator[Player]:
    """Start a contestant, and end it with all that it started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # who is ended still ends what it started
    player = Player(name, cores, home)
    try:
        yield player
    finally:
        player.metered.end(FAREWELL_SECONDS)
        shutil.rmtree(player.home)


@dataclass
class Result:
    """What became of a contestant on a workload; ``rounds`` has the turn of the base and its own."""

    workload: str
    name: str
    n_files: int
    start: Turn | None = None
    rounds: list[tuple[Turn, Turn]] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)  # bytes
    numbers: str = ""
    error: str = ""

    def ms(self, what: Time) -> float:
        """Return its median milliseconds an image, of ``wall`` or of ``cpu``."""
        return 1000 * statistics.median(own.seconds(what) for _, own in self.rounds) / self.n_files

    def ratio(self, what: Time) -> float:
        """Return the median over the rounds of its time an image to that of the base."""
        return statistics.median(own.seconds(what) / base.seconds(what) for base, own in self.rounds)

    def cells(self) -> list[str]:
        """Return its row of the table."""
        if self.error:
            return [self.name, f"{self.n_files:,}", f"failed, {self.error}"]
        times = [f"{of(what):.2f}" for of in (self.ms, self.ratio) for what in TIMES]
        start = [f"{self.start.wall:.1f}", f"{self.start.cpu:.1f}"] if self.start else ["", ""]
        memory = [f"{used / 2**20:,.0f}" for used in self.memory.values()]
        return [self.name, f"{self.n_files:,}", *times, *start, *memory, self.numbers]


WIDTHS = [12, 7, 9, 9, 12, 11, 8, 11, 8, 10, 0]


def headings(base: str) -> list[str]:
    """Return the names of the columns."""
    return [
        *("contestant", "files", "wall ms", "CPU ms", f"wall x {base}", f"CPU x {base}"),
        *("start s", "start CPU s", "JVM MiB", "others MiB", "numbers"),
    ]


def race(workload: str, name: str, paths: Sequence[str], home: Path, options: argparse.Namespace) -> Result:
    """Return how a contestant does on a workload, in turns with the base."""
    n = min(len(paths), max(FEWEST, round(len(paths) * CONTESTANTS[name].share)))
    part = sorted(random.Random(n).sample(paths, n))
    result = Result(workload, name, n)
    try:
        with playing(options.base, options.cores, home) as base, playing(name, options.cores, home) as player:
            base.start(paths[0])
            result.start = player.start(paths[0])
            base.take(part)
            with player.metered.memory() as result.memory:
                player.take(part)
            result.numbers = compared(player.out, base.out)
            result.rounds = [(base.take(part), player.take(part)) for _ in range(options.rounds)]
    except FailedError as error:
        result.error = str(error)
    return result


def compared(out: Path, base: Path) -> str:
    """Return in words whether a table has the numbers of the base, to the last bit, for each path that it has."""
    ours, theirs = (ds.dataset(str(place), format="parquet").to_table() for place in (base, out))
    names = [each.name for each in ours.schema if each.type == pa.float64()]
    shared = [name for name in names if name in theirs.column_names]
    if "path" not in theirs.column_names or not shared:
        return "other features"
    theirs = theirs.set_column(theirs.column_names.index("path"), "path", theirs["path"].cast(pa.string()))
    ours = ours.filter(pc.is_in(ours["path"], theirs["path"].combine_chunks())).sort_by("path")
    theirs = theirs.sort_by("path")
    if not ours["path"].equals(theirs["path"]):
        return "other paths"
    pairs = [(ours[name].to_numpy(), theirs[name].to_numpy()) for name in shared]
    worst = [float(np.nanmax(np.abs(our - their) / (np.nanmax(np.abs(our)) or 1))) for our, their in pairs]
    n_equal = sum(np.array_equal(our, their, equal_nan=True) for our, their in pairs)
    if n_equal == len(names):
        return "equal"
    return f"{n_equal} of {len(names)} columns equal, the rest up to {max(worst):.1%} of the largest value apart"


def machine(names: Sequence[str]) -> list[str]:
    """Return in lines where this was measured, and with what."""
    from medspark.java import java_home

    facts = Path("/proc/cpuinfo").read_text()
    cpu = next(
        (line.split(": ")[1] for line in facts.splitlines() if line.startswith("model name")), platform.machine()
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    java = next(line for line in (java_home() / "release").read_text().splitlines() if line.startswith("JAVA_VERSION="))
    packages = ["medspark", "pyspark", "numpy", "numba", "opencv-python-headless", "pyarrow"]
    numbers = java.split('"')[1]
    versions = {f"{name} {importlib.metadata.version(name)}": None for name in packages}
    versions |= dict.fromkeys(CONTESTANTS[name].version for name in names)
    return [
        f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}",
        f"Python {platform.python_version()}, Java {numbers}, {', '.join(versions)}",
        f"CPU time by {meter.how()}",
    ]


def title(workload: str, n_files: int, options: argparse.Namespace) -> str:
    """Return the line above a table."""
    return f"{workload}: {n_files:,} {WORKLOADS[workload].title}; {options.cores} cores, {options.rounds} rounds"


def text(cells: Sequence[str]) -> str:
    """Return a row for a terminal."""
    return "  ".join([f"{cells[0]:<{WIDTHS[0]}}", *map("{:>{}}".format, cells[1:], WIDTHS[1:])])


def markdown(cells: Sequence[str]) -> str:
    """Return a row for a page."""
    return f"| {' | '.join([*cells, *[''] * (len(WIDTHS) - len(cells))])} |"


def installed(names: Sequence[str]) -> list[str]:
    """Return those that can take part, and say how to install the others."""
    missing = [name for name in names if not CONTESTANTS[name].is_installed]
    for name in missing:
        print(f"{name}: left out; to install it: python benchmarks/environments.py {CONTESTANTS[name].environment}")
    return [name for name in names if name not in missing]


def main() -> None:
    """Race, print a table for each workload, and write down what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--against", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--base", choices=CONTESTANTS, default="floor", help="whom they take turns with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--home", type=Path, default=HOME, help="where the images are")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    names = installed(options.against)
    page: list[str] = []
    results: list[Result] = []
    for workload in options.workloads:
        paths = make(workload, options.home, options.scale)
        above = title(workload, len(paths), options)
        columns = headings(options.base)
        print(f"\n{above}\n{text(columns)}", flush=True)
        page += [above, "", markdown(columns), markdown(["---"] * len(columns))]
        for name in names:
            with tempfile.TemporaryDirectory(prefix="medspark-bench-") as home:
                result = race(workload, name, paths, Path(home), options)
            results.append(result)
            page.append(markdown(result.cells()))
            print(text(result.cells()), flush=True)
        page.append("")
    below = machine(names)
    print("", *below, sep="\n")
    if options.markdown:
        options.markdown.write_text("\n".join([*page, *below, ""]), "utf-8")
    if options.json:
        found = {"machine": below, "options": vars(options), "results": [asdict(each) for each in results]}
        options.json.write_text(json.dumps(found, indent=1, default=str), "utf-8")


if __name__ == "__main__":
    main()
