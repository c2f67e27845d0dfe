"""The internal table: one row per annotated item, the same for every data set.

Readers (`deepfashion2`, `street2shop`, `manifest`) return a `Catalogue` of kept and skipped items. Everything
downstream reads these columns and does not depend on their source.
"""

from dataclasses import dataclass, field

import polars as pl

SPLITS = ("train", "validation", "test")
CATALOG, QUERY = "catalog", "query"
SYNTHETIC = "synthetic"  # domain of photos rendered from catalog pictures; no row of `ITEM_SCHEMA` has it

# Roles. `gallery`: a catalog view; `train`, `development`, `evaluation`: a query (see splits.py).
# An evaluation query is used only for the final score.
GALLERY, TRAIN, DEVELOPMENT, EVALUATION = "gallery", "train", "development", "evaluation"

ITEM_SCHEMA: dict[str, pl.DataType] = {
    "sku_id": pl.String(),
    "split": pl.String(),  # train | validation | test
    "domain": pl.String(),  # catalog | query
    "role": pl.String(),  # gallery | train | development | evaluation
    "image_id": pl.String(),
    "item_idx": pl.Int32(),  # 1, 2, ... within the image
    "pair_id": pl.Int64(),  # null outside DeepFashion2
    "style": pl.Int32(),  # null outside DeepFashion2
    "category_id": pl.Int32(),  # null outside DeepFashion2
    "category_name": pl.String(),
    "orig_image_path": pl.String(),  # relative to the data set's root
    "bbox": pl.Array(pl.Int32(), 4),  # x1, y1, x2, y2 in pixels, clipped to the image, not empty
    "occlusion": pl.Int8(),  # 1 slight or none, 2 medium, 3 heavy; null where unknown
    "viewpoint": pl.Int8(),  # 1 no wear, 2 frontal, 3 side or back; null where unknown
    "title": pl.String(),  # the catalogue's own text; null if it has none
    "description": pl.String(),
}

SKIPPED_SCHEMA: dict[str, pl.DataType] = {
    "sku_id": pl.String(),  # null where it is not known
    "split": pl.String(),
    "image_id": pl.String(),
    "item_idx": pl.Int32(),  # null where the whole image or row was skipped
    "path": pl.String(),  # relative to the data set's root
    "reason": pl.String(),  # short and countable: style_zero, missing_image, bbox_empty, ...
    "detail": pl.String(),  # an explanation for the user
}

# The order of rows everywhere: by SKU, catalog before query, then image and item.
ITEM_ORDER = ["sku_id", "domain", "image_id", "item_idx"]


def item_id() -> pl.Expr:
    """The id of an item or query across splits, `<split>/<image_id>_item<idx>`."""
    return pl.format("{}/{}_item{}", "split", "image_id", "item_idx").alias("item_id")


def synthetic_id(role: str, sku_id: str, number: int) -> str:
    """The id of a synthetic photo; no item has one that starts so.

    >>> synthetic_id("train", "A-100", 1)
    'synthetic/train/A-100/1'
    """
    return f"{SYNTHETIC}/{role}/{sku_id}/{number}"


def is_synthetic(column: str, role: str | None = None) -> pl.Expr:
    """Whether an id is one of a synthetic photo, of this role if one is given."""
    return pl.col(column).str.starts_with(f"{SYNTHETIC}/" if role is None else f"{SYNTHETIC}/{role}/")


@dataclass(frozen=True)
class Catalogue:
    """A data set as a reader returns it."""

    items: pl.DataFrame  # one row per kept item, columns of `ITEM_SCHEMA`, sorted by `ITEM_ORDER`
    skipped: pl.DataFrame  # one row per item, image or manifest row left out, columns of `SKIPPED_SCHEMA`
    # One row per kept SKU: `sku_id` and the catalogue's further columns, typed. Only the index depends on it.
    skus: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema={"sku_id": pl.String()}))
    warnings: tuple[str, ...] = ()  # sentences for the user about what was read but may not be meant
