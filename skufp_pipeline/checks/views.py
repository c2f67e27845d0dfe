"""Checks of generated views: effective filters, less identity drift, enough accepted, all images whole."""

from collections.abc import Mapping

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.places import GENERATED_VIEWS, SD_LORA, VIEW_FILTERS
from skufp_pipeline.checks.off import not_measured
from skufp_pipeline.photos import decodes
from skufp_pipeline.store import Artifact
from skufp_pipeline.views.settings import ViewsThresholds

FILTERS_TELL = dg.AssetCheckSpec(
    "filters_tell_views_apart",
    asset=VIEW_FILTERS.name,
    description="Of planted bad candidates nearly all are rejected, of second real views most are accepted.",
)
DRIFT_IS_LOWER = dg.AssetCheckSpec(
    "identity_drift_is_lower",
    asset=SD_LORA.name,
    description="On held-out SKUs LoRA raises the CLIP cosine to the source and lowers the HSV distance.",
)
VIEWS_DECODABLE = dg.AssetCheckSpec(
    "views_decodable",
    asset=GENERATED_VIEWS.name,
    blocking=True,
    description="Every accepted image of the shard is there and decodes, and there is no other.",
)
ACCEPTANCE_IN_RANGE = dg.AssetCheckSpec(
    "acceptance_in_range",
    asset=GENERATED_VIEWS.name,
    description="The share of the shard's candidates that were accepted is within the preset's bounds.",
)


def filters_tell_views_apart(
    figures: Mapping[str, Mapping[str, Mapping[str, float]]], thresholds: ViewsThresholds
) -> dg.AssetCheckResult:
    """Passes if both bounds hold on every set of SKUs that was measured."""
    rejected = min(1 - measured["bad"]["accepted"] for measured in figures.values())
    passed = min(measured["second_view"]["accepted"] for measured in figures.values())
    return dg.AssetCheckResult(
        check_name="filters_tell_views_apart",
        passed=bool(
            (thresholds.planted_rejected is None or rejected >= thresholds.planted_rejected)
            and (thresholds.real_accepted is None or passed >= thresholds.real_accepted)
        ),
        metadata={
            "planted_rejected": rejected,
            "planted_rejected_least": str(thresholds.planted_rejected),
            "real_accepted": passed,
            "real_accepted_least": str(thresholds.real_accepted),
        },
    )


def identity_drift_is_lower(figures: Mapping[str, float], thresholds: ViewsThresholds) -> dg.AssetCheckResult:
    """Passes if both changes have the right sign, or if the preset does not require it.

    Without figures no SKU was held out from training the adapter, so nothing was measured.
    """
    if not figures:
        return not_measured(DRIFT_IS_LOWER, "no SKU was held out from training the adapter")
    lower = figures["clip_cosine_gain"] > 0 and figures["hsv_distance_gain"] < 0
    return dg.AssetCheckResult(
        check_name="identity_drift_is_lower",
        passed=lower or not thresholds.drift_is_lower,
        metadata=dict(figures),
    )


def acceptance_in_range(accepted: int, candidates: int, thresholds: ViewsThresholds) -> dg.AssetCheckResult:
    """Passes if the share is within the bounds, or if the shard has no candidates."""
    share = accepted / candidates if candidates else float("nan")
    low, high = thresholds.acceptance_low, thresholds.acceptance_high
    return dg.AssetCheckResult(
        check_name="acceptance_in_range",
        asset_key=GENERATED_VIEWS.name,
        passed=not candidates or ((low is None or share >= low) and (high is None or share <= high)),
        metadata={"accepted": accepted, "candidates": candidates, "low": str(low), "high": str(high)},
    )


def views_decodable(shard: Artifact, accepted: pl.DataFrame) -> dg.AssetCheckResult:
    """Passes if the images on disk are those of the accepted rows, and all decode."""
    expected = {f"images/{path}" for path in accepted["image_path"]}
    found = {name for name in shard.files() if name.startswith("images/")}
    broken = sorted(name for name in expected & found if not decodes(shard.path / name))
    return dg.AssetCheckResult(
        check_name="views_decodable",
        asset_key=GENERATED_VIEWS.name,
        passed=expected == found and not broken,
        metadata={"missing_or_unlisted": sorted(expected ^ found)[:20], "broken": broken[:20]},
    )
