"""How the threads of one search coordinate."""

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.search.kernels.compiled import bare, inner
from skufp_pipeline.search.kernels.simd import fetch_add, pause, peek

PATIENCE = 5_000  # looks at a count before a part that another thread has taken is done again
IDLE = 10_000  # looks at the barrier before a helping thread goes to sleep
OPEN = np.int64(1 << 32)

# What threads count together: OPEN while a search may be helped, plus 1 for each thread that is in it;
# whether a query was not finite; portions of queries taken and encoded, whether all are; parts taken and done
# of the scan and of the sweep, whether it may begin; from FIRST_PART on how often each part has been scanned.
BARRIER, NOT_FINITE, ENCODE_TAKEN, ENCODE_DONE, ENCODED = range(5)
SCAN_TAKEN, SCAN_DONE, READY, SWEEP_TAKEN, SWEEP_DONE, FIRST_PART = range(5, 11)


@inner
def open_barrier(counts: NDArray[np.int64]) -> None:
    """Opens a search; no helping thread is inside yet."""
    counts[BARRIER + 1 :] = 0
    fetch_add(counts, BARRIER, OPEN)


@inner
def close_barrier(counts: NDArray[np.int64]) -> None:
    """Ends a search. There can be another with the same buffers when all who helped have left."""
    fetch_add(counts, BARRIER, -OPEN)
    waited(counts, BARRIER, 0)


@inner
def comes_in(counts: NDArray[np.int64], called: NDArray[np.int64]) -> bool:
    """Spins briefly for a search to help in; whether one came. Waking up takes as long as a search.

    Args:
        called: (1,) above 0 where the thread is called to other searches; it goes there at once.
    """
    for _ in range(IDLE):
        if peek(called, 0) > 0:
            return False
        if peek(counts, BARRIER) >= OPEN:
            if fetch_add(counts, BARRIER, 1) >= OPEN:
                return True
            fetch_add(counts, BARRIER, -1)
        pause()
    return False


@inner
def leave(counts: NDArray[np.int64]) -> None:
    """Leaves a search, when it has ended."""
    while peek(counts, BARRIER) >= OPEN:
        pause()
    fetch_add(counts, BARRIER, -1)


@inner
def mark_scanned(counts: NDArray[np.int64], part: int) -> None:
    """Counts a part of the scan as done, once."""
    if fetch_add(counts, FIRST_PART + part, 1) == 0:
        fetch_add(counts, SCAN_DONE, 1)


@inner
def wait_for(counts: NDArray[np.int64], done: int, number: int) -> None:
    """Waits until `done` has reached `number`."""
    while peek(counts, done) < number:
        pause()


@bare
def waited(counts: NDArray[np.int64], done: int, number: int) -> bool:
    """Spins briefly for parts that other threads have taken; whether `done` has reached `number`.

    A thread that the scheduler has suspended may be away for milliseconds.
    """
    for _ in range(PATIENCE):  # noqa: SIM110 (numba knows no any())
        if peek(counts, done) == number:
            return True
    return False
