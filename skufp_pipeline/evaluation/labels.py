"""Labels of text queries: the category and the attributes that the right SKU shares with others.

A sentence rarely identifies one SKU, so recall alone says little; precision at 10 by label measures whether
the results are at least of the requested kind.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from skufp_pipeline.datasets.table import item_id

# Each is also a column of the SKU and the query tables.
LABELS = ("category", "colour", "pattern", "lightness")
ALL_ATTRIBUTES = "attributes"  # all labels but the category, combined
PRECISION_AT = 10


@dataclass(frozen=True)
class Labels:
    """The value of each SKU and query by label (`LABELS`, `ALL_ATTRIBUTES`); unknown ones are left out."""

    skus: Mapping[str, Mapping[str, str]]
    queries: Mapping[str, Mapping[str, str]]

    def of_skus(self, label: str, sku_ids: list[str]) -> np.ndarray:
        """(S,) values; empty where unknown."""
        known = self.skus.get(label, {})
        return np.array([known.get(sku_id, "") for sku_id in sku_ids], dtype=str)

    def of_queries(self, label: str, query_ids: list[str]) -> np.ndarray | None:
        """(Q,) values; None unless all are known."""
        known = self.queries.get(label, {})
        if not all(query_id in known for query_id in query_ids):
            return None
        return np.array([known[query_id] for query_id in query_ids], dtype=str)


def precision_name(label: str) -> str:
    """The metric of a label, such as `precision@10 colour`."""
    return f"precision@{PRECISION_AT} {label}"


def make_labels(skus: pl.DataFrame, image_text: pl.DataFrame, texts: pl.DataFrame) -> Labels:
    """Labels of SKUs and of text queries, from the image-text table.

    A query made from a photo has the photo's colour, pattern and lightness, as its text does; a catalogue
    sentence has only its SKU's category.

    Args:
        skus: `sku_id`, `category_name`, `colour`, `pattern`, `lightness`: those of most catalog views.
        texts: text queries, `text_id` and `sku_id`.
    """
    rows = image_text.select(
        item_id().alias("text_id"), pl.col("colours").list.first().alias("colour"), "pattern", "lightness"
    )
    of_skus = skus.select("sku_id", pl.col("category_name").alias("category"))
    query_labels = texts.select("text_id", "sku_id").unique("text_id", maintain_order=True)
    query_labels = query_labels.join(of_skus, on="sku_id", how="left").join(rows, on="text_id", how="left")
    sku_labels = skus.rename({"category_name": "category"})
    return Labels(_values(sku_labels, "sku_id"), _values(query_labels, "text_id"))


def _values(table: pl.DataFrame, key: str) -> dict[str, dict[str, str]]:
    labelled = table.with_columns(pl.concat_str(LABELS[1:], separator="/").alias(ALL_ATTRIBUTES))
    return {
        label: dict(labelled.drop_nulls(label).select(key, label).iter_rows())
        for label in (*LABELS, ALL_ATTRIBUTES)
    }
