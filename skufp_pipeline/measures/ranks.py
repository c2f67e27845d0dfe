"""Rank of the right item among all scored items (paper, Appendix A, eq. 3).

Ties are pessimistic: every other item that scores at least as high as the right one counts as
before it, so a constant embedding scores about 0, not 1.
"""

from collections.abc import Iterable

import numpy as np

# The rank of a query whose SKU is not in the gallery: the paper's r_q = infinity.
UNRANKED = np.iinfo(np.int64).max


def right_items(sku_ids: Iterable[str], gallery: Iterable[str]) -> np.ndarray:
    """(Q,) int64 index of each query's SKU in the gallery, -1 if it is not there."""
    place = {sku_id: row for row, sku_id in enumerate(gallery)}
    return np.array([place.get(sku_id, -1) for sku_id in sku_ids], dtype=np.int64)


def ranks(scores: np.ndarray, truth: np.ndarray, tolerance: np.ndarray | float = 0.0) -> np.ndarray:
    """(Q,) int64 ranks from 1 of the right items, `UNRANKED` where `truth` is -1.

    A rank is 1 + the number of other items that score at least as high.

    Args:
        scores: (Q, S) similarities.
        truth: (Q,) column of the right item, -1 if the gallery does not hold it.
        tolerance: (Q,) by how much less than the right item an item still ties with it; 0 compares exactly.

    Raises:
        ValueError: a score is NaN, or `truth` does not fit `scores`.
    """
    _check_truth(truth, len(scores), scores.shape[1])
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {scores.size} scores are NaN")
    valid = np.flatnonzero(truth >= 0)
    known_scores = scores if len(valid) == len(truth) else scores[valid]
    right = known_scores[np.arange(len(valid)), truth[valid]] - tolerance
    result = np.full(len(truth), UNRANKED, dtype=np.int64)
    # The right item itself scores at least as high: it is the "1 +".
    result[valid] = (known_scores >= right[:, None]).sum(axis=1)
    return result


def ranks_of(
    queries: np.ndarray,
    gallery: np.ndarray,
    truth: np.ndarray,
    block: int = 256,
    owner: np.ndarray | None = None,
) -> np.ndarray:
    """`ranks` of the dot products of embeddings, without holding the whole (Q, S) matrix.

    BLAS rounds equal rows differently by their position in a matrix, in float64 too, so equal rows would not
    tie. Therefore products are float64, and an item counts as at least as high as the right one unless it is
    lower by more than `_rounding`, the most by which equal products can differ (about 1e-13 for 512 unit
    dimensions). So the result does not depend on `block`, the machine or the order of the gallery.

    >>> gallery = np.eye(3)
    >>> ranks_of(np.array([[0.9, 0.1, 0], [0.5, 0.5, 0]]), gallery, np.array([0, 1])).tolist()
    [1, 2]

    Args:
        queries, gallery: (Q, D) and (S, D) embeddings.
        truth: as for `ranks`.
        block: queries scored at once.
        owner: (S,) the item of each gallery row, 0, 1, 2, ... without gaps, non-decreasing; an item scores
            the maximum over its rows. None: each row is an item.

    Raises:
        ValueError: a value is not finite, or shapes do not fit each other.
    """
    _check_embeddings(queries, gallery)
    starts = _first_rows(np.arange(len(gallery)) if owner is None else owner, len(gallery))
    _check_truth(truth, len(queries), len(starts))
    gallery = gallery.astype(np.float64)
    tolerance = _rounding(queries, gallery)
    result = np.full(len(truth), UNRANKED, dtype=np.int64)
    valid = np.flatnonzero(truth >= 0)
    for begin in range(0, len(valid), block):
        rows = valid[begin : begin + block]
        result[rows] = ranks(_item_scores(queries[rows], gallery, starts), truth[rows], tolerance[rows])
    return result


def first_row_ranks(
    queries: np.ndarray,
    gallery: np.ndarray,
    truth: np.ndarray,
    owner: np.ndarray,
    block: int = 64,
) -> np.ndarray:
    """(Q,) int64 rank from 1 of the right item's best row among all rows, `UNRANKED` where `truth` is -1.

    It is the number of rows to look at until one is of the right item. Rows of other items that score at
    least as high, but for rounding (`ranks_of`), come before it.

    The arguments and errors are those of `ranks_of`.
    """
    _check_embeddings(queries, gallery)
    _check_truth(truth, len(queries), len(_first_rows(owner, len(gallery))))
    gallery = gallery.astype(np.float64)
    tolerance = _rounding(queries, gallery)
    result = np.full(len(truth), UNRANKED, dtype=np.int64)
    valid = np.flatnonzero(truth >= 0)
    for begin in range(0, len(valid), block):
        rows = valid[begin : begin + block]
        scores = queries[rows].astype(np.float64) @ gallery.T
        is_right = owner == truth[rows, None]
        best = np.where(is_right, scores, -np.inf).max(axis=1) - tolerance[rows]
        result[rows] = 1 + ((scores >= best[:, None]) & ~is_right).sum(axis=1)
    return result


def best_items(
    queries: np.ndarray, gallery: np.ndarray, count: int, block: int = 256, owner: np.ndarray | None = None
) -> np.ndarray:
    """(Q, `count`) int64 items with the highest scores, in no order; all if there are fewer.

    The arguments are those of `ranks_of`.
    """
    _check_embeddings(queries, gallery)
    starts = _first_rows(np.arange(len(gallery)) if owner is None else owner, len(gallery))
    count = min(count, len(starts))
    gallery = gallery.astype(np.float64)
    result = np.empty((len(queries), count), dtype=np.int64)
    for begin in range(0, len(queries), block):
        scores = _item_scores(queries[begin : begin + block], gallery, starts)
        result[begin : begin + block] = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    return result


def _item_scores(queries: np.ndarray, gallery: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(Q, items) float64 products, the maximum over the rows of an item that has several."""
    products = queries.astype(np.float64) @ gallery.T
    return products if len(starts) == len(gallery) else np.maximum.reduceat(products, starts, axis=1)


def _rounding(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """(Q,) bound on the difference of two float64 products of a query with equal gallery rows.

    Each is within D * eps / 2 * |q| * |g| of the true value, whatever the order of summation.
    """
    dimensions = queries.shape[1]
    longest = np.linalg.norm(gallery, axis=1).max(initial=0.0)
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
    return (dimensions + 2) * np.finfo(np.float64).eps * lengths * longest


def _first_rows(owner: np.ndarray, rows: int) -> np.ndarray:
    """The first gallery row of each item."""
    steps = np.diff(owner, prepend=-1)
    if len(owner) != rows or not np.isin(steps, (0, 1)).all() or (rows and steps[0] != 1):
        raise ValueError(f"owner must count up 0, 0, 1, 2, ... over {rows} gallery rows")
    return np.flatnonzero(steps)


def _check_embeddings(queries: np.ndarray, gallery: np.ndarray) -> None:
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"queries have {queries.shape[1]} dimensions, the gallery {gallery.shape[1]}")
    for name, values in (("queries", queries), ("gallery", gallery)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: {int((~np.isfinite(values)).sum())} values are not finite")


def _check_truth(truth: np.ndarray, queries: int, items: int) -> None:
    if len(truth) != queries:
        raise ValueError(f"{len(truth)} right items for {queries} queries")
    if len(truth) and not (truth.min() >= -1 and truth.max() < items):
        raise ValueError(f"right items must be in -1 .. {items - 1}, found {truth.min()} .. {truth.max()}")
