"""Small sets of views, and embedding tables that hold every split and role."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.fingerprint.views import ViewSet


def unit_rows(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Random rows of norm 1 along the last axis."""
    rows = np.random.default_rng(seed).standard_normal(shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def view_set(*skus: ArrayLike, splits: Sequence[str] | None = None) -> ViewSet:
    """SKUs `a`, `b`, ... with these views each; all of training unless `splits` says otherwise."""
    arrays = [np.asarray(views, dtype=np.float32) for views in skus]
    width = max(len(array) for array in arrays)
    views = np.zeros((len(arrays), width, arrays[0].shape[1]), dtype=np.float32)
    mask = np.zeros((len(arrays), width), dtype=bool)
    for row, array in enumerate(arrays):
        views[row, : len(array)] = array
        mask[row, : len(array)] = True
    names = [chr(ord("a") + row) for row in range(len(arrays))]
    return ViewSet(names, list(splits or ["train"] * len(arrays)), views, mask, np.zeros_like(mask))


def random_views(counts: Sequence[int], dimension: int = 8, seed: int = 0) -> ViewSet:
    """SKUs with this many views each, around a direction of their own."""
    centres = unit_rows((len(counts), dimension), seed)
    noise = unit_rows((len(counts), max(counts), dimension), seed + 1)
    return view_set(
        *[_normalised(centres[row] + 0.7 * noise[row, :count]) for row, count in enumerate(counts)]
    )


def _normalised(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def image_table(rows: Sequence[tuple[str, str, str, str, Sequence[float]]]) -> pl.DataFrame:
    """Rows of `item_id`, `sku_id`, `split`, `role` and embedding; the path is `<item_id>.jpg`."""
    ids, skus, splits, roles, vectors = zip(*rows, strict=True)
    table = pl.DataFrame({"item_id": ids, "sku_id": skus, "split": splits, "role": roles})
    path = pl.format("{}.jpg", "item_id").alias("image_path")
    return table.with_columns(path, embedding_column(np.array(vectors, dtype=np.float32)))


def text_table(rows: Sequence[tuple[str, str, str, str, Sequence[float]]]) -> pl.DataFrame:
    """The same for texts, whose id is `text_id`."""
    return image_table(rows).rename({"item_id": "text_id", "image_path": "text"})
