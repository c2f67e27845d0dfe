"""The check of synthetic photos: every SKU has all of them, and the product is in each."""

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.kinds import SyntheticPhotos
from skufp_pipeline.artifacts.places import SYNTHETIC_PHOTOS
from skufp_pipeline.camera.settings import SyntheticPhotosSettings

PHOTOS_COMPLETE = dg.AssetCheckSpec(
    "synthetic_photos_complete",
    asset=SYNTHETIC_PHOTOS.name,
    blocking=True,
    description="Every SKU with a catalog picture has its photos of each role, and each box is in its photo.",
)


def photos_complete(
    result: SyntheticPhotos, sku_ids: pl.Series, settings: SyntheticPhotosSettings
) -> dg.AssetCheckResult:
    """Passes if each of `sku_ids` has the photos asked for, under unique ids and with the boxes inside."""
    photos, side = result.table(), settings.side
    wanted = {
        (sku_id, role, number + 1)
        for sku_id in sku_ids
        for role, count in settings.counts.items()
        for number in range(count)
    }
    found = set(photos.select("sku_id", "role", "number").rows())
    outside = photos.filter(
        ~(pl.col("x1").is_between(0, pl.col("x2") - 1) & pl.col("y1").is_between(0, pl.col("y2") - 1))
        | (pl.max_horizontal("x2", "y2") > side)
    )
    absent = [path for path in photos["image_path"] if not (result.path / path).is_file()]
    is_complete = found == wanted and photos.height == len(wanted) == photos["item_id"].n_unique()
    return dg.AssetCheckResult(
        check_name=PHOTOS_COMPLETE.name,
        passed=is_complete and outside.is_empty() and not absent,
        metadata={
            "photos": photos.height,
            "expected": len(wanted),
            "boxes_outside": outside["item_id"].head(20).to_list(),
            "files_absent": absent[:20],
        },
    )
