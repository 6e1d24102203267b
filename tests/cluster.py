"""A Spark cluster of real processes on this machine: a standalone master, two workers, and the jobs sent to them.

Its ports are any free ones, and it lets nobody in who does not know the secret of the run. Each process begins a
session of its own: by that, whatever comes of it is known, and ended, also what has lost its parent.
"""

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyspark

SECONDS = 300  # longer than anything here takes on a busy machine
SPARK = Path(pyspark.__file__).parent
# Becomes a command that is killed with whoever runs the tests, should that one have no time to end it.
TIED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
# No REST server of the master: its port is always the same, and it asks for no secret. No executor reads the files of
# another: the workers stand for two machines, and what a dead one had is lost.
SETTINGS = """\
spark.authenticate              true
spark.authenticate.secret       {secret}
spark.master.rest.enabled       false
spark.port.maxRetries           0
spark.driver.memory             512m
spark.driver.extraJavaOptions   {java}
spark.executor.memory           512m
spark.executor.extraJavaOptions {java}
spark.shuffle.readHostLocalDisk false
spark.ui.enabled                false
spark.sql.shuffle.partitions    4
"""


@contextlib.contextmanager
def running(home):
    """Give a cluster that keeps all it writes in a directory, and end it."""
    cluster = Cluster(home)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


@dataclass
class Cluster:
    home: Path
    master: str = ""
    begun: list = field(default_factory=list)

    def start(self):
        """Start the master and two workers of one core each, and wait until they know each other."""
        java = f"-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.io.tmpdir={self.home}"
        self.settings.write_text(SETTINGS.format(secret=secrets.token_hex(16), java=java))
        options = {"SPARK_DAEMON_JAVA_OPTS": java, "SPARK_DAEMON_MEMORY": "256m"}

        def daemon(name, kind, *arguments):
            command = (SPARK / "bin" / "spark-class", f"org.apache.spark.deploy.{kind}")
            here = ("--host", "127.0.0.1", "--port", "0", "--webui-port", "0")
            self._begin(name, *command, *here, "--properties-file", self.settings, *arguments, **options)

        daemon("master", "master.Master")
        (self.master,) = self.until(lambda: self._find("master", r"Starting Spark master at (spark://\S+)"))
        for name in ("worker-1", "worker-2"):
            size = ("--cores", "1", "--memory", "1g", "--work-dir", self.home / name)
            daemon(name, "worker.Worker", *size, self.master)
        self.until(lambda: len(self._find("master", "Registering worker")) == 2)

    def submit(self, name, *arguments):
        """Begin a job as spark-submit.sh does, and return its process."""
        command = (sys.executable, "-P", "-m", "medspark.submit", "--master", self.master)
        # The executors know of the key what the job tells them.
        key = {"MEDSPARK_KEY": os.environ["MEDSPARK_KEY"]}
        return self._begin(name, *command, "--properties-file", self.settings, *arguments, **key)

    def until(self, found, process=None):
        """Return what is found at last; fail if the process, or else the master, ends before."""
        latest = time.monotonic() + SECONDS
        while not (result := found()):
            assert not has_ended(process or self.begun[0]), f"it ended{self.said()}"
            assert time.monotonic() < latest, f"nothing in {SECONDS} s{self.said()}"
            time.sleep(0.01)
        return result

    def succeed(self, job):
        """Wait for the end of a job, which has to be exit code 0."""
        self.until(lambda: has_ended(job))
        assert has_ended(job).si_status == 0, f"exit code {has_ended(job).si_status}{self.said()}"

    def family(self, *leaders):
        """Return the living processes of these and of all that they began."""
        sessions = {leader.pid for leader in leaders}
        return {pid for pid, (_, session) in processes().items() if session in sessions}

    def kill(self, *pids):
        """Kill processes that live and are of the cluster."""
        for pid in self.family(*self.begun).intersection(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def end(self):
        """Kill what is left, and wait until it is gone."""
        while left := self.family(*self.begun):
            self.kill(*left)
            time.sleep(0.01)
        for process in self.begun:
            process.wait()

    def executors(self):
        """Return the directories of all executors so far."""
        return sorted(self.home.glob("worker-*/app-*/*/"))

    def said(self):
        """Return everybody's last lines."""
        logs = [*self.home.glob("*.log"), *(place / "stderr" for place in self.executors())]
        ends = ((log, log.read_text("utf-8", "replace").splitlines()[-20:]) for log in logs if log.exists())
        return "".join(f"\n\n--- {log.relative_to(self.home)}\n" + "\n".join(lines) for log, lines in ends)

    @property
    def settings(self):
        return self.home / "spark-defaults.conf"

    def _begin(self, name, *command, **variables):
        # What the tests have set for a session of theirs is for no one else.
        shell = {key: value for key, value in os.environ.items() if not re.match("(PY|MED)?SPARK_|LOG4J_", key)}
        places = {"SPARK_HOME": SPARK, "SPARK_LOCAL_DIRS": self.home, "SPARK_LOCAL_IP": "127.0.0.1"}
        with (self.home / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                (sys.executable, "-c", TIED, *command),
                env=shell | places | variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.begun.append(process)
        return process

    def _find(self, name, pattern):
        return re.findall(pattern, (self.home / f"{name}.log").read_text("utf-8", "replace"))


def has_ended(process):
    """Return how a process ended, None while it runs. It is not reaped, so nobody else can get its number yet."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)


def processes():
    """Return parent and session of each process of this machine, but of those that have ended."""
    found = {}
    for place in Path("/proc").glob("[1-9]*"):
        with contextlib.suppress(OSError):  # it has ended by now
            state, parent, _, session = (place / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[:4]
            if state != "Z":
                found[int(place.name)] = int(parent), int(session)
    return found


def parent(pid):
    return processes()[pid][0]
