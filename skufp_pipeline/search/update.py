"""A new version of a large index from the one before it: only what has changed is encoded and written."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skufp_pipeline.errors import UserError
from skufp_pipeline.search.files import Chunk
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.segment import require_distinct, unit_rows

MOST_CHANGED = 0.25  # of the rows, those of SKUs removed earlier included; beyond it the index is made whole
COMPARED_ROWS = 250_000  # whose fingerprints and SKU table are in memory at once


def write_updated(
    directory: Path,
    before: Path,
    sku_ids: pl.Series,
    chunks: Iterable[Chunk],
    references: dict[str, str],
    biases: NDArray[np.float32] | None,
    segment_rows: int,
) -> bool:
    """Writes an index of `sku_ids` that links the segments of the version at `before`.

    SKUs that are gone, or have another fingerprint or row in the SKU table, are removed; the changed and the
    new ones are added behind the others, in one segment with the small ones of earlier updates. Scores are
    those of an index made whole; row numbers, which break ties, may differ.

    Args:
        chunks: (n, D) fingerprints and their SKU table, in the order of `sku_ids`.
        segment_rows: maximum number of rows of a segment that is written.

    Returns:
        False, having written nothing, if the version can't be built upon: it can't be read, has other models
        or columns, or more than `MOST_CHANGED` of its rows differ.

    Raises:
        UserError: as `write_index`.
    """
    try:
        index = FingerprintIndex.load(before)
    except UserError:
        return False
    if index.references != references or not len(index):
        return False
    require_distinct(sku_ids)
    rows, most = rows_of(index, sku_ids), MOST_CHANGED * index.row_count
    gone, begin, added = np.ones(index.row_count, bool), 0, 0
    changes: list[tuple[NDArray[np.float32], pl.DataFrame]] = []
    for vectors, skus in chunks:
        if skus.schema != index.skus.schema:
            return False
        fingerprints, here = unit_rows(vectors), rows[begin : begin + len(skus)]
        same = _same(index, here, fingerprints, skus)
        gone[here[same]] = False
        changes.append((fingerprints[~same], skus.filter(~same)))
        begin, added = begin + len(skus), added + int((~same).sum())
        if added > most:
            return False
    if gone.sum() > most:
        return False
    index = _changed(index, gone, changes)
    if biases is not None:
        values = np.zeros(index.row_count, np.float32)
        values[rows_of(index, sku_ids)] = biases
        index = index.with_biases(values)
    elif any(segment.biases is not None for segment in index.segments):
        index = index.with_biases(np.zeros(index.row_count, np.float32))
    index.merged(segment_rows).save(directory, before)
    return True


def rows_of(index: FingerprintIndex, sku_ids: pl.Series) -> NDArray[np.int64]:
    """(N,) rows of these SKUs in the index, -1 for one that is not there."""
    known = pl.DataFrame({"sku_id": index.sku_ids, "row": index.present.numbers()})
    asked = pl.DataFrame({"sku_id": sku_ids}).join(known, on="sku_id", how="left", maintain_order="left")
    return asked["row"].fill_null(-1).to_numpy()


def _same(
    index: FingerprintIndex, rows: NDArray[np.int64], fingerprints: NDArray[np.float32], skus: pl.DataFrame
) -> NDArray[np.bool_]:
    """(n,) whether the index has these SKUs, at `rows`, with these fingerprints and columns."""
    known = rows >= 0
    before, now = index.skus[rows[known]], skus.filter(known)
    equal = (index.fingerprints_at(rows[known]) == fingerprints[known]).all(axis=1)
    for column in now.columns:
        equal &= before[column].eq_missing(now[column]).to_numpy()
    same = np.zeros(len(rows), bool)
    same[known] = equal
    return same


def _changed(
    index: FingerprintIndex, gone: NDArray[np.bool_], changes: list[tuple[NDArray[np.float32], pl.DataFrame]]
) -> FingerprintIndex:
    """The index without the rows that are gone, and with the changes behind the others."""
    removed = index.present.numbers()
    index = index.remove(index.skus["sku_id"].gather(removed[gone[removed]]))
    skus = pl.concat([table for _, table in changes])
    return index.add(np.concatenate([rows for rows, _ in changes]), skus) if len(skus) else index
