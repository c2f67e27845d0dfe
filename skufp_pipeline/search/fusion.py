"""Ranks SKUs by vector score plus what the words of the query add: exact over the whole index.

A SKU without words of the query keeps its vector score, so it is among the best only if it is among the best
by vectors alone. The others are searched by what their words add, the most first, until no later one can be
among the best. Scores are those of `FingerprintIndex.best`; ties are broken by row.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skufp_pipeline.search.index import FingerprintIndex, SearchResult
from skufp_pipeline.search.rows import Rows

AT_ONCE = 256  # rows whose vector scores are asked for in one search


def best_fused(
    index: FingerprintIndex,
    query: ArrayLike,
    k: int,
    rows: NDArray[np.int64],
    boosts: NDArray[np.float64],
    within: Rows | None = None,
) -> SearchResult:
    """Returns the `k` SKUs with the highest vector score + boost, best first.

    Args:
        query: (D,) or (1, D).
        rows: (M,) distinct row numbers, ascending.
        boosts: (M,) what is added to their scores, 0 or more.
        within: restricts the search to these rows; by default all.

    Raises as `FingerprintIndex.best`.
    """
    plain = index.search(query, k, within)[0]
    if not len(rows) or not len(plain.rows):
        return plain
    found = _added(plain, rows, boosts)
    for group, count, highest in _groups(rows, boosts, k):
        full = len(found.rows) >= k
        if full and found.scores[k - 1] > plain.scores[0] + highest:
            break  # a tie might still be won by a lower row
        mask = np.zeros(index.row_count, dtype=bool)
        mask[group] = True
        sizes = np.cumsum(index.present.sizes)[:-1]
        chosen = Rows.of_masks(np.split(mask, sizes))
        searched = index.search(query, count, chosen if within is None else chosen & within)[0]
        found = _best(found, _added(searched, rows, boosts), k)
    return SearchResult(found.rows[:k], found.scores[:k])


def _groups(
    rows: NDArray[np.int64], boosts: NDArray[np.float64], k: int
) -> Iterator[tuple[NDArray[np.int64], int, float]]:
    """Yields rows, how many of them may be among the best, and their highest boost; highest boosts first.

    Rows of equal boost rank as their vectors do, so `k` of them are enough; where boosts differ, all are.
    """
    order = np.lexsort((rows, -boosts))
    ends = np.append(np.flatnonzero(np.diff(boosts[order])) + 1, len(order))
    begin = 0
    while begin < len(order):
        fitting = ends[(ends > begin) & (ends <= begin + AT_ONCE)]
        end = int(fitting[-1] if len(fitting) else ends[np.searchsorted(ends, begin, side="right")])
        highest, lowest = boosts[order[begin]], boosts[order[end - 1]]
        yield rows[order[begin:end]], k if highest == lowest else end - begin, float(highest)
        begin = end


def _added(result: SearchResult, rows: NDArray[np.int64], boosts: NDArray[np.float64]) -> SearchResult:
    """The result with boosts, best first."""
    place = np.minimum(np.searchsorted(rows, result.rows), len(rows) - 1)
    scores = result.scores + np.where(rows[place] == result.rows, boosts[place], 0)
    return _sorted(result.rows, scores)


def _best(one: SearchResult, other: SearchResult, k: int) -> SearchResult:
    rows, first = np.unique(np.concatenate([one.rows, other.rows]), return_index=True)
    merged = _sorted(rows, np.concatenate([one.scores, other.scores])[first])
    return SearchResult(merged.rows[:k], merged.scores[:k])


def _sorted(rows: NDArray[np.int64], scores: NDArray[np.float64]) -> SearchResult:
    order = np.lexsort((rows, -scores))
    return SearchResult(rows[order], scores[order])
