"""Work that may take its process down: done in a child process, so that a bad file costs a row and not the job.

A decoder may crash on a damaged file, hang, or take all memory. Spark knows tasks, not files: a task whose worker dies
is tried again on the same file, and after four deaths the whole job fails; a task that hangs is never ended. So the
worker forks a child that does all of the work, kills it when an item takes too long, and forks another when it died.
Only items and results pass between them: one message with a batch of items, then one message for each result.

A fork costs 10 ms, so a child lives on between the batches of a task and between the tasks of a worker. What an item
leaves behind, memory or a damaged heap, could then be the death of a later one. So an item that a child dies of is
tried again as the first of a new one, and only then blamed: its result does not depend on its neighbours. One that took
too long is not tried again.

This guards against bad files, not against malicious ones: the child has all rights of the worker.
"""

import atexit
import ctypes
import os
import pickle
import resource
import select
import signal
import struct
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, TypeVar

from medspark.errors import is_out_of_memory

Item = TypeVar("Item")
Result = TypeVar("Result")

_LONGEST_NAP_MS, _A_HANDFUL = 20.0, 16  # to be woken for each of many small results costs more than they do
_SIZE = struct.Struct("!Q")  # of a result, before it
_PIECE = 1 << 18  # bytes: as much as waits between two processes
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # sys/prctl.h


@dataclass(frozen=True)
class Death:
    """How an item ended the process that worked on it."""

    reason: str  # crashed, timeout or out_of_memory
    error: str


def guarded(
    work: Callable[[Item], Result], items: Sequence[Item], *, seconds: float, memory_mb: int
) -> Iterator[Result | Death]:
    """Yield what ``work`` returns for each item, in order, or how the item ended the process that worked on it.

    Each may take ``seconds`` from the one before it; the child may have ``memory_mb`` MiB more address space than this
    process (on Linux). Calls with equal ``work`` and ``memory_mb`` share a child. Items and results are pickled,
    ``work`` never is; an item may be worked on twice. Raises RuntimeError where ``work`` raises: it makes results of
    the exceptions it expects. MemoryError and what is no Exception, such as SystemExit or a panic in Rust, are deaths.
    """
    n_done = 0
    child = _idle_child(work, items, memory_mb) if items else None
    try:
        while n_done < len(items):
            child = child or _Child(work, items[n_done:], memory_mb)
            result, death = child.receive(seconds, n_left=len(items) - n_done)
            if death is not None:
                is_to_blame = child.n_done == 0 or death.reason == "timeout"
                child = None
                if not is_to_blame:
                    continue
            n_done += 1
            yield result if death is None else death
    finally:
        if child is not None:
            if n_done == len(items) and not _idle:
                _idle.append(child)
            else:
                child.end()


class _Child:
    """A process that works on the items that it is forked with, then on those of each message."""

    def __init__(self, work: Callable[[Any], Any], items: Sequence[Any], memory_mb: int) -> None:
        self.work = work
        self.memory_mb = memory_mb
        self.n_done = 0
        self.pipe, theirs = Pipe()
        parent = os.getpid()
        sys.stdout.flush()  # or the child would have a copy of what waits here
        sys.stderr.flush()
        with warnings.catch_warnings():  # of threads, by Python 3.12: those of Arrow and OpenBLAS bear a fork
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            try:
                _send(theirs, _serve(parent, theirs, work, items, memory_mb))
            finally:  # never back into the frames of the worker, nor to what it does at its exit
                os._exit(0)
        theirs.close()
        self.nap_ms = 1.0
        self.bytes = bytearray()  # what has come of a message that is not whole yet
        self.messages: deque[bytes] = deque()
        self.ended, self.ready = select.poll(), select.poll()
        self.ended.register(self.pipe, 0)
        self.ready.register(self.pipe, select.POLLIN)

    def receive(self, seconds: float, *, n_left: int) -> tuple[Any, Death | None]:
        """Return the next result, or how the process died before it."""
        if not self.messages and n_left > _A_HANDFUL and not self.ready.poll(0):
            self.ended.poll(self.nap_ms)
            if self.ready.poll(0):
                self._read()
            # So long that a handful comes meanwhile, and never so long that the pipe is full before.
            self.nap_ms = min(_LONGEST_NAP_MS, self.nap_ms * _A_HANDFUL / max(1, len(self.messages)))
        while not self.messages:
            if not self.ready.poll(seconds * 1000):
                self.end()
                return None, Death("timeout", f"took longer than {seconds:g} s (limits.seconds_per_file)")
            if not self._read():
                return None, Death("crashed", _last_words(self.end()))
        result, death, trace = pickle.loads(self.messages.popleft())  # noqa: S301 - from our own child
        if trace is not None:
            raise RuntimeError(f"in the child process:\n{trace}")
        if death is None:
            self.n_done += 1
        else:
            self.end()
        return result, death

    def _read(self) -> bool:
        """Take what has come; False if nothing will come any more."""
        try:
            found = os.read(self.pipe.fileno(), _PIECE)
        except OSError:
            return False
        self.bytes += found
        first = 0
        while len(self.bytes) - first >= _SIZE.size:
            start = first + _SIZE.size
            (size,) = _SIZE.unpack_from(self.bytes, first)
            if len(self.bytes) - start < size:
                break
            first = start + size
            self.messages.append(bytes(self.bytes[start:first]))
        del self.bytes[:first]
        return bool(found)

    def end(self) -> int:
        """Kill the process if it still runs; return its exit code, or minus the signal that ended it."""
        os.kill(self.pid, signal.SIGKILL)
        self.pipe.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


_idle: list[_Child] = []  # at most one, for the next batch or task of this process
os.register_at_fork(after_in_child=_idle.clear)


@atexit.register
def end_idle() -> None:
    """End the child that waits for the next call."""
    while _idle:
        _idle.pop().end()


def _idle_child(work: Callable[[Any], Any], items: Sequence[Any], memory_mb: int) -> _Child | None:
    """Return the idle child, with the items sent to it, if it does this work; end another."""
    if _idle and (_idle[0].memory_mb, _idle[0].work) == (memory_mb, work):
        message = pickle.dumps(items)
        child = _idle.pop()
        try:
            child.pipe.send_bytes(message)  # read to its end before the first result is written
        except OSError:  # it died while it was idle
            child.end()
        else:
            return child
    end_idle()
    return None


def _last_words(code: int) -> str:
    if code >= 0:
        return f"ended the process (exit code {code})"
    known = {each.value: each.name for each in signal.Signals}
    return f"took the process down (signal {known.get(-code, -code)})"


def _serve(parent: int, pipe: Connection, work: Callable[[Any], Any], items: Sequence[Any], memory_mb: int) -> bytes:
    """Send a result for each item, of these and of each message; return the last message, which says what ended it."""
    death = Death("out_of_memory", f"needs more than {memory_mb} MiB (limits.memory_mb)")
    out_of_memory = pickle.dumps((None, death, None))  # made while there is memory
    try:
        _leave(parent, pipe, memory_mb)
        while True:
            for item in items:
                _send(pipe, pickle.dumps((work(item), None, None)))
            items = pickle.loads(pipe.recv_bytes())  # noqa: S301 - from our own parent
    except Exception as error:  # noqa: BLE001 - the parent raises it
        if is_out_of_memory(error):
            return out_of_memory
        return pickle.dumps((None, None, traceback.format_exc()))
    except BaseException as error:  # noqa: BLE001 - its kind only: what it says may be a patient's
        return pickle.dumps((None, Death("crashed", f"ended the process ({type(error).__name__})"), None))


def _send(pipe: Connection, message: bytes) -> None:
    left = memoryview(_SIZE.pack(len(message)) + message)
    while left:
        left = left[os.write(pipe.fileno(), left) :]


def _leave(parent: int, pipe: Connection, memory_mb: int) -> None:
    """Leave signals and files to the parent, end when it ends, and take no more memory than allowed."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:  # it ended before the line above
        os._exit(0)
    for known in signal.valid_signals():
        if callable(signal.getsignal(known)):
            signal.signal(known, signal.SIG_DFL)
    # As long as a child holds the sockets to the JVM, the JVM does not see that the worker is gone. The numbers stay
    # taken: objects that came along may close them at any time, and must not hit a file that a decoder has open.
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in [int(entry.name) for entry in Path("/dev/fd").iterdir()]:
        if number > 2 and number not in (pipe.fileno(), nothing):
            os.dup2(nothing, number, inheritable=False)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold pixels
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        wanted = pages * resource.getpagesize() + (memory_mb << 20)
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
