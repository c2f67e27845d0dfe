"""Runs the compiled search over all processors: buffers that are kept between searches, threads that help."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.search.codes import CodedFingerprints, with_biases
from skufp_pipeline.search.kernels.batch import PAIR, PART, TILE, Tiles, search_many
from skufp_pipeline.search.kernels.encode import normalise
from skufp_pipeline.search.kernels.shapes import BLOCK, Queries, Rotation, Rows
from skufp_pipeline.search.kernels.simd import LANES
from skufp_pipeline.search.kernels.single import SEEDS, WINDOW, Scan, merge, search_alone, search_one
from skufp_pipeline.search.kernels.threads import FIRST_PART

BATCH = 64  # queries scanned together
ALONE = 3  # up to here queries are faster one after another
CHUNK = 16  # blocks that a thread takes at a time
TOGETHER = 1 << 22  # bytes of the high plane from which on one query is worth several threads
CACHED = 1 << 24  # bytes of the high plane up to which it stays in a processor's cache
IN_CACHE, IN_MEMORY = (0, 16), (4096, 7)  # `Scan.ahead` and `Scan.dense`: memory is best read in order

Task = Callable[[int], bool]


class Scanner:
    """Finds the best rows; may be called from several threads at once.

    Args:
        rows: (N, D) float32, contiguous.
        coded: their codes.
        threads: threads that one search may use.
        biases: (N,) finite float32, added to the cosines; zeros by default.
    """

    def __init__(
        self,
        rows: NDArray[np.float32],
        coded: CodedFingerprints,
        threads: int,
        biases: NDArray[np.float32] | None = None,
    ) -> None:
        self._count = len(rows)
        self._coded = coded if biases is None else with_biases(coded, biases)
        if biases is None:
            biases = np.zeros(self._count, np.float32)
        self._rows = Rows(_read_only(rows.reshape(-1)), _read_only(biases))
        coded = self._coded
        rounding = 2.0**-20 * (1 + coded.largest_norm + float(np.linalg.norm(coded.centre)))
        self._rotation = Rotation(coded.signs, coded.centre, coded.largest_norm, rounding)
        self._all = np.full(len(coded.codes.scales) // 8, 255, np.uint8)
        scanned = coded.codes.high.nbytes
        self._threads = threads if scanned >= TOGETHER else 1  # for one query
        self._helpers = _helping_threads(threads - 1)
        self._one: list[_One] = []
        self._many: list[_Many] = []

    def best(
        self, queries: NDArray[np.floating], k: int, allowed: NDArray[np.uint64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Rows and scores, (Q, K) each, best first; row -1 and score -inf where fewer than K are allowed.

        Args:
            queries: (Q, D) float32 or float64, contiguous, of any norm.
            k: at most N.
            allowed: (ceil(N / 64),) words; bit i of word b is for row 64 b + i. All rows by default.

        Raises:
            ValueError: a query is not finite.
        """
        rows, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
        if k == 0:
            return rows, scores
        bits = self._all if allowed is None else allowed.view(np.uint8)
        if self._threads == 1 and len(queries) == 1:
            self._search_alone(queries, bits, scores, rows)
            return rows, scores
        search, part = (self._search_one, 1) if len(queries) <= ALONE else (self._search_many, BATCH)
        for begin in range(0, len(queries), part):
            here = slice(begin, begin + part)
            search(queries[here], bits, scores[here], rows[here])
        return rows, scores

    def _search_alone(
        self,
        given: NDArray[np.floating],
        allowed: NDArray[np.uint8],
        scores: NDArray[np.float64],
        rows: NDArray[np.int64],
    ) -> None:
        buffers = _take(self._one, scores.shape) or _One(self._coded, 1, scores.shape)
        queries, coded = buffers.queries, self._coded
        _normalise(given, queries.unit)
        search_alone(
            coded.codes, queries, self._rotation, self._rows, buffers.scan, allowed, scores[0], rows[0]
        )
        self._one.append(buffers)

    def _search_one(
        self,
        given: NDArray[np.floating],
        allowed: NDArray[np.uint8],
        scores: NDArray[np.float64],
        rows: NDArray[np.int64],
    ) -> None:
        buffers = _take(self._one, scores.shape) or _One(self._coded, self._threads, scores.shape)
        queries, scan = buffers.queries, buffers.scan
        _normalise(given, queries.unit)
        counts = np.zeros(FIRST_PART + len(scan.ceilings) // CHUNK + 1, np.int64)

        def work(thread: int) -> bool:
            codes, rotation = self._coded.codes, self._rotation
            clean: bool = search_one(
                codes, queries, rotation, self._rows, scan, allowed, counts, thread, CHUNK
            )
            return clean

        clean = self._share(work, self._threads)
        merge(scan, scores[0], rows[0])
        if clean:
            self._one.append(buffers)

    def _search_many(
        self,
        given: NDArray[np.floating],
        allowed: NDArray[np.uint8],
        scores: NDArray[np.float64],
        rows: NDArray[np.int64],
    ) -> None:
        threads = len(self._helpers) + 1
        buffers = _take(self._many, scores.shape) or _Many(self._coded, threads, scores.shape)
        queries, tiles = buffers.queries, buffers.tiles
        _normalise(given, queries.unit)
        counts = np.zeros(FIRST_PART + len(allowed) // PART + 1, np.int64)

        def work(thread: int) -> bool:
            codes = self._coded.codes
            clean: bool = search_many(
                codes, queries, self._rotation, self._rows, tiles, allowed, counts, thread, scores, rows
            )
            return clean

        if self._share(work, threads):
            self._many.append(buffers)

    def _share(self, work: Task, threads: int) -> bool:
        """Does the work here and, as far as they come in time, in helping threads."""
        for number, tasks in enumerate(self._helpers[: threads - 1], start=1):
            tasks.put((work, number))
        return work(0)


class _One:
    """What a search for one query writes on its way, kept for the next."""

    def __init__(self, coded: CodedFingerprints, threads: int, shape: tuple[int, ...]) -> None:
        self.shape = shape
        padded, k = len(coded.codes.scales), shape[1]
        self.queries = _empty_queries(1, 1, coded, packed=0)
        self.scan = Scan(
            np.empty(padded, np.int32),
            np.empty(padded // BLOCK, np.float32),
            np.empty(padded // BLOCK, np.float32),
            np.empty(min(SEEDS * k, padded // BLOCK)),
            np.empty(min(SEEDS * k, padded // BLOCK), np.int64),
            np.empty(1),
            np.empty((threads, k)),
            np.empty((threads, k), np.int64),
            np.zeros(threads, np.int64),
            np.empty((threads, BLOCK), np.float32),
            np.zeros((threads, BLOCK), np.int32),
            np.empty((threads, WINDOW * BLOCK), np.int64),
            *(IN_CACHE if coded.codes.high.nbytes <= CACHED else IN_MEMORY),
        )


class _Many:
    """What a search for a batch writes on its way, kept for the next."""

    def __init__(self, coded: CodedFingerprints, threads: int, shape: tuple[int, ...]) -> None:
        self.shape = shape
        padded, length = -(-shape[0] // PAIR) * PAIR, 2 * coded.codes.width
        self.queries = _empty_queries(shape[0], padded, coded, packed=padded * length)
        k, tiles = shape[1], len(coded.codes.scales) // TILE
        self.tiles = Tiles(
            np.empty(padded * tiles, np.float32),
            np.empty((threads, PART * TILE * length), np.uint8),
            np.empty((threads, LANES, k)),
            np.empty((threads, LANES, k), np.int64),
            np.empty((threads, k * TILE), np.float32),
            np.empty((threads, k), np.int64),
            np.empty((threads, LANES), np.float32),
            np.empty((threads, LANES), np.int64),
            np.empty((threads, tiles), np.int32),
        )


def _normalise(queries: NDArray[np.floating], unit: NDArray[np.float64]) -> None:
    if not normalise(queries, unit):
        raise ValueError("a query holds NaN or infinity")


def unit_queries(queries: NDArray[np.floating]) -> NDArray[np.float64]:
    """(Q, D) queries as float64 rows of norm 1, or 0: what their scores are made with.

    Raises:
        ValueError: a query is not finite.
    """
    unit = np.empty(queries.shape)
    _normalise(queries, unit.reshape(-1))
    return unit


def _empty_queries(count: int, padded: int, coded: CodedFingerprints, packed: int) -> Queries:
    return Queries(
        np.empty(count * len(coded.centre)),
        len(coded.centre),
        np.zeros(padded * 2 * coded.codes.width, np.int8),
        np.zeros(packed, np.int8),
        np.zeros(padded, np.int32),
        np.zeros(padded, np.int32),
        np.zeros(padded, np.float32),
        np.zeros(padded),
        np.zeros(padded),
    )


def _read_only(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """A view of one type for the kernels, whether mapped or not."""
    view = array.view()
    view.flags.writeable = False
    return view


Buffers = TypeVar("Buffers", _One, _Many)


def _take(kept: list[Buffers], shape: tuple[int, ...]) -> Buffers | None:
    """Buffers of this shape, if some are free; others are let go."""
    try:
        buffers = kept.pop()
    except IndexError:
        return None
    return buffers if buffers.shape == shape else None


_queues: list["SimpleQueue[tuple[Task, int]]"] = []
_starting = threading.Lock()


def _helping_threads(count: int) -> list["SimpleQueue[tuple[Task, int]]"]:
    """The task queues of `count` threads that wait for work, shared by all indexes of the process."""
    with _starting:
        while len(_queues) < count:
            tasks: SimpleQueue[tuple[Task, int]] = SimpleQueue()
            threading.Thread(target=_help, args=(tasks,), daemon=True, name="skufp-search").start()
            _queues.append(tasks)
        return _queues[:count]


def _help(tasks: "SimpleQueue[tuple[Task, int]]") -> None:
    while True:
        work, number = tasks.get()
        work(number)
        del work  # not to hold an index's memory while waiting
