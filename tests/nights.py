"""Jobs one after the other in one session of another process: who uses an object store must not fork, and tests do."""

import json
import subprocess
import sys

import pytest

ONE_SESSION = """
import json, sys
from importlib import import_module
from medspark.config import load, parser
from medspark.errors import MedsparkError
from medspark.spark.session import session, stop

spark = session("nights")
for line in sys.stdin:
    job, *options = json.loads(line)
    try:
        told = import_module(f"medspark.jobs.{job}").run(spark, load(parser(job, "").parse_args(options)))
    except MedsparkError as error:
        told = f"{type(error).__name__}: {error}"
    print("told", json.dumps(told), flush=True)
stop(spark)
"""


class Nights:
    """A session that runs a job and tells its exit code, or the error it stopped with."""

    def __init__(self, environment):
        command = [sys.executable, "-c", ONE_SESSION]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def run(self, job, *options):
        print(json.dumps([job, *map(str, options)]), file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("told "):
                return json.loads(line.removeprefix("told "))
        pytest.fail(self.process.stderr.read())

    def end(self):
        """End the session, and return its exit code and what it said on stderr."""
        _, errors = self.process.communicate()
        return self.process.returncode, [line for line in errors.splitlines() if "incubator modules" not in line]
