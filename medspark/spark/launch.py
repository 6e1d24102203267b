"""From a command line to an exit code, the same for every job."""

import sys
from collections.abc import Callable, Sequence

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from medspark.config import Config, load, parser
from medspark.errors import ConfigError, ContractError

DONE, NOT_ACCEPTABLE, NOTHING_DONE, ENGINE_FAILED = 0, 1, 2, 3


def launch(
    job: str, description: str, run: Callable[[SparkSession, Config], int], argv: Sequence[str] | None = None
) -> int:
    """Run a job and return its exit code: 0 done, 1 done but not acceptable, 2 nothing done, 3 the engine failed."""
    from py4j.protocol import Py4JError

    from medspark.spark.session import session

    try:
        config = load(parser(job, description).parse_args(argv))
        config.require("warehouse")
        spark = session(job)
        try:
            return run(spark, config)
        finally:
            spark.stop()
    except (ConfigError, ContractError) as error:
        print(f"medspark {job}: {error}", file=sys.stderr)
        return NOTHING_DONE
    except (PySparkException, Py4JError) as error:
        first_line = str(error).strip().split("\n", 1)[0][:300]
        print(
            f"medspark {job}: Spark failed, run again to continue: {type(error).__name__}: {first_line}",
            file=sys.stderr,
        )
        return ENGINE_FAILED
