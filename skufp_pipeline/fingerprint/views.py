"""The views of many SKUs as one padded array, and the poolings that need no training."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skufp_pipeline.encoders.tables import embedding_rows


@dataclass(frozen=True)
class ViewSet:
    """Catalog view embeddings by SKU.

    Attributes:
        sku_ids: S SKUs, sorted.
        splits: split of each SKU.
        views: (S, V, D) float32 unit rows, zero where `mask` is False.
        mask: (S, V) bool; True for a view that is there, at least one a SKU.
    """

    sku_ids: list[str]
    splits: list[str]
    views: NDArray[np.float32]
    mask: NDArray[np.bool_]

    @property
    def counts(self) -> NDArray[np.int64]:
        """(S,) number of views."""
        return self.mask.sum(axis=1)

    def select(self, rows: NDArray[np.int64]) -> "ViewSet":
        """The SKUs of these rows, in this order."""
        return ViewSet(
            [self.sku_ids[row] for row in rows],
            [self.splits[row] for row in rows],
            self.views[rows],
            self.mask[rows],
        )


def gather_views(embeddings: pl.DataFrame, max_views: int) -> ViewSet:
    """Packs the gallery rows of an embedding table (`sku_id`, `split`, `role`, `embedding`).

    Rows come in the table's order; views past `max_views` of one SKU are left aside.
    """
    gallery = embeddings.filter(pl.col("role") == "gallery").sort("sku_id", maintain_order=True)
    gallery = gallery.with_columns(pl.int_range(pl.len()).over("sku_id").alias("view"))
    gallery = gallery.filter(pl.col("view") < max_views)
    skus = gallery.group_by("sku_id", maintain_order=True).agg(pl.col("split").first(), pl.len())
    vectors = embedding_rows(gallery)
    row = np.repeat(np.arange(len(skus)), skus["len"].to_numpy())
    width = int(skus["len"].to_numpy().max(initial=1))
    views = np.zeros((len(skus), width, vectors.shape[1]), dtype=np.float32)
    mask = np.zeros((len(skus), width), dtype=bool)
    views[row, gallery["view"].to_numpy()] = vectors
    mask[row, gallery["view"].to_numpy()] = True
    return ViewSet(skus["sku_id"].to_list(), skus["split"].to_list(), views, mask)


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows divided by their L2 norm; a zero row stays zero."""
    wide = rows.astype(np.float64)
    return (wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-12)).astype(np.float32)


def mean_sku(views: ViewSet) -> NDArray[np.float32]:
    """(S, D) unit means of the views: Baseline 3's gallery (App. B)."""
    return unit(views.views.sum(axis=1) / np.maximum(views.counts, 1)[:, None])


def view_centrality(views: ViewSet) -> NDArray[np.float32]:
    """(S, V) cosine of each view with its SKU's mean; -inf where there is no view."""
    cosine = np.einsum("svd,sd->sv", views.views, mean_sku(views))
    return np.where(views.mask, cosine, -np.inf).astype(np.float32)


def medoid(views: ViewSet) -> NDArray[np.float32]:
    """(S, D): the one view nearest to the mean; the first among equals."""
    best = view_centrality(views).argmax(axis=1)
    return views.views[np.arange(len(best)), best]


def trimmed_mean(views: ViewSet, trim: float = 0.25) -> NDArray[np.float32]:
    """(S, D) unit mean without the `trim` share of views farthest from the mean (rounded down)."""
    order = np.argsort(-view_centrality(views), axis=1, kind="stable")
    kept = views.counts - np.floor(trim * views.counts).astype(np.int64)
    place = np.argsort(order, axis=1, kind="stable")  # a view's rank by centrality
    keep = (place < kept[:, None]) & views.mask
    return unit((views.views * keep[:, :, None]).sum(axis=1))
