"""Compiles the kernels with numba, without the GIL, and caches them on disk.

The cache is in `$NUMBA_CACHE_DIR` or the user's cache folder; in the package's own folder it would remain
after the package is removed.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import config
from platformdirs import user_cache_path


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Compiles on first call; caches the result on disk if a cache folder is writable."""
    before = config.CACHE_DIR
    config.CACHE_DIR = before or cache_folder()
    try:
        return numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:  # numba found no writable folder
        return numba.njit(nogil=True, **options)(function)
    finally:
        config.CACHE_DIR = before


@cache
def cache_folder() -> str:
    """A folder per content of all kernels, as numba checks a function's own file but not inlined callees."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return str(user_cache_path("skufp_pipeline") / "kernels" / digest.hexdigest()[:16])


def bare(function: Callable[..., Any]) -> Any:
    """`compiled` without reference counting, which costs more than small functions; they can't allocate."""
    return compiled(function, _nrt=False)


def reordered(function: Callable[..., Any]) -> Any:
    """`bare` with floating-point sums in any order."""
    return compiled(function, _nrt=False, fastmath={"reassoc", "nsz", "nnan"})


def inner(function: Callable[..., Any]) -> Any:
    """`bare` and inlined into the caller, because passing the arrays costs more than the work."""
    return compiled(function, _nrt=False, forceinline=True)
