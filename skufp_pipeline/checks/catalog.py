"""Checks of the catalogue: rows read, SKUs still there, crops complete, no SKU in two splits."""

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.kinds import Crops
from skufp_pipeline.artifacts.places import ANNOTATIONS, SKU_CROPS
from skufp_pipeline.compute import Needs, declare
from skufp_pipeline.datasets.counts import CatalogueCounts
from skufp_pipeline.photos import decodes
from skufp_pipeline.presets import Preset
from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.versions import Versions

CROPS_COMPLETE = dg.AssetCheckSpec(
    "crops_complete",
    asset=SKU_CROPS.name,
    blocking=True,
    description="Every item of the shard has a crop that decodes, but for a tolerated share that is listed.",
)


CATALOGUE_READ = dg.AssetCheckSpec(
    "catalogue_read",
    asset=ANNOTATIONS.name,
    blocking=True,
    description="The catalogue's wanted rows could be read, but for a tolerated share that is listed.",
)


def catalogue_read(counts: CatalogueCounts, tolerated: float) -> dg.AssetCheckResult:
    """Passes if few of the wanted rows were left out."""
    share = counts.share_left_out
    return dg.AssetCheckResult(
        check_name=CATALOGUE_READ.name,
        passed=share <= tolerated,
        metadata={
            "catalogue": str(counts),
            "share_left_out": round(share, 4),
            "tolerated": f"{tolerated} (evaluation.thresholds.rows_left_out)",
        },
    )


def few_skus_removed(preset: Preset) -> dg.AssetChecksDefinition:
    """The check that a catalogue was not cut short: most of the SKUs in use are still in it."""
    allowed = preset.evaluation.thresholds.skus_removed

    @dg.asset_check(
        asset=ANNOTATIONS.name,
        name="few_skus_removed",
        blocking=True,
        description="The catalogue still holds the SKUs of the index in use, but for a tolerated share.",
        **declare(Needs()),
    )
    def check(artifacts: ArtifactStoreResource) -> dg.AssetCheckResult:
        store = artifacts.get()
        current = Versions(store, preset.usual_index).find()
        in_use = set() if current is None else {*FingerprintIndex.load(current.path).sku_ids}
        gone = sorted(in_use - {*ANNOTATIONS.read(store).items()["sku_id"]})
        share = len(gone) / len(in_use) if in_use else 0.0
        return dg.AssetCheckResult(
            passed=share <= allowed,
            metadata={
                "removed": f"{len(gone)} of the {len(in_use)} SKUs in use, {', '.join(gone[:5]) or 'none'}",
                "allowed": f"{allowed} (evaluation.thresholds.skus_removed)",
                "if_it_is_right": "run again with --allow-removals; until then the index in use stays",
            },
        )

    return check


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
