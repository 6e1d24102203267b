"""``medspark NAME``: the jobs, and the tools around them, from an installed package in local mode."""

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import medspark
from medspark.errors import ConfigError, ConflictError, ContractError

JOBS = ("index", "extract", "train", "score", "report", "reprocess")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in JOBS:
        from medspark.spark.session import begin

        if not {"-h", "--help"}.intersection(arguments):
            begin(arguments[0])  # while what the job imports is read, a second each
        job = importlib.import_module(f"medspark.jobs.{arguments[0]}")
        return int(job.main(arguments[1:]))
    if arguments and arguments[0] == "export":
        from medspark import exchange  # loads Arrow, which --help does not need

        return exchange.main(arguments[1:])
    try:
        return _other(arguments)
    except (ConfigError, ContractError, OSError) as error:
        print(f"medspark: {error}", file=sys.stderr)
        return 2
    except ConflictError as error:
        print(f"medspark: {error}", file=sys.stderr)
        return 3


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
    vacuum = commands.add_parser("vacuum", help="remove files that no table needs any more, merge small ones")
    vacuum.add_argument(
        "--retention-hours",
        type=float,
        default=168,
        help="keep what tables used until so long ago, for those who still read it (default: 168, a week)",
    )
    forget = commands.add_parser("forget", help="erase a patient from the tables, their history and the models")
    forget.add_argument("--patient", required=True, metavar="PSEUDONYM", help="patient_id as the tables have it")
    for command in (vacuum, forget):
        command.add_argument("--warehouse", required=True, metavar="URI", help="where the tables are")
        command.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    commands.add_parser("export", help="write a model as one ONNX file, for other programs", add_help=False)
    for job in JOBS:
        commands.add_parser(job, help="a job of the line", add_help=False)
    options = parser.parse_args(arguments)
    if options.command == "doctor":
        try:
            from medspark import doctor
        except ImportError as error:
            raise ConfigError(f"a package of the core is missing ({error}): pip install medspark") from None
        return doctor.main()
    if options.command in ("vacuum", "forget"):
        return _upkeep(options)

    from medspark.phantom import write_archive

    inventory = write_archive(options.directory, patients=options.patients, seed=options.seed)
    print(f"{options.directory}: {inventory.n_good} good files and {inventory.n_damaged} damaged ones, all synthetic")
    return 0


def _upkeep(options: argparse.Namespace) -> int:
    # It loads Arrow, which --help does not need.
    from deltalake.exceptions import DeltaError

    try:
        for line in _done(options):
            print(line, flush=True)
    except (DeltaError, OSError) as error:
        print(f"medspark {options.command}: failed, run again to continue: {error}", file=sys.stderr)
        return 3
    return 0


def _done(options: argparse.Namespace) -> Iterator[object]:
    """Yield what to tell, each part when it is done: where a merge finds no room, what was removed is gone."""
    from medspark import upkeep
    from medspark.warehouse import Warehouse

    warehouse, dry_run = Warehouse.at(options.warehouse), options.dry_run
    head = ["dry run, nothing was removed; without --dry-run this goes:"] if dry_run else []
    if options.command == "forget":
        yield from [*head, upkeep.forget(warehouse, options.patient, dry_run=dry_run)]
        return
    removed = upkeep.vacuum(warehouse, retention_hours=options.retention_hours, dry_run=dry_run)
    yield from [*head, *removed]
    merged = upkeep.merge(warehouse, dry_run=dry_run)
    yield from merged
    if not removed and not merged:
        yield "nothing to remove"


if __name__ == "__main__":
    sys.exit(main())
