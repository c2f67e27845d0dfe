"""Runs the compiled search on several threads, with buffers that are reused between searches."""

import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.search.codes import CodedFingerprints, with_biases
from skufp_pipeline.search.kernels import batch, single
from skufp_pipeline.search.kernels.addresses import addresses, aligned
from skufp_pipeline.search.kernels.encode import normalise
from skufp_pipeline.search.kernels.shapes import BLOCK, Codes, Queries, Rotation, Rows, Search
from skufp_pipeline.search.kernels.simd import LANES
from skufp_pipeline.search.kernels.threads import BARRIER, FIRST_PART, NOT_FINITE, OPEN

BATCH = 64  # queries per batch
ALONE = 3  # up to this many queries it is faster to search one after another
TOGETHER = 1 << 20  # bytes of the high plane from which a single query uses several threads
NOT_FINITE_QUERY = "a query holds NaN or infinity"


class _Fixed(NamedTuple):
    """Read-only data shared by all searches."""

    codes: Codes
    rows: Rows
    rotation: Rotation


class Scanner:
    """Finds the best rows; thread-safe.

    Args:
        rows: (N, D) float32, contiguous.
        coded: codes of the rows.
        threads: threads per search.
        biases: (N,) finite float32, added to the cosines; zeros by default.
    """

    def __init__(
        self,
        rows: NDArray[np.float32],
        coded: CodedFingerprints,
        threads: int,
        biases: NDArray[np.float32] | None = None,
    ) -> None:
        coded = coded if biases is None else with_biases(coded, biases)
        if biases is None:
            biases = np.zeros(len(rows), np.float32)
        rounding = 2.0**-17 * (1 + coded.largest_norm + float(np.linalg.norm(coded.centre)))
        rotation = Rotation(_copied(coded.signs), _copied(coded.centre), coded.largest_norm, rounding)
        self._fixed = _Fixed(coded.codes, Rows(rows.reshape(-1), biases), rotation)
        self._all = np.full(len(coded.codes.scales) // 8, 255, np.uint8)
        scanned = coded.codes.high.nbytes
        self._threads = threads if scanned >= TOGETHER else 1  # for one query
        self._helpers = _helping_threads(threads - 1)
        self._one: list[_SingleBuffers] = []
        self._many: list[_BatchBuffers] = []

    def best(
        self,
        queries: NDArray[np.floating],
        k: int,
        allowed: NDArray[np.uint64] | None = None,
        floors: NDArray[np.float64] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Rows and scores, (Q, K) each, best first; padded with row -1, score -inf if fewer are allowed
        or reach the floor.

        Args:
            queries: (Q, D) float32 or float64, contiguous, of any norm.
            k: at most N.
            allowed: (ceil(N / 64),) uint64; bit i of word b allows row 64 b + i. By default all rows.
            floors: (Q,) rows that score less may be left out; by default none.

        Raises:
            ValueError: a query is not finite.
        """
        rows, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
        if k == 0:
            return rows, scores
        bits = self._all if allowed is None else allowed.view(np.uint8)
        if len(queries) <= ALONE:
            for here in range(len(queries)):
                floor = -np.inf if floors is None else float(floors[here])
                self._search_one(
                    queries[here : here + 1], bits, scores[here : here + 1], rows[here : here + 1], floor
                )
            return rows, scores
        for begin in range(0, len(queries), BATCH):
            part = slice(begin, begin + BATCH)
            self._search_many(queries[part], bits, scores[part], rows[part])
        return rows, scores

    def warm_up(self) -> None:
        """Compiles the helper functions, which no search waits for; call after a search of each kind."""
        elsewhere = np.ones(1, np.int64)  # makes the helper return at once
        for buffers in (*self._one, *self._many):
            buffers.help(elsewhere, 0)

    def _search_one(
        self,
        given: NDArray[np.floating],
        allowed: NDArray[np.uint8],
        scores: NDArray[np.float64],
        rows: NDArray[np.int64],
        floor: float,
    ) -> None:
        buffers = _take_buffers(self._one, scores.shape) or _SingleBuffers(
            self._fixed, self._threads, scores.shape
        )
        buffers.prepare(given, allowed)
        self._call_help(buffers, self._threads - 1)
        single.search_one(buffers.words, scores[0], rows[0], floor)
        buffers.assert_finite()
        self._one.append(buffers)  # from here on another search may use them

    def _search_many(
        self,
        given: NDArray[np.floating],
        allowed: NDArray[np.uint8],
        scores: NDArray[np.float64],
        rows: NDArray[np.int64],
    ) -> None:
        threads = len(self._helpers) + 1
        buffers = _take_buffers(self._many, scores.shape) or _BatchBuffers(self._fixed, threads, scores.shape)
        buffers.prepare(given, allowed)
        self._call_help(buffers, threads - 1)
        batch.search_many(buffers.words)
        scores[:], rows[:] = buffers.tiles.scores, buffers.tiles.rows
        buffers.assert_finite()
        self._many.append(buffers)

    def _call_help(self, buffers: "_Buffers", helpers: int) -> None:
        """Wakes the helper threads that do not serve these buffers yet."""
        for number, helper in enumerate(self._helpers[:helpers], start=1):
            if number not in buffers.called:
                buffers.called.add(number)
                helper.call((buffers, number))


class _Buffers:
    """Working memory of one search, reused by later ones.

    Attributes:
        shape: (Q, K).
        search: inputs and shared state of the search; `scan` or `tiles` holds the rest.
        words: addresses of all these arrays; they do not keep the arrays alive.
        counts: counters shared by the threads.
        called: numbers of the helper threads that serve these buffers or are about to.
        help: runs a helper thread in searches with these buffers until it is idle or called elsewhere;
            takes `called` and `thread` of `single.help_one`.
    """

    words: NDArray[np.int64]
    help: Callable[[NDArray[np.int64], int], None]

    def __init__(self, fixed: _Fixed, queries: Queries, shape: tuple[int, ...], parts: int) -> None:
        self.shape = shape
        self.counts = aligned(FIRST_PART + parts, np.int64)
        self.called: set[int] = set()
        allowed = aligned(len(fixed.codes.scales) // 8, np.uint8)
        self.search = Search(fixed.codes, queries, fixed.rotation, fixed.rows, allowed, self.counts)
        self._given = queries.given.reshape(shape[0], -1)

    def prepare(self, given: NDArray[np.floating], allowed: NDArray[np.uint8]) -> None:
        """Copies the inputs, because a helper thread may still read them after the search has ended."""
        self._given[:] = given
        self.search.allowed[:] = allowed

    def assert_finite(self) -> None:
        """Raises ValueError if a query was not finite."""
        if self.counts[NOT_FINITE]:
            raise ValueError(NOT_FINITE_QUERY)


class _SingleBuffers(_Buffers):
    """Buffers of a search for one query."""

    def __init__(self, fixed: _Fixed, threads: int, shape: tuple[int, ...]) -> None:
        padded, k = len(fixed.codes.scales), shape[1]
        blocks = padded // BLOCK
        queries, seeds = _queries(fixed, 1, 1, threads=1, packed=0), min(single.SEEDS * k, blocks)
        super().__init__(fixed, queries, shape, parts=-(-blocks // single.CHUNK))
        self.scan = single.Scan(
            sums=aligned(padded, np.int32),
            ceilings=aligned(blocks, np.float32),
            promises=aligned(blocks, np.float32),
            seed_scores=aligned(seeds),
            seeds=aligned(seeds, np.int64),
            reached=aligned(1),
            scores=aligned((threads, k)),
            rows=aligned((threads, k), np.int64),
            sizes=aligned(threads, np.int64),
            bounds=aligned((threads, BLOCK), np.float32),
            lows=aligned((threads, BLOCK), np.int32),
            picks=aligned((threads, single.WINDOW * BLOCK), np.int64),
        )
        self.words = addresses(single.OneSearch(self.search, self.scan))
        self.help = partial(single.help_one, self.words)


class _BatchBuffers(_Buffers):
    """Buffers of a search for a batch."""

    def __init__(self, fixed: _Fixed, threads: int, shape: tuple[int, ...]) -> None:
        padded, length = -(-shape[0] // batch.PAIR) * batch.PAIR, 2 * fixed.codes.width
        k, tiles = shape[1], len(fixed.codes.scales) // batch.TILE
        kept = (threads, max(batch.WINDOW * batch.TILE, k) * batch.SHARE)
        queries = _queries(fixed, shape[0], padded, threads, packed=padded * length)
        super().__init__(fixed, queries, shape, parts=-(-tiles // batch.PART))
        self.tiles = batch.Tiles(
            scores=aligned(shape),
            rows=aligned(shape, np.int64),
            ceilings=aligned(padded * tiles, np.float32),
            others=aligned(padded * tiles, np.float32),
            unpacked=aligned((threads, batch.PART * batch.TILE * length), np.uint8),
            values=aligned((threads, LANES, k)),
            seeds=aligned((threads, LANES, k), np.int64),
            bounds=aligned((threads, LANES), np.float32),
            least=aligned((threads, LANES), np.float32),
            sizes=aligned((threads, LANES), np.int64),
            picks=aligned((threads, batch.WINDOW), np.int64),
            lanes=aligned((threads, batch.WINDOW), np.int64),
            kept_rows=aligned(kept, np.int64),
            kept_lanes=aligned(kept, np.int64),
        )
        self.words = addresses(batch.ManySearch(self.search, self.tiles))
        self.help = partial(batch.help_many, self.words)


def unit_queries(queries: NDArray[np.floating]) -> NDArray[np.float64]:
    """(Q, D) queries as float64 rows of norm 1 (or 0); raises ValueError if one is not finite."""
    given, unit = queries.astype(np.float64).reshape(-1), np.empty(queries.shape)
    if not normalise(given, unit.reshape(-1), queries.shape[1]):
        raise ValueError(NOT_FINITE_QUERY)
    return unit


def _queries(fixed: _Fixed, count: int, padded: int, threads: int, packed: int) -> Queries:
    dimension = len(fixed.rotation.centre)
    return Queries(
        given=aligned(count * dimension),
        unit=aligned(count * dimension),
        dimension=dimension,
        rotated=aligned((threads, dimension)),
        codes=aligned(padded * 2 * fixed.codes.width, np.int8),
        packed=aligned(packed, np.int8),
        sums=aligned(padded, np.int32),
        centres=aligned(padded, np.int32),
        steps=aligned(padded, np.float32),
        offsets=aligned(padded),
        errors=aligned(padded),
    )


def _copied(array: NDArray[np.float64]) -> NDArray[np.float64]:
    copy = aligned(array.shape)
    copy[:] = array
    return copy


Buffers = TypeVar("Buffers", _SingleBuffers, _BatchBuffers)


def _take_buffers(kept: list[Buffers], shape: tuple[int, ...]) -> Buffers | None:
    """Pops the last used buffers of this shape that no thread is in, if any; drops other shapes."""
    for _ in range(len(kept)):
        try:
            buffers = kept.pop()
        except IndexError:  # taken by another search meanwhile
            break
        if buffers.shape != shape:
            continue
        if buffers.counts[BARRIER] == 0:
            return buffers
        kept.insert(0, buffers)
    return None


Task = tuple[_Buffers, int]  # buffers, thread number in their search


class _Helper:
    """A helper thread, shared by the searches of all indexes.

    Attributes:
        called: (1,) 1 while a call is pending; it may lag by one call, which only delays the help.
    """

    def __init__(self) -> None:
        self.called = np.zeros(1, np.int64)
        self._tasks: SimpleQueue[Task] = SimpleQueue()

    def call(self, task: Task) -> None:
        """Queues the buffers of a search to help with."""
        self.called[0] = 1
        self._tasks.put(task)

    def run(self) -> None:
        """Serves calls until the process ends."""
        while True:
            buffers, thread = self._tasks.get()
            self.called[0] = not self._tasks.empty()
            while thread in buffers.called:
                buffers.help(self.called, thread)
                buffers.called.discard(thread)
                if buffers.counts[BARRIER] >= OPEN and not self.called[0]:  # one opened before discard
                    buffers.called.add(thread)
            del buffers  # free the index's memory while waiting


_threads: list[_Helper] = []
_starting = threading.Lock()


def _helping_threads(count: int) -> list[_Helper]:
    """Returns `count` helper threads, which all indexes of the process share; starts missing ones."""
    with _starting:
        while len(_threads) < count:
            helper = _Helper()
            threading.Thread(target=helper.run, daemon=True, name="skufp-search").start()
            _threads.append(helper)
        return _threads[:count]
