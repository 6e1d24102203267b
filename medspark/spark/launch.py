"""From a command line to an exit code, the same for every job."""

import errno
import os
import re
import shutil
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from deltalake.exceptions import DeltaError
from pyspark.errors import PySparkException, PythonException
from pyspark.sql import SparkSession

from medspark import log
from medspark.config import Config, load, parser
from medspark.errors import ConfigError, ConflictError, ContractError

DONE, NOT_ACCEPTABLE, NOTHING_DONE, ENGINE_FAILED = 0, 1, 2, 3


def launch(
    job: str,
    description: str,
    run: Callable[[SparkSession, Config], int],
    argv: Sequence[str] | None = None,
    *,
    check: Callable[[Config], None] | None = None,
) -> int:
    """Run a job and return its exit code: 0 done, 1 done but not acceptable, 2 nothing done, 3 the engine failed.

    ``check`` raises what is wrong with the configuration beforehand, while the session starts.
    """
    from py4j.protocol import Py4JError

    from medspark.spark.session import session, stop

    plain_warnings()
    try:
        config = load(parser(job, description).parse_args(argv))
        log.use(config.run.log, job)
        config.require("warehouse")
        if check is not None:
            check(config)
        spark = session(job)
        try:
            return run(spark, config)
        finally:
            stop(spark)
    except (ConfigError, ContractError) as error:
        return _failed(f"medspark {job}: {error}", error, NOTHING_DONE)
    except ConflictError as error:
        return _failed(f"medspark {job}: {error}", error, ENGINE_FAILED)
    except (PySparkException, Py4JError, DeltaError, OSError) as error:
        cause = _cause(error)
        if os.strerror(errno.ENOSPC) in cause:
            cause += f": {_fullest(config.warehouse)}"
        return _failed(f"medspark {job}: failed, run again to continue: {cause}", error, ENGINE_FAILED)
    except Exception as error:  # noqa: BLE001 - a fault of ours, to be seen; Python's own exit code 1 would mean done
        return _failed(traceback.format_exc().removesuffix("\n"), error, ENGINE_FAILED)
    finally:
        log.use("text")


def plain_warnings() -> None:
    """Say what a warning says, and not where in our code it was said."""
    warnings.formatwarning = lambda message, *_: log.line(f"medspark: {message}", "warning") + "\n"


def _failed(text: str, error: Exception, code: int) -> int:
    log.complain(text, "failed", exit_code=code, error=type(error).__name__)
    return code


def _fullest(warehouse: str) -> str:
    """Return in words which of the places that a job writes to has the least room."""
    places = {
        "the warehouse": Path(warehouse.removeprefix("file://")).absolute(),
        "Spark's scratch directory, SPARK_LOCAL_DIRS,": Path(os.environ.get("SPARK_LOCAL_DIRS", tempfile.gettempdir())),
    }
    free = {name: shutil.disk_usage(place).free for name, place in places.items() if place.is_dir()}
    name = min(free, key=lambda name: free[name])
    return f"{name} {places[name]} has {free[name]:,} bytes free"


def _cause(error: Exception) -> str:
    """Return what failed in a line, without what a Python worker said of it: its words may be a patient's."""
    if isinstance(error, PythonException):
        if (full := os.strerror(errno.ENOSPC)) in str(error):
            return f"OSError: {full}"
        # The last place of the last trace, a child's if there is one, and the kind of exception on the first line after
        # it that is not indented.
        trace = r'^ +File "(.*)", line (\d+).*\n(?: (?! *File ).*\n)*([\w.]+)'
        places = re.findall(trace, str(error), re.MULTILINE)
        return "{2} in a Python worker, {0}:{1}".format(*places[-1]) if places else "an exception in a Python worker"
    cause = getattr(error, "java_exception", None)
    while cause is not None and cause.getCause() is not None:
        cause = cause.getCause()
    text = str(error) if cause is None else str(cause.toString())
    if worker := re.search(r"Error from python worker:\n((?: .*\n)+)", text):  # one that never began
        return f"no Python worker can start: {worker[1].strip().splitlines()[-1].strip()[:500]}"
    return f"{type(error).__name__}: {text.strip().splitlines()[0][:300]}"
