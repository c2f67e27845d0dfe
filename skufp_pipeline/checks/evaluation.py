"""Checks of what was learnt and published: no leak, the fingerprint helps, a search is quick."""

import dagster as dg
import polars as pl

from skufp_pipeline.compute import Needs, declare
from skufp_pipeline.datasets.table import EVALUATION, item_id
from skufp_pipeline.evaluation.report import REPORT_FILE, Gain, Report
from skufp_pipeline.presets import Preset
from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.steps import Step
from skufp_pipeline.store import ArtifactStore

TRAINED = (
    "clip_checkpoint",
    "reid_checkpoint",
    "best_shot_teachers",
    "fingerprint_checkpoint",
    "fingerprints",
    "vla_checkpoint",
    "image_encoder_onnx",
)


def evaluation_checks(preset: Preset, steps: dict[str, Step]) -> list[dg.AssetChecksDefinition]:
    """All checks that look at a whole result; those of shards come with the shards' assets."""
    thresholds = preset.evaluation.thresholds
    resources = declare(Needs())

    @dg.asset_check(asset="annotations", blocking=True, description="No SKU is in two splits.", **resources)
    def splits_disjoint(artifacts: ArtifactStoreResource) -> dg.AssetCheckResult:
        items = _read_items(artifacts.get(), steps)
        shared = items.group_by("sku_id").agg(pl.col("split").n_unique()).filter(pl.col("split") > 1)
        return dg.AssetCheckResult(
            passed=shared.is_empty(), metadata={"skus_in_two_splits": shared["sku_id"].head(20).to_list()}
        )

    def no_leak(asset: str) -> dg.AssetChecksDefinition:
        @dg.asset_check(
            asset=asset,
            name="no_evaluation_query_used",
            blocking=True,
            description="No evaluation query is among the ids that this result recorded as used.",
            **resources,
        )
        def check(artifacts: ArtifactStoreResource) -> dg.AssetCheckResult:
            store = artifacts.get()
            held = _evaluation_ids(store, steps, preset.shards)
            used = pl.read_parquet(store.read(steps[asset].key).path / "used_queries.parquet")
            leaked = sorted(held & set(used["query_id"]))
            return dg.AssetCheckResult(
                passed=not leaked and used.height > 0,
                metadata={"used": used.height, "evaluation": len(held), "leaked": leaked[:20]},
            )

        return check

    @dg.asset_check(
        asset="retrieval_report",
        description="Image R@1 of Baseline 3 on seen+zero lies where the data set is hard, not broken.",
        **resources,
    )
    def encoder_recall_in_range(artifacts: ArtifactStoreResource) -> dg.AssetCheckResult:
        recall = _report(artifacts.get(), steps).settings["seen+zero"]["image"].models["mean_sku"]["recall@1"]
        low, high = thresholds.encoder_recall_low, thresholds.encoder_recall_high
        return dg.AssetCheckResult(
            passed=(low is None or recall >= low) and (high is None or recall <= high),
            metadata={"recall@1": recall, "low": str(low), "high": str(high)},
        )

    @dg.asset_check(
        asset="retrieval_report",
        description="The fingerprint beats mean-SKU in image R@1 by what the preset asks for.",
        **resources,
    )
    def fingerprint_beats_mean_sku(artifacts: ArtifactStoreResource) -> dg.AssetCheckResult:
        settings = _report(artifacts.get(), steps).settings
        gain = {
            name: settings[name]["image"].differences["fingerprint-mean_sku"]["recall@1"]
            for name in ("seen", "zero")
        }
        seen, zero = thresholds.fingerprint_gain_seen, thresholds.fingerprint_gain_zero_low
        return dg.AssetCheckResult(
            passed=(seen is None or gain["seen"].delta >= seen) and (zero is None or gain["zero"].low > zero),
            metadata={
                "gain": _gains(gain),
                "least_seen": str(seen),
                "least_zero_low": str(zero),
            },
        )

    @dg.asset_check(
        asset="retrieval_report",
        description="The p95 of a single search stays within the preset's budget.",
        **resources,
    )
    def search_latency_within_budget(artifacts: ArtifactStoreResource) -> dg.AssetCheckResult:
        latency = _report(artifacts.get(), steps).latency
        assert latency is not None
        p95 = latency.stages["search"].p95_ms
        return dg.AssetCheckResult(
            passed=p95 <= thresholds.search_p95_ms,
            metadata={"search_p95_ms": p95, "budget_ms": thresholds.search_p95_ms},
        )

    @dg.asset_check(
        asset="retrieval_report",
        description="Generated views do no harm: R@1 with them is not below R@1 without them, or with copies "
        "of real views, by more than the interval.",
        **resources,
    )
    def generated_views_do_no_harm(artifacts: ArtifactStoreResource) -> dg.AssetCheckResult:
        controls = _report(artifacts.get(), steps).view_controls
        assert controls is not None
        differences = controls["seen+zero"]["image"].differences
        gains = {name: of_metric["recall@1"] for name, of_metric in differences.items()}
        return dg.AssetCheckResult(
            passed=all(gain.high >= 0 for gain in gains.values()),
            metadata={"gain": _gains(gains)},
        )

    return [
        *([generated_views_do_no_harm] if preset.views else []),
        splits_disjoint,
        *(no_leak(asset) for asset in TRAINED if asset in steps),
        encoder_recall_in_range,
        fingerprint_beats_mean_sku,
        search_latency_within_budget,
    ]


def _read_items(store: ArtifactStore, steps: dict[str, Step]) -> pl.DataFrame:
    return pl.read_parquet(store.read(steps["annotations"].key).path / "items" / "*.parquet")


def _evaluation_ids(store: ArtifactStore, steps: dict[str, Step], shards: int) -> set[str]:
    """Ids of all evaluation queries, images and texts, from the tables that assign the roles."""
    ids: set[str] = set()
    for shard in range(shards):
        folder = store.read(steps["image_text"].shard_key(shard)).path
        images = pl.read_parquet(folder / "image_text.parquet").filter(pl.col("role") == EVALUATION)
        texts = pl.read_parquet(folder / "text_queries.parquet").filter(pl.col("role") == EVALUATION)
        ids.update(images.select(item_id())["item_id"], texts["text_id"])
    return ids


def _report(store: ArtifactStore, steps: dict[str, Step]) -> Report:
    return Report.read(store.read(steps["retrieval_report"].key).path / REPORT_FILE)


def _gains(gains: dict[str, Gain]) -> dg.JsonMetadataValue:
    return dg.MetadataValue.json({name: gain.model_dump(exclude_none=True) for name, gain in gains.items()})
