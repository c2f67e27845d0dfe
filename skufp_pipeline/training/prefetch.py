"""What training needs next is made on threads meanwhile; what it still has to wait for is counted."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Prefetcher:
    """Runs loaders ahead of their use.

    Attributes:
        waited: seconds that `take` and `each` kept their caller waiting.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(2)
        self.waited = 0.0

    def start(self, load: Callable[[Item], Result], item: Item) -> "Future[Result]":
        """Begins `load(item)`; `take` gives its result."""
        return self._pool.submit(load, item)

    def take(self, started: "Future[Result]") -> Result:
        """The result, or the error that the loader raised."""
        begin = time.perf_counter()
        result = started.result()
        self.waited += time.perf_counter() - begin
        return result

    def each(
        self, load: Callable[[Item], Result], items: Iterable[Item], ahead: int = 2
    ) -> Iterator[tuple[Item, Result]]:
        """Each item with its result, in order, while the next `ahead` are being loaded."""
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
        """Drops what was begun and not taken."""
        self._pool.shutdown(wait=False, cancel_futures=True)
