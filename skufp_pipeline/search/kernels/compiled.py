"""How the loops of the search are compiled: numba, without the interpreter lock, kept on disk."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Compiles on first call; keeps the result on disk where a folder for it can be written."""
    try:
        return numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:  # numba found no writable folder
        return numba.njit(nogil=True, **options)(function)


def bare(function: Callable[..., Any]) -> Any:
    """The same without reference counts, which cost more than the arithmetic of small inner functions.

    Such a function can't allocate.
    """
    return compiled(function, _nrt=False)


def reordered(function: Callable[..., Any]) -> Any:
    """The same with sums in whatever order is fastest."""
    return compiled(function, _nrt=False, fastmath={"reassoc", "nsz", "nnan"})


def inner(function: Callable[..., Any]) -> Any:
    """The same as part of whoever calls it: to pass the arrays costs more than the work."""
    return compiled(function, _nrt=False, forceinline=True)
