"""What a process and all that it started have used: CPU time, and memory by kind of process.

CPU time is that of a control group (version 1 or 2) where one can be made, usually as root: it counts processes that
have ended and those whose parent is another by now, as Spark's Python workers. Elsewhere it is read from /proc, where
the workers of Spark that have ended are missing.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

CONTROLLER = Path("/sys/fs/cgroup/cpuacct")  # version 1
EVERY_SECONDS = 0.05


class Metered:
    """A command that runs, with what it and its children use. ``log`` takes its standard error."""

    def __init__(self, command: Sequence[str], *, log: IO[str]) -> None:
        self.group = _new_group()
        # The shell joins the group before it becomes the command, so that nothing of it is counted elsewhere.
        join = [] if self.group is None else ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', _procs(self.group)]
        self.process = subprocess.Popen(
            [*join, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
        self.requests, self.answers = cast(IO[bytes], self.process.stdin), cast(IO[bytes], self.process.stdout)

    def cpu(self) -> float:
        """Return the CPU seconds, user and system, used so far."""
        if self.group is None:
            return sum(_ticks(pid) for pid in self.pids()) / os.sysconf("SC_CLK_TCK")
        usage = self.group / "cpuacct.usage"
        if usage.exists():
            return int(usage.read_text()) / 1e9
        return int((self.group / "cpu.stat").read_text().split()[1]) / 1e6  # its first line: usage_usec

    def pids(self) -> list[int]:
        """Return the processes that run now."""
        if self.group is None:
            return _descendants(self.process.pid)
        return [int(pid) for pid in Path(_procs(self.group)).read_text().split()]

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let its processes go on, and stop them afterwards: they take no time from others."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    @contextmanager
    def memory(self) -> Iterator[dict[str, int]]:
        """Keep the peaks, in bytes, of the proportional set size (PSS) of the JVM and of all other processes.

        PSS shares out what several processes map. Reading it costs CPU time on a core of its own: not for a turn whose
        time counts.
        """
        peaks = {"JVM": 0, "rest": 0}
        is_over = threading.Event()

        def sample() -> None:
            while not is_over.wait(EVERY_SECONDS):
                for kind, used in self._memory_now().items():
                    peaks[kind] = max(peaks[kind], used)

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield peaks
        finally:
            is_over.set()
            thread.join()

    def _memory_now(self) -> dict[str, int]:
        used = {"JVM": 0, "rest": 0}
        for pid in self.pids():
            with suppress(OSError):  # it has ended
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                pss = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
                used["JVM" if name == "java" else "rest"] += pss << 10
        return used

    def end(self, seconds: float) -> None:
        """Close its input, and after ``seconds`` kill what still runs of it."""
        self._signal(signal.SIGCONT)
        with suppress(OSError):
            self.requests.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        while self.pids():
            self._signal(signal.SIGKILL)
            time.sleep(0.05)
            self.process.poll()  # or it would stay among the processes
        if self.group is not None:
            self.group.rmdir()


def how() -> str:
    """Return in words how CPU time is counted here."""
    group = _new_group()
    if group is None:
        return "/proc, without the workers of Spark that have ended: no control group can be made here"
    version = 1 if (group / "cpuacct.usage").exists() else 2
    group.rmdir()
    return f"a control group (version {version}) for each contestant"


_made = 0


def _new_group() -> Path | None:
    """Return a new control group that a process of ours can join, or None."""
    global _made  # noqa: PLW0603 - a number for each
    for parent in (CONTROLLER, *_own_groups()):
        _made += 1
        group = parent / f"medspark-{os.getpid()}-{_made}"
        try:
            group.mkdir()
        except OSError:
            continue
        joined = subprocess.run(
            ["/bin/sh", "-c", 'echo $$ > "$0"', _procs(group)], check=False, stderr=subprocess.DEVNULL
        )
        if joined.returncode == 0 and any((group / name).exists() for name in ("cpuacct.usage", "cpu.stat")):
            return group
        group.rmdir()
    return None


def _own_groups() -> list[Path]:
    """Return the places of version 2 where a group may be made: that of this process, and the one above it."""
    own = [line.removeprefix("0::/") for line in Path("/proc/self/cgroup").read_text().split() if line[:3] == "0::"]
    mounts = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]
    roots = [mount for mount in mounts if (mount / "cgroup.controllers").exists()]
    return [place for root in roots for name in own for place in {root / name, (root / name).parent}]


def _procs(group: Path) -> str:
    return str(group / "cgroup.procs")


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def _ticks(pid: int) -> int:
    """Return the time of a process and of the children that it has waited for."""
    try:
        return sum(map(int, _stat(pid)[11:15]))
    except OSError:  # it has ended
        return 0


def _descendants(pid: int) -> list[int]:
    """Return a process, what it started, and what runs in a session of theirs under another parent."""
    above: dict[int, set[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            _, parent, _, session = _stat(int(entry.name))[:4]
            above[int(entry.name)] = {int(parent), int(session)}
    found = {pid} & above.keys()
    while more := {child for child, ones in above.items() if ones & found} - found:
        found |= more
    return sorted(found)
