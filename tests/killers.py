"""A feature that ends the process on images that ask for it: the value of their first pixel says how."""

import ctypes
import os
import signal
import time


class PanicError(BaseException):
    """As pyo3 makes of a panic in Rust."""


def _panic():
    raise PanicError("Nobody^Test")


def _hoard():
    hoarded = []
    while True:
        hoarded.append(bytearray(1 << 20))


WAYS = (
    lambda: None,
    lambda: ctypes.string_at(0),
    lambda: os._exit(0),
    lambda: os.kill(os.getpid(), signal.SIGKILL),
    _panic,
    lambda: time.sleep(1e6),
    _hoard,
)
NAMES = ("survivor", "segfault", "exit", "kill", "panic", "sleep", "hoard")
REASONS = dict.fromkeys(NAMES[1:5], "crashed") | {"sleep": "timeout", "hoard": "out_of_memory"}


def strike(image):
    """Die as the first pixel says; 1 for an image that is survived."""
    first = int(image[0, 0])
    if first < len(WAYS):
        WAYS[first]()
    return {"survived": 1.0}
