"""Judges an index before customers meet it: is it exact, is every SKU in it, does it find them."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skufp_pipeline.search.index import FingerprintIndex

QUERIES, TOP = 64, 10
_ROWS = 65_536  # whose float64 scores are made at once


class Coverage(NamedTuple):
    """The share of the wanted SKUs that an index holds, and the ids of the others."""

    share: float
    missing: list[str]


def wrong_answers(index: FingerprintIndex, seed: int) -> int:
    """How many of `QUERIES` random queries get other rows, or another order, than float64 brute force."""
    queries = np.random.default_rng(seed).standard_normal((QUERIES, index.dimension))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    rows, top = index.present.numbers(), min(TOP, len(index))
    scores = _scores(index, queries)
    return sum(
        not np.array_equal(rows[np.lexsort((rows, -score))[:top]], found.rows)
        for score, found in zip(scores, index.search(queries, top), strict=True)
    )


def recall_at_1(index: FingerprintIndex, queries: NDArray[np.float32], truth: pl.Series) -> float | None:
    """The share of queries (Q, D) whose first answer is the SKU of `truth` (Q ids); None without queries."""
    if len(truth) == 0 or len(index) == 0:
        return None
    first = np.array([found.rows[0] for found in index.search(queries, 1)])
    return float(np.mean(index.skus["sku_id"].gather(first).to_numpy() == truth.to_numpy()))


def coverage(index: FingerprintIndex, wanted: Iterable[str]) -> Coverage:
    """Which of the `wanted` SKUs can be found."""
    ids = sorted(set(wanted))
    missing = sorted(set(ids) - set(index.contents()[1]["sku_id"]))
    return Coverage(1 - len(missing) / len(ids) if ids else 1.0, missing)


def _scores(index: FingerprintIndex, queries: NDArray[np.float64]) -> NDArray[np.float64]:
    """(Q, len) float64 scores, each summed in the order of the dimensions as the definition says."""
    gallery, _ = index.contents()
    biases = index.biases[index.present.numbers()].astype(np.float64)
    scores = np.empty((len(queries), len(gallery)))
    for begin in range(0, len(gallery), _ROWS):
        part = gallery[begin : begin + _ROWS].astype(np.float64)
        for number, query in enumerate(queries):
            scores[number, begin : begin + _ROWS] = (part * query).sum(axis=1)
    return scores + biases
