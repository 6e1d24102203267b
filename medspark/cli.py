"""``medspark NAME``: the jobs, and the tools around them, from an installed package in local mode."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import medspark
from medspark.errors import ConfigError

JOBS = ("index", "extract", "train", "score", "report")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in JOBS:
        # A job's own imports are heavy: only the one that runs is loaded.
        job = importlib.import_module(f"medspark.jobs.{arguments[0]}")
        return int(job.main(arguments[1:]))
    try:
        return _other(arguments)
    except (ConfigError, OSError) as error:
        print(f"medspark: {error}", file=sys.stderr)
        return 2


def _other(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="medspark",
        description="Turn an archive of medical images into features, models and predictions, on Apache Spark.",
        epilog=f"Jobs, each with --help: {', '.join(JOBS)}.",
    )
    parser.add_argument("--version", action="version", version=f"medspark {medspark.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    phantom = commands.add_parser("phantom", help="write a synthetic archive: for demonstrations, tests and benchmarks")
    phantom.add_argument("directory", type=Path)
    phantom.add_argument("--patients", type=int, default=40)
    phantom.add_argument("--seed", type=int, default=42)
    commands.add_parser("doctor", help="say what is installed, prove every decoder, tell what to install")
    for job in JOBS:
        commands.add_parser(job, help="a job of the line", add_help=False)
    options = parser.parse_args(arguments)
    if options.command == "doctor":
        try:
            from medspark import doctor
        except ImportError as error:
            raise ConfigError(f"a package of the core is missing ({error}): pip install medspark") from None
        return doctor.main()

    from medspark.phantom import write_archive

    inventory = write_archive(options.directory, patients=options.patients, seed=options.seed)
    print(f"{options.directory}: {inventory.n_good} good files and {inventory.n_damaged} damaged ones, all synthetic")
    return 0


if __name__ == "__main__":
    sys.exit(main())
