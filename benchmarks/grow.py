"""How time and memory grow with files, pixels and cores: runs, a model of them, its error on a run it has not seen.

    python benchmarks/grow.py [--files 1000] [--times 1 2 4 8] [--cores 1 2] [--contestants job floor] [--rounds 3]
                              [--cluster 64] [--picture grow.svg] [--table grow.md]

seconds = fixed + serial x files + (file x files + megapixel x megapixels) / cores

The files are those of the workload a, ``--files`` of them and so many times more, and one run each with small and with
large images, which tell a file's cost from a pixel's. The parts are found by least squares of the relative errors, none
of them negative. The longest run, on most cores, is left out and predicted. So is an archive of ten million images of
512 x 512 on ``--cluster`` cores: an extrapolation, on the assumption that storage delivers. Start-up comes on top.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bench import CONTESTANTS, machine, playing
from workloads import HOME, WORKLOADS, make

ARCHIVE = 10_000_000


@dataclass(frozen=True)
class Run:
    """A pass that was measured, or is only thought of; memory in MiB, of the JVM and of all other processes."""

    workload: str
    n_files: int
    cores: int
    seconds: float = 0.0
    jvm: float = 0.0
    others: float = 0.0

    @property
    def megapixels(self) -> float:
        """All pixels of its images."""
        rows, columns = WORKLOADS[self.workload].shape
        return self.n_files * rows * columns / 1e6


def time_parts(run: Run) -> list[float]:
    """Return what fixed, serial, file and megapixel are multiplied with."""
    return [1, run.n_files, run.n_files / run.cores, run.megapixels / run.cores]


def memory_parts(run: Run) -> list[float]:
    """Return what a fixed part and one for each core are multiplied with."""
    return [1, run.cores]


@dataclass(frozen=True)
class Fit:
    """Costs that explain some runs."""

    costs: np.ndarray
    parts: Callable[[Run], list[float]]

    @classmethod
    def of(cls, runs: Sequence[Run], values: Sequence[float], parts: Callable[[Run], list[float]]) -> "Fit":
        """Return the costs with the least squares of relative errors."""
        from scipy.optimize import nnls

        weights = 1 / np.maximum(values, 1e-9)
        rows = np.array([parts(run) for run in runs]) * weights[:, None]
        scale = rows.max(axis=0)  # files and megapixels differ by powers of ten
        return cls(nnls(rows / scale, np.ones(len(runs)))[0] / scale, parts)

    def __call__(self, run: Run) -> float:
        return float(self.costs @ self.parts(run))


def measured(name: str, cores: int, sizes: Sequence[tuple[str, int]], rounds: int, images: Path) -> list[Run]:
    """Return the runs of a contestant on so many cores: medians over rounds, memory in a pass of its own."""
    sets = [make(workload, images, n / WORKLOADS[workload].n_files) for workload, n in sizes]
    with tempfile.TemporaryDirectory() as home, playing(name, cores, Path(home)) as player:
        start = player.start(sets[0][0])
        print(f"{name}, {cores} cores: start-up {start.wall:.1f} s, {start.cpu:.1f} CPU s", flush=True)
        peaks = []
        for paths in sets:
            with player.metered.memory() as peak:
                player.take(paths)
            peaks.append([used / 2**20 for used in peak.values()])
        walls = [[player.take(paths).wall for paths in sets] for _ in range(rounds)]
    seconds = [statistics.median(each) for each in zip(*walls, strict=True)]
    return [Run(*size, cores, wall, *peak) for size, wall, peak in zip(sizes, seconds, peaks, strict=True)]


def model(name: str, runs: Sequence[Run], cluster: int) -> tuple[Fit, list[str]]:
    """Return the model of a contestant's seconds, and what there is to say of it."""
    left_out = max(runs, key=lambda run: (run.cores, run.seconds if run.workload == "a" else 0))
    seen = [run for run in runs if run is not left_out]
    fit = Fit.of(seen, [run.seconds for run in seen], time_parts)
    dream = Run("a", ARCHIVE, cluster)
    fixed, serial, file, megapixel = fit.costs
    said, was = fit(left_out), left_out.seconds
    hours, unshared = fit(dream) / 3600, (fixed + ARCHIVE * serial) / 3600
    costs = f"{fixed:.1f} s, {1e3 * serial:.3f} ms a file whatever the cores"
    shared = f"{1e3 * file:.2f} ms a file and {1e3 * megapixel:.1f} ms a megapixel on one core"
    unseen = f"{left_out.n_files:,} files on {left_out.cores} cores, left out of it"
    lines = [
        f"{name}: {costs}, {shared}",
        f"{name}: {unseen}: {was:.1f} s measured, {said:.1f} s predicted, {100 * (said / was - 1):+.1f} %",
        f"{name}: {ARCHIVE:,} such files on {cluster} cores: {hours:.1f} h, {unshared:.1f} h of it on any number",
    ]
    memory = Fit.of(runs, [run.others for run in runs], memory_parts)
    base, core = memory.costs
    lines.append(f"{name}: all but the JVM: {base:,.0f} MiB and {core:,.0f} MiB a core, whatever the number of files")
    if jvm := max(run.jvm for run in runs):
        lines.append(f"{name}: the JVM: {jvm:,.0f} MiB at most; it clears up only when spark.driver.memory is used up")
    return fit, lines


def draw(picture: Path, runs: dict[str, list[Run]], fits: dict[str, Fit]) -> None:
    """Draw what was measured of workload a as points, and the models as lines."""
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(7, 4.5), layout="constrained")).add_subplot()
    for name, all_runs in runs.items():
        for cores in sorted({run.cores for run in all_runs}):
            some = [run for run in all_runs if run.cores == cores and run.workload == "a"]
            n = [run.n_files for run in some]
            points = axes.plot(n, [run.seconds for run in some], "o", label=f"{name}, {cores} cores")
            axes.plot(n, [fits[name](run) for run in some], color=points[0].get_color())
    axes.set(xlabel="files of 512 x 512", ylabel="seconds", xlim=(0, None), ylim=(0, None))
    axes.legend()
    figure.savefig(picture)


def table(runs: dict[str, list[Run]], fits: dict[str, Fit]) -> list[str]:
    """Return a row for each run, in Markdown."""
    rows = [
        "| contestant | cores | images | files | seconds | model | error % | JVM MiB | others MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, all_runs in runs.items():
        for run in all_runs:
            said = fits[name](run)
            rows.append(
                f"| {name} | {run.cores} | {WORKLOADS[run.workload].title} | {run.n_files:,} | {run.seconds:.1f}"
                f" | {said:.1f} | {100 * (said / run.seconds - 1):+.1f} | {run.jvm:,.0f} | {run.others:,.0f} |"
            )
    return rows


def main() -> None:
    """Measure, fit, and print, write and draw what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=["job", "floor"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cluster", type=int, default=64, metavar="CORES")
    parser.add_argument("--home", type=Path, default=HOME, help="where the images are")
    parser.add_argument("--picture", type=Path, default=Path("grow.svg"))
    parser.add_argument("--table", type=Path, default=Path("grow.md"))
    given = parser.parse_args()
    sizes = [("a", given.files * times) for times in given.times]
    sizes += [("d", 8 * given.files), ("c", max(1, given.files // 20))]
    runs = {
        name: [run for cores in given.cores for run in measured(name, cores, sizes, given.rounds, given.home)]
        for name in given.contestants
    }
    fits, lines = {}, []
    for name, some in runs.items():
        fits[name], said = model(name, some, given.cluster)
        lines += said
    rows = table(runs, fits)
    print(*rows, "", *lines, "", *machine(given.contestants), sep="\n")
    given.table.write_text("\n".join([*rows, "", *lines, "", *machine(given.contestants), ""]), "utf-8")
    draw(given.picture, runs, fits)


if __name__ == "__main__":
    main()
