"""What it costs to do the work in a child process: guarded calls against direct ones, same recipe, same files.

    python benchmarks/isolation.py [--files N] [--size PIXELS] [--rounds N]

A row is a round: both go through all files in batches of 100 paths, in turns, batch by batch, so that a busy machine
slows both. CPU time is that of the process and of the child, which is forked anew in each round.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medspark import Recipe
from medspark.frame import Image
from medspark.phantom import write_png_set
from medspark.recipe import Outcome
from medspark.spark.guard import end_idle, guarded

BATCH = 100


@dataclass(frozen=True)
class Measure:
    """What the executors do with a path."""

    recipe: Recipe

    def __call__(self, path: str) -> list[Outcome]:
        return list(self.recipe.run(path))


def race(measure: Measure, paths: Sequence[str]) -> tuple[float, float, float, float]:
    """Return the seconds of a round: wall direct and guarded, CPU direct and guarded."""

    def direct(batch: Sequence[str]) -> Iterable[object]:
        return map(measure, batch)

    def isolated(batch: Sequence[str]) -> Iterable[object]:
        return guarded(measure, batch, seconds=60, memory_mb=4096)

    times = {direct: np.zeros(2), isolated: np.zeros(2)}
    before = _cpu(resource.RUSAGE_CHILDREN)
    for number, start in enumerate(range(0, len(paths), BATCH)):
        batch = paths[start : start + BATCH]
        found = [_timed(run, batch, times[run]) for run in ((direct, isolated) if number % 2 else (isolated, direct))]
        if found[0] != found[1]:
            raise SystemExit("the results differ")
    end_idle()  # the kernel counts a child once it has ended
    (wall, cpu), (wall_guarded, cpu_guarded) = times.values()
    return wall, wall_guarded, cpu, cpu_guarded + _cpu(resource.RUSAGE_CHILDREN) - before


def _timed(
    run: Callable[[Sequence[str]], Iterable[object]],
    batch: Sequence[str],
    seconds: Image,
) -> list[object]:
    wall, cpu = time.perf_counter(), _cpu(resource.RUSAGE_SELF)
    found = list(run(batch))
    seconds += (time.perf_counter() - wall, _cpu(resource.RUSAGE_SELF) - cpu)
    return found


def _cpu(of: int) -> float:
    used = resource.getrusage(of)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Make the files and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    measure = Measure(Recipe.from_toml("default"))
    measure.recipe.warm_up()
    with tempfile.TemporaryDirectory() as directory:
        write_png_set(Path(directory), n=options.files, size=options.size)
        paths = sorted(str(path) for path in Path(directory).iterdir())
        list(map(measure, paths[:BATCH]))
        print(f"{options.files} PNG {options.size} x {options.size}")
        print(
            f"{'':8} {'wall direct':>12} {'guarded':>9} {'ratio':>7}   {'CPU direct':>11} {'guarded':>9} {'ratio':>7}"
        )
        rounds = []
        for number in range(options.rounds):
            wall, wall_guarded, cpu, cpu_guarded = race(measure, paths)
            rounds.append((wall, wall_guarded, wall_guarded / wall, cpu, cpu_guarded, cpu_guarded / cpu))
            _print_row(str(number + 1), rounds[-1])
        _print_row("median", np.median(rounds, axis=0))


def _print_row(name: str, row: Sequence[float] | Image) -> None:
    print("{:8} {:12.3f} {:9.3f} {:7.3f}   {:11.3f} {:9.3f} {:7.3f}".format(name, *row))


if __name__ == "__main__":
    main()
