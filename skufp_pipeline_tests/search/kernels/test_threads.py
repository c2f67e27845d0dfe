import threading

import numba
import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.search import scan
from skufp_pipeline.search.kernels import threads
from skufp_pipeline.search.kernels.threads import BARRIER, FIRST_PART, OPEN, SCAN_TAKEN

from ...servers import wait_until


@numba.njit(nogil=True)
def begin(counts: NDArray[np.int64]) -> None:
    threads.open_barrier(counts)


@numba.njit(nogil=True)
def end(counts: NDArray[np.int64]) -> None:
    threads.close_barrier(counts)


@numba.njit(nogil=True)
def comes_in(counts: NDArray[np.int64], called: NDArray[np.int64]) -> bool:
    return threads.comes_in(counts, called)


def enter(counts: NDArray[np.int64], called: int = 0) -> bool:
    return comes_in(counts, np.array([called]))


@numba.njit(nogil=True)
def go(counts: NDArray[np.int64]) -> None:
    threads.leave(counts)


def test_a_thread_comes_in_only_while_the_door_is_open() -> None:
    counts = np.zeros(FIRST_PART, np.int64)
    assert not enter(counts)
    begin(counts)
    assert enter(counts)
    assert counts[BARRIER] == OPEN + 1


def test_a_search_has_not_ended_while_a_thread_is_in_it() -> None:
    counts = np.zeros(FIRST_PART, np.int64)
    begin(counts)
    assert enter(counts)
    end(counts)
    assert not enter(counts)
    assert counts[BARRIER] == 1
    go(counts)
    assert counts[BARRIER] == 0
    begin(counts)
    end(counts)
    assert counts[BARRIER] == 0


def test_a_thread_leaves_when_the_search_has_ended() -> None:
    counts = np.zeros(FIRST_PART, np.int64)
    begin(counts)
    assert enter(counts)
    leaving = threading.Thread(target=go, args=(counts,))
    leaving.start()
    leaving.join(0.05)
    assert leaving.is_alive()
    end(counts)
    leaving.join(10)
    assert not leaving.is_alive()
    assert counts[BARRIER] == 0


def test_a_thread_that_is_called_elsewhere_does_not_wait_here() -> None:
    counts = np.zeros(FIRST_PART, np.int64)
    begin(counts)
    assert not enter(counts, called=1)
    assert counts[BARRIER] == OPEN


def test_counts_begin_at_zero() -> None:
    counts = np.zeros(FIRST_PART + 3, np.int64)
    counts[SCAN_TAKEN] = counts[FIRST_PART] = 7
    begin(counts)
    assert counts[BARRIER] == OPEN
    assert not counts[BARRIER + 1 :].any()


class Asked:
    """Buffers for which a search begins just as the thread has given up waiting for one."""

    def __init__(self) -> None:
        self.counts, self.called, self.times = np.zeros(FIRST_PART, np.int64), {1}, 0

    def help(self, *_: object) -> None:
        self.times += 1
        self.counts[BARRIER] = OPEN if self.times == 1 else 0


def answered(*asked: Asked) -> None:
    """Has a new thread answer calls to all of them, of which it knows from the start."""
    helper = scan._Helper()
    for buffers in asked:
        helper.call((buffers, 1))  # type: ignore[arg-type]
    threading.Thread(target=helper.run, daemon=True).start()
    wait_until(lambda: not any(buffers.called for buffers in asked), "calls are answered", 10)


def test_a_thread_that_goes_to_sleep_as_a_search_begins_turns_back() -> None:
    buffers = Asked()
    answered(buffers)
    assert buffers.times == 2


def test_a_thread_that_is_called_elsewhere_does_not_turn_back() -> None:
    first, second = Asked(), Asked()
    answered(first, second)
    assert (first.times, second.times) == (1, 2)
