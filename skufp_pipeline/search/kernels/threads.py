"""What the threads of one search tell each other."""

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.search.kernels.compiled import bare, inner
from skufp_pipeline.search.kernels.simd import fetch_add, peek

PATIENCE = 5_000  # looks at a count before a part that another thread has taken is done again


# What threads count together: portions of queries taken and encoded, whether all are, parts taken and done
# of the scan and of the sweep, whether the sweep may begin, and from FIRST_PART on how often each part of the
# scan has been done.
(
    ENCODE_TAKEN, ENCODE_DONE, ENCODED, SCAN_TAKEN, SCAN_DONE, READY, SWEEP_TAKEN, SWEEP_DONE, FIRST_PART,
) = range(9)  # fmt: skip


@inner
def mark_scanned(counts: NDArray[np.int64], part: int) -> None:
    """Counts a part of the scan as done, once."""
    if fetch_add(counts, FIRST_PART + part, 1) == 0:
        fetch_add(counts, SCAN_DONE, 1)


@bare
def waited(counts: NDArray[np.int64], done: int, parts: int) -> bool:
    """Waits a little for the parts that other threads have taken; whether `done` counts all `parts`.

    A thread that the system has put to sleep may be away for milliseconds.
    """
    for _ in range(PATIENCE):  # noqa: SIM110 (numba knows no any())
        if peek(counts, done) == parts:
            return True
    return False
