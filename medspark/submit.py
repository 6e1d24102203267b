"""What ``spark-submit.sh`` adds to a command line of spark-submit: the job's full path and the local settings."""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path

from medspark.errors import ConfigError, did_you_mean
from medspark.java import ensure_java

USAGE = "usage: spark-submit.sh [spark-submit options] jobs/NAME.py [job options]"
CHECKOUT = Path(__file__).parents[1]
LOCAL_SETTINGS = CHECKOUT / "conf" / "spark" / "local.conf"
SWITCHES = {"--help", "-h", "--load-spark-defaults", "--supervise", "--usage-error", "--verbose", "-v", "--version"}
WITHOUT_JOB = {"--help", "-h", "--kill", "--status", "--usage-error", "--version"}


def complete(arguments: Sequence[str]) -> list[str]:
    """Return the arguments for spark-submit: the job by its path, and the local settings for a local master.

    A job is looked for in the working directory, then in the checkout. Raises ConfigError when no job is named or the
    named one does not exist.
    """
    options, rest = _split(arguments)
    names = {name for name, _ in options}
    if names & WITHOUT_JOB:
        return list(arguments)
    if not rest:
        raise ConfigError(USAGE)
    before = list(arguments[: -len(rest)])
    if _is_local(options):
        if "--properties-file" not in names:
            before = ["--properties-file", str(LOCAL_SETTINGS), *before]
        # Workers on this machine run in this environment, whatever PYSPARK_PYTHON the user's shell sets for others.
        before = ["--conf", f"spark.pyspark.python={sys.executable}", *before]
    return [*before, _find(rest[0]), *rest[1:]]


def _split(arguments: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Part the options of spark-submit, as names and values, from the job and the job's own options."""
    options, rest = [], list(arguments)
    while rest and rest[0].startswith("-"):
        name, equals, value = rest.pop(0).partition("=")
        if not equals and name not in SWITCHES and rest:
            value = rest.pop(0)
        options.append((name, value))
    return options, rest


def _is_local(options: Sequence[tuple[str, str]]) -> bool:
    """Tell whether the job will run on this machine; spark-submit takes --master, then spark.master, then MASTER."""
    given = dict(options)
    settings = dict(value.split("=", 1) for name, value in options if name in {"--conf", "-c"} and "=" in value)
    master = given.get("--master") or settings.get("spark.master") or os.environ.get("MASTER", "local[*]")
    return "--remote" not in given and master.startswith("local")


def _find(job: str) -> str:
    """Return a job as the caller sees it, or else as it stands in the checkout; a URI is left to Spark."""
    if "://" in job or Path(job).exists():
        return job
    if (CHECKOUT / job).is_file():
        return str(CHECKOUT / job)
    jobs = [f"jobs/{path.name}" for path in (CHECKOUT / "jobs").glob("[!_]*.py")]
    raise ConfigError(f"no job {job!r} here or in {CHECKOUT}; {did_you_mean(job, jobs)}")


def main() -> None:
    """Become spark-submit; the exit code is then the job's."""
    try:
        command = complete(sys.argv[1:])
        ensure_java()
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    home = Path(str(distribution("pyspark").locate_file("pyspark")))
    # Another Spark or another driver Python that the user's shell names would not know this environment.
    os.environ.update(SPARK_HOME=str(home), PYSPARK_DRIVER_PYTHON=sys.executable)
    submit = home / "bin" / "spark-submit"
    os.execv(submit, [str(submit), *command])  # noqa: S606 - the user's own command line


if __name__ == "__main__":
    main()
