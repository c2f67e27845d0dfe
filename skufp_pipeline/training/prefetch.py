"""Prefetches training data on threads and measures the time spent waiting for it."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Prefetcher:
    """Runs loaders ahead of their use."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(2)
        self.waited = 0.0  # seconds that callers of `take` and `each` waited for results

    def start(self, load: Callable[[Item], Result], item: Item) -> "Future[Result]":
        """Starts `load(item)`; `take` returns its result."""
        return self._pool.submit(load, item)

    def take(self, started: "Future[Result]") -> Result:
        """Waits for the result and returns it, or raises the loader's error."""
        begin = time.perf_counter()
        result = started.result()
        self.waited += time.perf_counter() - begin
        return result

    def each(
        self, load: Callable[[Item], Result], items: Iterable[Item], ahead: int = 2
    ) -> Iterator[tuple[Item, Result]]:
        """Yields each item with its result, in order, while the next `ahead` items are loading."""
        rest = iter(items)
        running = deque((item, self.start(load, item)) for item in islice(rest, ahead))
        while running:
            item, started = running.popleft()
            result = self.take(started)
            running.extend((following, self.start(load, following)) for following in islice(rest, 1))
            yield item, result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Cancels queued loads without waiting for running ones."""
        self._pool.shutdown(wait=False, cancel_futures=True)
