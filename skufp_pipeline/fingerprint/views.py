"""The views of many SKUs as one padded array, and the poolings that need no training.

A SKU's catalog views come first; generated ones may follow. `mean_sku` averages catalog views only; the other
poolings expect no generated views.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skufp_pipeline.encoders.tables import embedding_rows


@dataclass(frozen=True)
class ViewSet:
    """View embeddings by SKU.

    Attributes:
        sku_ids: S SKUs, sorted.
        splits: split of each SKU.
        views: (S, V, D) float32 unit rows, zero where `mask` is False.
        mask: (S, V) bool, True for a present view; at least one catalog view per SKU.
        generated: (S, V) bool, True for a present, generated view.
    """

    sku_ids: list[str]
    splits: list[str]
    views: NDArray[np.float32]
    mask: NDArray[np.bool_]
    generated: NDArray[np.bool_]

    @property
    def counts(self) -> NDArray[np.int64]:
        """(S,) number of catalog views."""
        return (self.mask & ~self.generated).sum(axis=1)

    def select(self, rows: NDArray[np.int64]) -> "ViewSet":
        """The SKUs of these rows, in this order."""
        return ViewSet(
            [self.sku_ids[row] for row in rows],
            [self.splits[row] for row in rows],
            self.views[rows],
            self.mask[rows],
            self.generated[rows],
        )


def gather_views(embeddings: pl.DataFrame, max_views: int, generated: pl.DataFrame | None = None) -> ViewSet:
    """Packs the gallery rows of an embedding table (`sku_id`, `split`, `role`, `embedding`).

    Rows keep the table's order; views of a SKU past `max_views` are dropped.

    Args:
        generated: a table with the same columns; up to `max_views` of its views per SKU follow the catalog's.
            SKUs without a catalog view are dropped.
    """
    catalog = _numbered(embeddings, max_views)
    skus = catalog.group_by("sku_id", maintain_order=True).agg(pl.col("split").first(), pl.len())
    added = catalog.clear() if generated is None else _numbered(generated, max_views)
    added = added.join(skus.select("sku_id", "len"), on="sku_id", how="inner", maintain_order="left")
    combined = pl.concat(
        [
            catalog.select("sku_id", "view", "embedding", generated=pl.lit(False)),
            added.select("sku_id", pl.col("view") + pl.col("len"), "embedding", generated=pl.lit(True)),
        ],
        how="vertical_relaxed",
    )
    sku_rows = skus.select("sku_id", pl.int_range(pl.len()).alias("row"))
    combined = combined.join(sku_rows, on="sku_id", maintain_order="left")
    vectors, row, view = embedding_rows(combined), combined["row"].to_numpy(), combined["view"].to_numpy()
    width = int(view.max(initial=0)) + 1
    views = np.zeros((len(skus), width, vectors.shape[1]), dtype=np.float32)
    mask, is_generated = np.zeros((2, len(skus), width), dtype=bool)
    views[row, view] = vectors
    mask[row, view] = True
    is_generated[row, view] = combined["generated"].to_numpy()
    return ViewSet(skus["sku_id"].to_list(), skus["split"].to_list(), views, mask, is_generated)


def _numbered(embeddings: pl.DataFrame, max_views: int) -> pl.DataFrame:
    """The gallery rows by SKU, `view` numbering each SKU's from 0; those past `max_views` are dropped."""
    gallery = embeddings.filter(pl.col("role") == "gallery").sort("sku_id", maintain_order=True)
    gallery = gallery.with_columns(pl.int_range(pl.len()).over("sku_id").alias("view"))
    return gallery.filter(pl.col("view") < max_views)


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows divided by their L2 norm; a zero row stays zero."""
    wide = rows.astype(np.float64)
    return (wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-12)).astype(np.float32)


def mean_sku(views: ViewSet) -> NDArray[np.float32]:
    """(S, D) unit means of the catalog views: Baseline 3's gallery (App. B)."""
    catalog = np.where(views.generated[:, :, None], 0, views.views)
    return unit(catalog.sum(axis=1) / np.maximum(views.counts, 1)[:, None])


def view_centrality(views: ViewSet) -> NDArray[np.float32]:
    """(S, V) cosine of each view with its SKU's mean; -inf where there is no view."""
    cosine = np.einsum("svd,sd->sv", views.views, mean_sku(views))
    return np.where(views.mask, cosine, -np.inf).astype(np.float32)


def medoid(views: ViewSet) -> NDArray[np.float32]:
    """(S, D) the view nearest to the mean; the first one on ties."""
    best = view_centrality(views).argmax(axis=1)
    return views.views[np.arange(len(best)), best]


def trimmed_mean(views: ViewSet, trim: float = 0.25) -> NDArray[np.float32]:
    """(S, D) unit mean without the `trim` share of views farthest from the mean (rounded down)."""
    order = np.argsort(-view_centrality(views), axis=1, kind="stable")
    kept_counts = views.counts - np.floor(trim * views.counts).astype(np.int64)
    centrality_rank = np.argsort(order, axis=1, kind="stable")
    keep = (centrality_rank < kept_counts[:, None]) & views.mask
    return unit((views.views * keep[:, :, None]).sum(axis=1))
