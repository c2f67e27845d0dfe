"""How the threads of one search coordinate."""

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.search.kernels.compiled import bare, inner
from skufp_pipeline.search.kernels.simd import fetch_add, pause, peek

PATIENCE = 5_000  # polls of a counter before the parts that other threads have taken are redone
IDLE = 10_000  # polls of the barrier before a helper thread goes to sleep
OPEN = np.int64(1 << 32)

# Shared counters. BARRIER: OPEN while helpers may enter, plus 1 per thread inside. NOT_FINITE: bad queries.
# ENCODE_*: portions taken and done, ENCODED: all done. SCAN_*: parts taken and done, READY: sweep may begin.
# SWEEP_*: parts taken and done. From FIRST_PART on: how often each part has been scanned.
BARRIER, NOT_FINITE, ENCODE_TAKEN, ENCODE_DONE, ENCODED = range(5)
SCAN_TAKEN, SCAN_DONE, READY, SWEEP_TAKEN, SWEEP_DONE, FIRST_PART = range(5, 11)


@inner
def open_barrier(counts: NDArray[np.int64]) -> None:
    """Opens a search to helper threads; none is inside yet."""
    counts[BARRIER + 1 :] = 0
    fetch_add(counts, BARRIER, OPEN)


@inner
def close_barrier(counts: NDArray[np.int64]) -> None:
    """Closes a search; its buffers can be used again once all helper threads have left."""
    fetch_add(counts, BARRIER, -OPEN)
    waited(counts, BARRIER, 0)


@inner
def comes_in(counts: NDArray[np.int64], called: NDArray[np.int64]) -> bool:
    """Spins briefly for a search to enter (waking a thread takes as long as a search); returns if it did.

    It stops at once if `called`, (1,), is above 0: another search needs the thread.
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
    """Waits until the search is closed, then leaves it."""
    while peek(counts, BARRIER) >= OPEN:
        pause()
    fetch_add(counts, BARRIER, -1)


@inner
def mark_scanned(counts: NDArray[np.int64], part: int) -> None:
    """Counts a part of the scan as done, only the first time."""
    if fetch_add(counts, FIRST_PART + part, 1) == 0:
        fetch_add(counts, SCAN_DONE, 1)


@inner
def wait_for(counts: NDArray[np.int64], done: int, number: int) -> None:
    """Waits until `done` has reached `number`."""
    while peek(counts, done) < number:
        pause()


@bare
def waited(counts: NDArray[np.int64], done: int, number: int) -> bool:
    """Spins briefly until counter `done` equals `number`; returns whether it does.

    It is brief because a thread that the scheduler has suspended may be away for milliseconds.
    """
    for _ in range(PATIENCE):  # noqa: SIM110 (numba knows no any())
        if peek(counts, done) == number:
            return True
    return False
