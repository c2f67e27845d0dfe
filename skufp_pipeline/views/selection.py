"""Which catalogue views a training or the generation takes: stable choices by hash of the SKU."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from skufp_pipeline.artifacts.kinds import Crops, ImageText
from skufp_pipeline.datasets.table import CATALOG, ITEM_ORDER, item_id
from skufp_pipeline.hashing import stable_hash
from skufp_pipeline.views.prompts import view_prompt

# One catalogue view of one SKU, with the words that go with it.
VIEW_SCHEMA: dict[str, pl.DataType] = {
    "item_id": pl.String(),
    "sku_id": pl.String(),
    "split": pl.String(),
    "image_path": pl.String(),  # relative to the shard's crops
    "prompt": pl.String(),
}


def catalog_views(image_text: pl.DataFrame, template: str) -> pl.DataFrame:
    """`VIEW_SCHEMA`: one row per catalogue crop of an image-text table, in the table's order."""
    rows = image_text.filter(pl.col("domain") == CATALOG).sort(ITEM_ORDER)
    prompts = [view_prompt(row, template) for row in rows.iter_rows(named=True)]
    return rows.with_columns(item_id(), prompt=pl.Series(prompts, dtype=pl.String)).select(*VIEW_SCHEMA)


def shard_views(texts: ImageText, crops: Crops, template: str) -> pl.DataFrame:
    """The catalogue views of one shard, and the `path` of each one's crop."""
    return with_paths(catalog_views(texts.images(), template), crops.path)


def all_views(texts: Sequence[ImageText], crops: Sequence[Crops], template: str) -> pl.DataFrame:
    """`shard_views` of every shard, in order."""
    return pl.concat([shard_views(text, crop, template) for text, crop in zip(texts, crops, strict=True)])


def with_paths(table: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """`table` with the `path` of each `image_path` on this machine."""
    return table.with_columns(path=pl.format("{}/{}", pl.lit(str(folder)), "image_path"))


def first_views(views: pl.DataFrame, count: int) -> pl.DataFrame:
    """The first `count` views of each SKU."""
    return views.group_by("sku_id", maintain_order=True).head(count).select(views.columns)


def budget(sku_ids: list[str], limit: int | None, salt: str) -> list[str]:
    """At most `limit` SKUs, those with the lowest hashes: a larger budget holds every smaller one."""
    ranked = sorted(set(sku_ids), key=lambda sku_id: (stable_hash(sku_id, salt), sku_id))
    return sorted(ranked if limit is None else ranked[:limit])


def parted(views: pl.DataFrame, limit: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The views that the adapter learns from, and those of held-out SKUs.

    The adapter learns from `limit` training SKUs at most. Held out are SKUs of other splits, which no
    training has seen; where there are none, the training SKUs that are left.
    """
    training = views.filter(pl.col("split") == "train")
    chosen = budget(training["sku_id"].to_list(), limit, "sd-lora")
    is_chosen = pl.col("sku_id").is_in(chosen)
    unseen = views.filter(pl.col("split") != "train")
    held_out = unseen if unseen.height else training.filter(~is_chosen)
    return training.filter(is_chosen), held_out


def sampled(views: pl.DataFrame, count: int) -> pl.DataFrame:
    """At most `count` views of as many SKUs: the first view of each, a stable choice."""
    chosen = budget(views["sku_id"].to_list(), count, "view-sample")
    return first_views(views.filter(pl.col("sku_id").is_in(chosen)), 1)
