"""Checks of the catalogue: crops complete and decodable, no SKU in two splits."""

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.kinds import Crops
from skufp_pipeline.artifacts.places import ANNOTATIONS, SKU_CROPS
from skufp_pipeline.compute import Needs, declare
from skufp_pipeline.photos import decodes
from skufp_pipeline.resources.store import ArtifactStoreResource

CROPS_COMPLETE = dg.AssetCheckSpec(
    "crops_complete",
    asset=SKU_CROPS.name,
    blocking=True,
    description="Every item of the shard has a crop that decodes, but for a tolerated share that is listed.",
)


def crops_complete(shard: Crops, tolerated: float) -> dg.AssetCheckResult:
    """Passes if all crops of the table exist and decode, and few items were skipped."""
    broken = [path for path in shard.table()["crop_path"] if not decodes(shard.path / path)]
    items, skipped = shard.summary["items"], shard.summary["skipped_items"]
    share = skipped / items if items else 0.0
    return dg.AssetCheckResult(
        check_name=CROPS_COMPLETE.name,
        passed=not broken and share <= tolerated,
        metadata={
            "broken": broken[:20],
            "skipped_items": skipped,
            "skipped_share": share,
            "tolerated": tolerated,
        },
    )


def splits_disjoint() -> dg.AssetChecksDefinition:
    """The check that no SKU is in two splits."""

    @dg.asset_check(
        asset=ANNOTATIONS.name,
        name="splits_disjoint",
        blocking=True,
        description="No SKU is in two splits.",
        **declare(Needs()),
    )
    def check(artifacts: ArtifactStoreResource) -> dg.AssetCheckResult:
        items = ANNOTATIONS.read(artifacts.get()).items()
        shared = items.group_by("sku_id").agg(pl.col("split").n_unique()).filter(pl.col("split") > 1)
        return dg.AssetCheckResult(
            passed=shared.is_empty(), metadata={"skus_in_two_splits": shared["sku_id"].head(20).to_list()}
        )

    return check
