"""Runs the compiled search over all processors: buffers that are kept between searches, threads that help."""

import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.search.codes import CodedFingerprints, with_biases
from skufp_pipeline.search.kernels import batch, single
from skufp_pipeline.search.kernels.encode import normalise
from skufp_pipeline.search.kernels.shapes import BLOCK, Queries, Rotation, Rows
from skufp_pipeline.search.kernels.simd import LANES
from skufp_pipeline.search.kernels.threads import DOOR, FIRST_PART, NOT_FINITE, OPEN

BATCH = 64  # queries scanned together
ALONE = 3  # up to here queries are faster one after another
TOGETHER = 1 << 20  # bytes of the high plane from which on one query is worth several threads
CACHED = 1 << 24  # bytes of the high plane up to which it stays in a processor's cache
AHEAD = 16  # rows that a plane is fetched ahead of its scan where it comes from memory


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
        search, part = (self._search_one, 1) if len(queries) <= ALONE else (self._search_many, BATCH)
        for begin in range(0, len(queries), part):
            here = slice(begin, begin + part)
            search(queries[here], bits, scores[here], rows[here])
        return rows, scores

    def warm_up(self) -> None:
        """Compiles what helping threads run, after a search of each kind, which does not wait for that."""
        elsewhere = np.ones(1, np.int64)  # to come back at once
        for buffers in (*self._one, *self._many):
            buffers.help(elsewhere, 0)

    def _search_one(
        self,
        given: NDArray[np.floating],
        allowed: NDArray[np.uint8],
        scores: NDArray[np.float64],
        rows: NDArray[np.int64],
    ) -> None:
        buffers = _take(self._one, scores.shape) or _One(self._coded, self._rows, self._threads, scores.shape)
        buffers.queries.given[:] = given.reshape(-1)
        buffers.allowed[:] = allowed
        self._call_help(buffers, self._threads - 1)
        codes, queries, counts = self._coded.codes, buffers.queries, buffers.counts
        clean = single.search_one(
            codes,
            queries,
            self._rotation,
            self._rows,
            buffers.scan,
            buffers.allowed,
            counts,
            scores[0],
            rows[0],
        )
        _assert_finite(buffers.counts[NOT_FINITE] == 0)
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
        buffers = _take(self._many, scores.shape) or _Many(
            self._coded, self._rotation, self._rows, threads, scores.shape
        )
        buffers.queries.given[:] = given.reshape(-1)
        buffers.allowed[:] = allowed
        self._call_help(buffers, threads - 1)
        codes, queries, tiles = self._coded.codes, buffers.queries, buffers.tiles
        clean = batch.search_many(
            codes, queries, self._rotation, self._rows, tiles, buffers.allowed, buffers.counts
        )
        scores[:], rows[:] = tiles.scores, tiles.rows
        _assert_finite(buffers.counts[NOT_FINITE] == 0)
        if clean:
            self._many.append(buffers)

    def _call_help(self, buffers: "_Buffers", helpers: int) -> None:
        """Wakes the helping threads that are not at these buffers already."""
        for number, helper in enumerate(self._helpers[:helpers], start=1):
            if number not in buffers.called:
                buffers.called.add(number)
                helper.call((buffers, number))


class _Buffers:
    """What one search writes on its way, kept for the next.

    Attributes:
        called: numbers of the helping threads that are here or on their way.
        help: takes part in searches that use these buffers, until none comes for a while or the thread is
            called elsewhere: `called` and `thread` of `single.help_one`.
    """

    help: Callable[[NDArray[np.int64], int], None]

    def __init__(self, coded: CodedFingerprints, shape: tuple[int, ...], parts: int) -> None:
        self.shape = shape
        self.allowed = np.empty(len(coded.codes.scales) // 8, np.uint8)
        self.counts = np.zeros(FIRST_PART + parts, np.int64)
        self.called: set[int] = set()


class _One(_Buffers):
    """For one query."""

    def __init__(self, coded: CodedFingerprints, rows: Rows, threads: int, shape: tuple[int, ...]) -> None:
        padded, k = len(coded.codes.scales), shape[1]
        blocks = padded // BLOCK
        super().__init__(coded, shape, parts=-(-blocks // single.CHUNK))
        self.queries = _empty_queries(1, 1, coded, threads=1, packed=0)
        self.scan = single.Scan(
            np.empty(padded, np.int32),
            np.empty(blocks, np.float32),
            np.empty(blocks, np.float32),
            np.empty(min(single.SEEDS * k, blocks)),
            np.empty(min(single.SEEDS * k, blocks), np.int64),
            np.empty(1),
            np.empty((threads, k)),
            np.empty((threads, k), np.int64),
            np.zeros(threads, np.int64),
            np.empty((threads, BLOCK), np.float32),
            np.zeros((threads, BLOCK), np.int32),
            np.empty((threads, single.WINDOW * BLOCK), np.int64),
            0 if coded.codes.high.nbytes <= CACHED else AHEAD,
        )
        self.help = partial(
            single.help_one, coded.codes, self.queries, rows, self.scan, self.allowed, self.counts
        )


class _Many(_Buffers):
    """For a batch."""

    def __init__(
        self,
        coded: CodedFingerprints,
        rotation: Rotation,
        rows: Rows,
        threads: int,
        shape: tuple[int, ...],
    ) -> None:
        padded, length = -(-shape[0] // batch.PAIR) * batch.PAIR, 2 * coded.codes.width
        k, tiles = shape[1], len(coded.codes.scales) // batch.TILE
        super().__init__(coded, shape, parts=-(-tiles // batch.PART))
        self.queries = _empty_queries(shape[0], padded, coded, threads, packed=padded * length)
        self.tiles = batch.Tiles(
            np.empty(shape),
            np.empty(shape, np.int64),
            np.empty(padded * tiles, np.float32),
            np.empty((threads, batch.PART * batch.TILE * length), np.uint8),
            np.empty((threads, LANES, k)),
            np.empty((threads, LANES, k), np.int64),
            np.empty((threads, k * LANES), np.float32),
            np.empty((threads, k), np.int64),
            np.empty((threads, LANES), np.float32),
            np.empty((threads, LANES), np.int64),
            np.empty((threads, tiles), np.int32),
            np.empty((threads, batch.WINDOW), np.int64),
            np.empty((threads, batch.WINDOW), np.int64),
            np.empty((threads, batch.WINDOW * batch.TILE * LANES), np.int64),
            np.empty((threads, batch.WINDOW * batch.TILE * LANES), np.int64),
        )
        self.help = partial(
            batch.help_many, coded.codes, self.queries, rotation, rows, self.tiles, self.allowed, self.counts
        )


def _assert_finite(finite: bool) -> None:
    if not finite:
        raise ValueError("a query holds NaN or infinity")


def unit_queries(queries: NDArray[np.floating]) -> NDArray[np.float64]:
    """(Q, D) queries as float64 rows of norm 1, or 0: what their scores are made with.

    Raises:
        ValueError: a query is not finite.
    """
    given, unit = queries.astype(np.float64).reshape(-1), np.empty(queries.shape)
    _assert_finite(normalise(given, unit.reshape(-1), queries.shape[1]))
    return unit


def _empty_queries(count: int, padded: int, coded: CodedFingerprints, threads: int, packed: int) -> Queries:
    return Queries(
        np.empty(count * len(coded.centre)),
        np.empty(count * len(coded.centre)),
        len(coded.centre),
        np.empty((threads, len(coded.centre))),
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


Task = tuple[_Buffers, int]  # and the number of the thread there


class _Helper:
    """A thread that helps wherever it is called, of whatever index.

    Attributes:
        called: (1,) 1 while a call waits to be answered; it may be late by one, which costs a moment's help.
    """

    def __init__(self) -> None:
        self.called = np.zeros(1, np.int64)
        self._tasks: SimpleQueue[Task] = SimpleQueue()

    def call(self, task: Task) -> None:
        """Has it help with some buffers as soon as it can."""
        self.called[0] = 1
        self._tasks.put(task)

    def run(self) -> None:
        """Answers calls for as long as the process lives."""
        while True:
            buffers, thread = self._tasks.get()
            self.called[0] = not self._tasks.empty()
            while thread in buffers.called:
                buffers.help(self.called, thread)
                buffers.called.discard(thread)
                if buffers.counts[DOOR] >= OPEN and not self.called[0]:  # a search that counts on this thread
                    buffers.called.add(thread)
            del buffers  # not to hold an index's memory while waiting


_threads: list[_Helper] = []
_starting = threading.Lock()


def _helping_threads(count: int) -> list[_Helper]:
    """So many threads that wait for calls, shared by all indexes of the process."""
    with _starting:
        while len(_threads) < count:
            helper = _Helper()
            threading.Thread(target=helper.run, daemon=True, name="skufp-search").start()
            _threads.append(helper)
        return _threads[:count]
