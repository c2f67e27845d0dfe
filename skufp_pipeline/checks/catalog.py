"""Checks of the catalogue: crops complete and decodable, splits without a common SKU."""

import dagster as dg
import polars as pl

from skufp_pipeline.photos import decodes
from skufp_pipeline.store import Artifact

CROPS_COMPLETE = dg.AssetCheckSpec(
    "crops_complete",
    asset="sku_crops",
    blocking=True,
    description="Every item of the shard has a crop that decodes, but for a tolerated share that is listed.",
)


def crops_complete(shard: Artifact, tolerated: float) -> dg.AssetCheckResult:
    """Passes where all crops of the table are there and decode, and few items were skipped."""
    crops = pl.read_parquet(shard.path / "crops.parquet")
    broken = [path for path in crops["crop_path"] if not decodes(shard.path / path)]
    items, skipped = shard.summary["items"], shard.summary["skipped_items"]
    share = skipped / items if items else 0.0
    return dg.AssetCheckResult(
        check_name="crops_complete",
        passed=not broken and share <= tolerated,
        metadata={
            "broken": broken[:20],
            "skipped_items": skipped,
            "skipped_share": share,
            "tolerated": tolerated,
        },
    )
