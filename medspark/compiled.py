"""Compiled kernels: one set of options for all of them."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Return the function compiled by numba when it is first called, and kept on disk for the next process.

    Without fastmath, which would allow fused multiply-adds and so change how ties between equal numbers are decided.
    """
    try:
        return cast("F", numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # no directory can be written, as in a read-only container: compiled once a process
        return cast("F", numba.njit(nogil=True)(function))
