"""Checks of the query policy: it does no harm, and it helps degraded photos."""

import dagster as dg
import polars as pl

from skufp_pipeline.policy.settings import PolicyThresholds

DOES_NO_HARM = dg.AssetCheckSpec(
    "policy_does_no_harm",
    asset="policy_report",
    description="In no setting is image R@1 with the gated policy below that without, beyond the interval.",
)
HELPS_DEGRADED = dg.AssetCheckSpec(
    "policy_helps_degraded_photos",
    asset="policy_report",
    description="On degraded photos the gated policy gains the R@1 and the share of the oracle's gain that "
    "the preset asks for.",
)


def policy_does_no_harm(table: pl.DataFrame) -> dg.AssetCheckResult:
    """Passes if, over all photos of each setting, no interval of the gated policy's gain lies below 0."""
    from skufp_pipeline.evaluation.policy import GATED  # loading the definitions must not load torch

    gated = table.filter(pl.col("arm") == GATED)
    harmed = gated.filter(pl.col("recall@1_high") < 0)
    return dg.AssetCheckResult(
        check_name=DOES_NO_HARM.name,
        asset_key="policy_report",
        passed=gated.height > 0 and harmed.filter(pl.col("part") == "all").is_empty(),
        metadata={
            "harmed": ", ".join(f"{row['setting']} {row['part']}" for row in harmed.to_dicts()) or "none",
            "gain": dg.MetadataValue.json(
                {
                    row["setting"]: row["recall@1_gain"]
                    for row in gated.filter(pl.col("part") == "all").to_dicts()
                }
            ),
        },
    )


def policy_helps_degraded(table: pl.DataFrame, thresholds: PolicyThresholds) -> dg.AssetCheckResult:
    """Passes if the gain on degraded photos of seen+zero meets the thresholds that are set."""
    from skufp_pipeline.evaluation.policy import DEGRADED, GATED, ORACLE

    rows = table.filter((pl.col("setting") == "seen+zero") & (pl.col("part") == DEGRADED))
    by_arm = {row["arm"]: row for row in rows.to_dicts()}
    low, share = thresholds.degraded_gain_low, thresholds.share_of_oracle
    if not by_arm:
        return _helps(low is None and share is None, {"degraded": "unknown for this data set"})
    gain, best = by_arm[GATED]["recall@1_gain"], by_arm[ORACLE]["recall@1_gain"]
    oracle_share = gain / best if best > 0 else 0.0
    passed = (low is None or by_arm[GATED]["recall@1_low"] > low) and (share is None or oracle_share >= share)
    return _helps(
        bool(passed),
        {
            "gain": gain,
            "gain_low": by_arm[GATED]["recall@1_low"],
            "oracle_gain": best,
            "share_of_oracle": oracle_share,
            "least_gain_low": str(low),
            "least_share": str(share),
        },
    )


def _helps(passed: bool, metadata: dict[str, float | str]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=HELPS_DEGRADED.name, asset_key="policy_report", passed=passed, metadata=metadata
    )
