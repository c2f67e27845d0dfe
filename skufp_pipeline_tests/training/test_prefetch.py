"""Loading ahead changes no result and no order, and counts the waiting."""

import threading
import time

import pytest

from skufp_pipeline.training.prefetch import Prefetcher


def square(number: int) -> int:
    return number * number


@pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
def test_results_come_in_the_order_of_their_items(count: int) -> None:
    found = list(Prefetcher().each(square, range(count)))
    assert found == [(number, number * number) for number in range(count)]


def test_the_next_items_are_loaded_while_one_is_used() -> None:
    loaded = [threading.Event() for _ in range(3)]
    using = Prefetcher().each(lambda number: loaded[number].set(), range(3), ahead=2)
    next(using)
    assert loaded[1].wait(10)
    assert loaded[2].wait(10)


def test_no_more_than_asked_for_is_loaded_ahead() -> None:
    seen: list[int] = []
    using = Prefetcher().each(seen.append, range(10), ahead=2)
    next(using)
    time.sleep(0.05)
    assert sorted(seen) == [0, 1, 2]


def test_only_waiting_is_counted() -> None:
    prefetcher = Prefetcher()
    slow = prefetcher.start(time.sleep, 0.1)
    prefetcher.take(slow)
    assert prefetcher.waited >= 0.05
    before = prefetcher.waited
    prefetcher.take(slow)
    assert prefetcher.waited - before < 0.05


def test_an_error_reaches_the_one_who_takes_the_result() -> None:
    def fail(number: int) -> int:
        if number == 1:
            raise OSError("no such crop")
        return number

    using = Prefetcher().each(fail, range(3))
    assert next(using) == (0, 0)
    with pytest.raises(OSError, match="no such crop"):
        next(using)
