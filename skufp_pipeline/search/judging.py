"""Checks of an index before it is published: exactness, coverage of the SKUs, recall."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skufp_pipeline.search.images import ImageIndex
from skufp_pipeline.search.index import FingerprintIndex

QUERIES, TOP = 64, 10
_ROWS = 65_536  # rows scored in float64 at once


class Coverage(NamedTuple):
    """The share of the wanted SKUs that an index holds, and the ids of the missing ones."""

    share: float
    missing: list[str]


def wrong_answers(index: FingerprintIndex, seed: int) -> int:
    """Counts the random queries (of `QUERIES`) whose rows or order differ from float64 brute force."""
    queries = np.random.default_rng(seed).standard_normal((QUERIES, index.dimension))
    return sum(not np.array_equal(*pair) for pair in _answers(index, queries))


def recall(index: FingerprintIndex, seed: int) -> float:
    """Returns the share of brute force's `TOP` answers that are among the index's; 1 for an empty index.

    Queries are near rows of the index (cosine about 0.8), as photos are: an approximate engine is no good at
    random directions.
    """
    rows = index.contents()[0]
    if not len(rows):
        return 1.0
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((QUERIES, index.dimension)) / np.sqrt(index.dimension)
    queries = rows[rng.integers(0, len(rows), QUERIES)] + 0.75 * noise
    return float(np.mean([np.isin(true, found).mean() for true, found in _answers(index, queries)]))


def _answers(
    index: FingerprintIndex, queries: NDArray[np.float64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yields the best rows by float64 brute force, and those that the index finds, of (Q, D) queries."""
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    rows, top = index.present.numbers(), min(TOP, len(index))
    for score, found in zip(_scores(index, queries), index.search(queries, top), strict=True):
        yield rows[np.lexsort((rows, -score))[:top]], found.rows


def recall_at_1(index: FingerprintIndex, queries: NDArray[np.float32], truth: pl.Series) -> float | None:
    """Share of queries (Q, D) with the SKU of `truth` (Q ids) first; None without queries or index rows."""
    if len(truth) == 0 or len(index) == 0:
        return None
    first = np.array([found.rows[0] for found in index.search(queries, 1)])
    return float((index.skus["sku_id"].gather(first) == truth).to_numpy().mean())


def coverage(index: FingerprintIndex, wanted: Iterable[str]) -> Coverage:
    """Computes how many of the `wanted` SKUs are in the index."""
    ids = sorted(set(wanted))
    missing = sorted(set(ids) - set(index.sku_ids))
    return Coverage(1 - len(missing) / len(ids) if ids else 1.0, missing)


def _scores(index: FingerprintIndex, queries: NDArray[np.float64]) -> NDArray[np.float64]:
    """(Q, len) float64 scores, each summed by NumPy over the dimensions, as the score is defined; a
    product of several pictures scores the most of theirs."""
    if isinstance(index, ImageIndex):
        if not index.row_count:
            return np.empty((len(queries), 0))
        of_products = np.maximum.reduceat(_scores(index.pictures, queries), index.starts[:-1], axis=1)
        best: NDArray[np.float64] = of_products[:, index.present.numbers()]
        return best
    gallery, _ = index.contents()
    biases = index.biases[index.present.numbers()].astype(np.float64)
    scores = np.empty((len(queries), len(gallery)))
    for begin in range(0, len(gallery), _ROWS):
        part = gallery[begin : begin + _ROWS].astype(np.float64)
        for number, query in enumerate(queries):
            scores[number, begin : begin + _ROWS] = (part * query).sum(axis=1)
    return scores + biases
