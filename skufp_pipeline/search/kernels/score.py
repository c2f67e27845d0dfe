"""Exact scores, which define the order of results, and heaps of the best rows."""

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.search.kernels.compiled import bare, inner
from skufp_pipeline.search.kernels.shapes import BLOCK, LOWEST, Queries, Rows
from skufp_pipeline.search.kernels.simd import (
    LANES,
    add_double_products,
    pairwise_total,
    prefetch,
    zero_doubles,
)


@inner
def half_of(count: int) -> int:
    """Where NumPy's pairwise sum splits more than 128 numbers."""
    return count // 2 - count // 2 % 8


@inner
def dot_128(
    rows: NDArray[np.float32], at: int, queries: NDArray[np.float64], query_at: int, count: int
) -> float:
    """`pairwise_dot` of up to 128 numbers."""
    if count < 8:
        short = 0.0
        for place in range(count):
            short += rows[at + place] * queries[query_at + place]
        return short
    whole, sums = count - count % 8, zero_doubles()
    for place in range(0, whole, 8):
        sums = add_double_products(sums, rows, at + place, queries, query_at + place)
    result = pairwise_total(sums)
    for place in range(whole, count):
        result += rows[at + place] * queries[query_at + place]
    return result


@inner
def dot_256(
    rows: NDArray[np.float32], at: int, queries: NDArray[np.float64], query_at: int, count: int
) -> float:
    """`pairwise_dot` of up to 256 numbers."""
    if count <= 128:
        return dot_128(rows, at, queries, query_at, count)
    half = half_of(count)
    left = dot_128(rows, at, queries, query_at, half)
    return left + dot_128(rows, at + half, queries, query_at + half, count - half)


@bare
def pairwise_dot(
    rows: NDArray[np.float32], at: int, queries: NDArray[np.float64], query_at: int, count: int
) -> float:
    """Float64 dot product of `count` numbers of two flat arrays, summed in the order of NumPy's `sum`.

    It recurses only above 512 numbers, because a call costs as much as 100 numbers.
    """
    half = half_of(count)
    if count <= 256:
        return dot_256(rows, at, queries, query_at, count)
    if count - half <= 256:
        left = dot_256(rows, at, queries, query_at, half)
        return left + dot_256(rows, at + half, queries, query_at + half, count - half)
    left = pairwise_dot(rows, at, queries, query_at, half)
    return left + pairwise_dot(rows, at + half, queries, query_at + half, count - half)


@inner
def exact_score(rows: Rows, row: int, queries: Queries, query: int) -> float:
    """The float64 score that defines the order of results."""
    dimension = queries.dimension
    product = pairwise_dot(rows.vectors, row * dimension, queries.unit, query * dimension, dimension)
    return product + rows.biases[row]


@inner
def fetch_row(rows: Rows, row: int, dimension: int) -> None:
    """Prefetches a row that will be scored."""
    for place in range(row * dimension, (row + 1) * dimension, LANES):
        prefetch(rows.vectors, place)


@inner
def worse(score: float, row: int, other_score: float, other_row: int) -> bool:
    """Whether the first entry ranks below the second: lower score, or the same score and a later row."""
    return score < other_score or (score == other_score and row > other_row)


@bare
def sink(
    scores: NDArray[np.float64], rows: NDArray[np.int64], size: int, at: int, score: float, row: int
) -> None:
    """Sifts an entry down from `at` in a heap with the worst entry first."""
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and worse(scores[child + 1], rows[child + 1], scores[child], rows[child]):
            child += 1
        if not worse(scores[child], rows[child], score, row):
            break
        scores[at], rows[at] = scores[child], rows[child]
        at = child
    scores[at], rows[at] = score, row


@bare
def push(scores: NDArray[np.float64], rows: NDArray[np.int64], size: int, score: float, row: int) -> int:
    """Offers an entry to a heap of the best `len(scores)`, worst first; returns the heap's size."""
    if size == len(scores):
        if worse(scores[0], rows[0], score, row):
            sink(scores, rows, size, 0, score, row)
        return size
    at = size
    while at > 0 and worse(score, row, scores[(at - 1) // 2], rows[(at - 1) // 2]):
        scores[at], rows[at] = scores[(at - 1) // 2], rows[(at - 1) // 2]
        at = (at - 1) // 2
    scores[at], rows[at] = score, row
    return size + 1


@bare
def sort_best_first(scores: NDArray[np.float64], rows: NDArray[np.int64], size: int) -> None:
    """Sorts a heap in place from best to worst."""
    for last in range(size - 1, 0, -1):
        score, row = scores[last], rows[last]
        scores[last], rows[last] = scores[0], rows[0]
        sink(scores, rows, last, 0, score, row)


@bare
def best_places(values: NDArray[np.float32], scores: NDArray[np.float64], places: NDArray[np.int64]) -> int:
    """Fills a heap with the places of the `len(places)` largest values; returns its size."""
    size = 0
    for begin in range(0, len(values), BLOCK):
        end = min(begin + BLOCK, len(values))
        lowest = np.float32(scores[0]) if size == len(scores) else LOWEST  # excludes padding rows
        passing = 0
        for place in range(begin, end):
            passing += values[place] >= lowest
        if passing > 0:
            for place in range(begin, end):
                if values[place] >= lowest:
                    size = push(scores, places, size, values[place], place)
    return size


@bare
def finish(scores: NDArray[np.float64], rows: NDArray[np.int64], size: int) -> None:
    """Sorts a heap of `size` from best to worst and pads it to K with row -1 and score -inf."""
    sort_best_first(scores, rows, size)
    for place in range(size, len(rows)):
        scores[place], rows[place] = -np.inf, -1
