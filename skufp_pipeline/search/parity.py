"""Photos for comparing an exported image encoder with PyTorch.

They show training SKUs (where there are none, catalog pictures of others) and are never evaluation queries.
Only the query side is compared: the gallery stays PyTorch's, as in the index.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skufp_pipeline.datasets.table import DEVELOPMENT, EVALUATION, GALLERY, TRAIN
from skufp_pipeline.encoders.parity import Parity, compare
from skufp_pipeline.encoders.tables import USED_SCHEMA, embedding_rows, used_queries
from skufp_pipeline.fingerprint.views import gather_views, mean_sku
from skufp_pipeline.hashing import stable_hash
from skufp_pipeline.measures.ranks import right_items

if TYPE_CHECKING:
    from skufp_pipeline.encoders.clip import Encoder

_FIRST = {DEVELOPMENT: 0, TRAIN: 1, GALLERY: 2}


@dataclass(frozen=True)
class ParityPhotos:
    """Photos with known answers.

    Attributes:
        rows: one row per photo: `item_id`, `sku_id`, `role`, `image_path` and more.
        reference: (N, D) PyTorch embeddings of the photos.
        answers: (N,) gallery row of each photo's SKU.
        gallery: (S, D) mean PyTorch embedding of each training SKU's views.
    """

    rows: pl.DataFrame
    reference: NDArray[np.float32]
    answers: NDArray[np.int64]
    gallery: NDArray[np.float32]

    def judge(self, found: NDArray[np.float32]) -> Parity:
        """Compares another encoder's embeddings (N, D) of the same photos."""
        return compare(self.reference, found, self.answers, self.gallery)

    def as_queries(self, encoder: "Encoder", files: Sequence[Path], batch_size: int) -> "ParityPhotos":
        """Embeds the photos again, each as a query: an adapted encoder's table has catalog views otherwise
        (`embed.with_anchors`)."""
        from skufp_pipeline.encoders.embed import embed_crops  # imports torch

        return replace(self, reference=embed_crops(encoder, files, batch_size))

    def used(self) -> pl.DataFrame:
        """Table (`USED_SCHEMA`) of the queries among the photos."""
        queries = self.rows.rename({"item_id": "query_id"})
        uses = [used_queries(queries.filter(pl.col("role") == role), role) for role in (TRAIN, DEVELOPMENT)]
        return pl.concat(uses).select(*USED_SCHEMA)


def parity_photos(images: pl.DataFrame, count: int, max_views: int) -> ParityPhotos:
    """Draws `count` photos deterministically: development queries first, then training queries, then views.

    `images` is the embedding table of all shards; at most `max_views` views are averaged per SKU. Without any
    view of a training SKU, the views of all SKUs are drawn from.
    """
    mine = images.filter((pl.col("split") == "train") & (pl.col("role") != EVALUATION))
    if not (mine["role"] == GALLERY).any():
        mine = images.filter(pl.col("role") == GALLERY)
    draw = pl.col("item_id").map_elements(lambda item: stable_hash(item, "parity"), return_dtype=pl.UInt64)
    order = pl.col("role").replace_strict(_FIRST, return_dtype=pl.Int8)
    views = gather_views(mine, max_views)
    mine = mine.filter(pl.col("sku_id").is_in(views.sku_ids))
    chosen = mine.with_columns(order.alias("order"), draw.alias("draw")).sort("order", "draw").head(count)
    answers = right_items(chosen["sku_id"], views.sku_ids)
    return ParityPhotos(chosen.drop("order", "draw"), embedding_rows(chosen), answers, mean_sku(views))
