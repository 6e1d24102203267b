"""A Spark cluster of real processes on this machine: a standalone master, two workers, and the jobs sent to them.

Its ports are any free ones, and it runs under conf/spark/secure.conf: nobody gets in without the secret of the run.
Each process begins a session of its own: by that, whatever comes of it is known, and ended, also what has lost its
parent.
"""

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyspark
from hosts import LOOPBACK

SECONDS = 300  # longer than anything here takes on a busy machine
SPARK = Path(pyspark.__file__).parent
# Becomes a command that is killed with whoever runs the tests, should that one have no time to end it.
TIED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
BASE = Path(sys.executable).resolve()  # the Python that the environment of the tests was made from
SECURE = Path(__file__).parents[1] / "conf" / "spark" / "secure.conf"
# No executor reads the files of another: the workers stand for two machines, and what a dead one had is lost.
SETTINGS = """\
spark.authenticate.secret       {secret}
spark.port.maxRetries           0
spark.network.timeout           30s
spark.network.timeoutInterval   5s
spark.executor.heartbeatInterval 5s
spark.driver.memory             512m
spark.driver.extraJavaOptions   {java}
spark.executor.memory           512m
spark.executor.extraJavaOptions {java} -Dlog4j2.level=WARN
spark.shuffle.readHostLocalDisk false
spark.sql.shuffle.partitions    4
"""


@contextlib.contextmanager
def running(home, hosts):
    """Give a cluster on these hosts, the master's first, that keeps all it writes in a directory; and end it."""
    cluster = Cluster(home, hosts)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


@dataclass
class Cluster:
    home: Path
    hosts: list  # of the master and the jobs, and of each worker
    master: str = ""
    begun: list = field(default_factory=list)

    def start(self):
        """Start the master and two workers of one core each, and wait until they know each other."""
        java = f"{self.java} -XX:TieredStopAtLevel=1"
        self.settings.touch(mode=0o600)
        self.settings.write_text(SETTINGS.format(secret=secrets.token_hex(16), java=java))
        (self.home / "daemons.conf").write_text(SECURE.read_text() + self.settings.read_text())
        (self.home / "bin").mkdir()
        (self.home / "bin" / f"python3.{sys.version_info.minor}").symlink_to(BASE)
        # A machine with a Python, but without the environment of the tests.
        path = f"{self.home / 'bin'}:/usr/bin:/bin"
        options = {"SPARK_DAEMON_JAVA_OPTS": java, "SPARK_DAEMON_MEMORY": "256m", "PATH": path}

        def daemon(name, host, kind, *arguments):
            command = (SPARK / "bin" / "spark-class", f"org.apache.spark.deploy.{kind}")
            here = ("--host", host.address, "--port", "0", "--webui-port", "0")
            files = ("--properties-file", self.home / "daemons.conf")
            self._begin(name, host, *command, *here, *files, *arguments, SPARK_LOCAL_IP=host.address, **options)

        daemon("master", self.hosts[0], "master.Master")
        (self.master,) = self.until(lambda: self._find("master", r"Starting Spark master at (spark://\S+)"))
        for number, host in enumerate(self.hosts[1:], start=1):
            size = ("--cores", "1", "--memory", "1g", "--work-dir", self.home / f"worker-{number}")
            daemon(f"worker-{number}", host, "worker.Worker", *size, self.master)
        self.until(lambda: len(self._find("master", "Registering worker")) == 2)

    def submit(self, name, *arguments, ships=False):
        """Begin a job as spark-submit.sh does, and return its process; without ``ships`` its workers run our Python."""
        command = (sys.executable, "-P", "-m", "medspark.submit", "--master", self.master)
        files = ("--properties-file", SECURE, "--properties-file", self.settings)
        if ships:
            # The archives are encrypted on their way, which takes the first compiler three times as long.
            ours = ("--conf", f"spark.driver.extraJavaOptions={self.java}")
            ours += ("--conf", f"spark.executor.extraJavaOptions={self.java} -Dlog4j2.level=WARN")
        else:
            ours = ("--conf", f"spark.pyspark.python={sys.executable}")
        # The executors know of the key what the job tells them.
        key = {"MEDSPARK_KEY": os.environ["MEDSPARK_KEY"]}
        return self._begin(name, self.hosts[0], *command, *files, *ours, *arguments, **key)

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
        """Kill what is left, wait until it is gone, and remove what it has unpacked: some GB."""
        while left := self.family(*self.begun):
            self.kill(*left)
            time.sleep(0.01)
        for process in self.begun:
            process.wait()
        for place in (*self.home.glob("worker-*/"), *self.home.glob("spark-*/")):
            shutil.rmtree(place)

    def host_of(self, pid):
        """Return the host that a process of a worker runs on."""
        session = processes()[pid][1]
        return dict(zip([leader.pid for leader in self.begun], self.hosts, strict=False))[session]

    def executors(self):
        """Return the directories of all executors so far."""
        return sorted(self.home.glob("worker-*/app-*/*/"))

    def said(self):
        """Return everybody's last lines."""
        logs = [*self.home.glob("*.log"), *(place / "stderr" for place in self.executors())]
        ends = ((log, log.read_text("utf-8", "replace").splitlines()[-20:]) for log in logs if log.exists())
        return "".join(f"\n\n--- {log.relative_to(self.home)}\n" + "\n".join(lines) for log, lines in ends)

    @property
    def java(self):
        return f"-XX:+UseSerialGC -Djava.io.tmpdir={self.home}"

    @property
    def settings(self):
        return self.home / "secret.conf"

    def _begin(self, name, host, *command, **variables):
        # What the tests have set for a session of theirs is for no one else.
        shell = {key: value for key, value in os.environ.items() if not re.match("(PY|MED)?SPARK_|LOG4J_|MASTER$", key)}
        places = {"SPARK_HOME": SPARK, "SPARK_LOCAL_DIRS": self.home}
        if host == LOOPBACK:  # or Spark would look for another address, by which the workers reach the driver
            places["SPARK_LOCAL_IP"] = host.address
        with (self.home / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                (sys.executable, "-c", TIED, *host.command, *command),
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
