"""Selects catalogue views for training and generation, by a stable hash of the SKU."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from skufp_pipeline.artifacts.kinds import Crops, ImageText
from skufp_pipeline.datasets.table import CATALOG, ITEM_ORDER, item_id
from skufp_pipeline.errors import TooLittleError
from skufp_pipeline.hashing import stable_hash
from skufp_pipeline.views.prompts import view_prompt

LEAST_PAIRS = 10  # of views of one SKU, and of two, for calibrating the filters

# One catalogue view of one SKU, with its prompt.
VIEW_SCHEMA: dict[str, pl.DataType] = {
    "item_id": pl.String(),
    "sku_id": pl.String(),
    "split": pl.String(),
    "image_path": pl.String(),  # relative to the shard's crops
    "prompt": pl.String(),
}


def catalog_views(image_text: pl.DataFrame, template: str) -> pl.DataFrame:
    """Returns `VIEW_SCHEMA` with one row per catalogue crop of an image-text table, in `ITEM_ORDER`."""
    rows = image_text.filter(pl.col("domain") == CATALOG).sort(ITEM_ORDER)
    prompts = [view_prompt(row, template) for row in rows.iter_rows(named=True)]
    return rows.with_columns(item_id(), prompt=pl.Series(prompts, dtype=pl.String)).select(*VIEW_SCHEMA)


def shard_views(texts: ImageText, crops: Crops, template: str) -> pl.DataFrame:
    """Returns the catalogue views of one shard with the `path` of each crop."""
    return with_paths(catalog_views(texts.images(), template), crops.path)


def all_views(texts: Sequence[ImageText], crops: Sequence[Crops], template: str) -> pl.DataFrame:
    """Concatenates `shard_views` of all shards, in order."""
    return pl.concat([shard_views(text, crop, template) for text, crop in zip(texts, crops, strict=True)])


def with_paths(table: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """Adds the column `path`: the local path of `image_path`."""
    return table.with_columns(path=pl.format("{}/{}", pl.lit(str(folder)), "image_path"))


def first_views(views: pl.DataFrame, count: int) -> pl.DataFrame:
    """Returns the first `count` views of each SKU."""
    return views.group_by("sku_id", maintain_order=True).head(count).select(views.columns)


def budget(sku_ids: list[str], limit: int | None, salt: str) -> list[str]:
    """Returns at most `limit` SKUs, those with the lowest hashes; larger budgets contain smaller ones."""
    ranked = sorted(set(sku_ids), key=lambda sku_id: (stable_hash(sku_id, salt), sku_id))
    return sorted(ranked if limit is None else ranked[:limit])


def parted(views: pl.DataFrame, limit: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Returns the adapter's training views, of at most `limit` training SKUs, and views of held-out SKUs.

    Held-out SKUs are those of other splits, which no training uses; without any, the other training SKUs.
    """
    training = views.filter(pl.col("split") == "train")
    chosen = budget(training["sku_id"].to_list(), limit, "sd-lora")
    is_chosen = pl.col("sku_id").is_in(chosen)
    unseen = views.filter(pl.col("split") != "train")
    held_out = unseen if unseen.height else training.filter(~is_chosen)
    return training.filter(is_chosen), held_out


def for_calibration() -> pl.Expr:
    """The SKUs of a table on which the filters are calibrated: half of them, by hash."""
    return pl.col("sku_id").map_elements(lambda s: stable_hash(s, "filters") % 2 == 0, pl.Boolean)


def require_calibration(views: pl.DataFrame, skus: int) -> None:
    """Raises `TooLittleError` where the filters can't be calibrated, so that nothing is trained for nothing.

    Args:
        views: every catalogue view: `sku_id`, `split`.
        skus: largest number of SKUs for the calibration.
    """
    known = views.filter((pl.col("split") == "train") & for_calibration())
    chosen = budget(known["sku_id"].to_list(), skus, "view-filters")
    counts = known.filter(pl.col("sku_id").is_in(chosen)).group_by("sku_id").len()["len"].cast(pl.Int64)
    same = int((counts * (counts - 1)).sum())
    other = int(counts.sum()) ** 2 - int((counts * counts).sum())
    if min(same, other) < LEAST_PAIRS:
        raise too_few_pairs(same, other)


def too_few_pairs(same: int, other: int) -> TooLittleError:
    """The reason why no views are generated, with the number of pairs of views of one SKU and of two."""
    return TooLittleError(
        f"the filters of generated views are calibrated on pairs of catalog views; found {same} of one "
        f"training SKU and {other} of two, expected {LEAST_PAIRS} of either (half of the training SKUs count)"
    )


def sampled(views: pl.DataFrame, count: int) -> pl.DataFrame:
    """Returns the first view of each of at most `count` SKUs, selected by hash."""
    chosen = budget(views["sku_id"].to_list(), count, "view-sample")
    return first_views(views.filter(pl.col("sku_id").is_in(chosen)), 1)
