"""How the loops of the search are compiled: numba, without the interpreter lock, kept on disk.

Machine code is cached in `$NUMBA_CACHE_DIR` or the user's cache folder: in the package's own folder it would
stay behind when the package is removed.
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
    """Compiles on first call; caches the result on disk where a folder for it can be written."""
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
    """By the content of all kernels: numba looks at a function's own file, not at what is inlined into it."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return str(user_cache_path("skufp_pipeline") / "kernels" / digest.hexdigest()[:16])


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
