"""Checks of the report: hard data set, fingerprints help, generated views do no harm, search is fast."""

import dagster as dg

from skufp_pipeline.artifacts.places import RETRIEVAL_REPORT
from skufp_pipeline.compute import Needs, declare
from skufp_pipeline.evaluation.report import SYNTHETIC_PHOTOS, Gain, Report
from skufp_pipeline.presets import Preset
from skufp_pipeline.resources.store import ArtifactStoreResource


def report_checks(preset: Preset) -> list[dg.AssetChecksDefinition]:
    """Returns all checks of the report, with the thresholds of the preset."""
    thresholds = preset.evaluation.thresholds
    resources = declare(Needs())

    @dg.asset_check(
        asset=RETRIEVAL_REPORT.name,
        description="Image R@1 of Baseline 3 on seen+zero lies where the data set is hard, not broken.",
        **resources,
    )
    def encoder_recall_in_range(artifacts: ArtifactStoreResource) -> dg.AssetCheckResult:
        report = _report(artifacts)
        scores = report.settings["seen+zero"]["image"].models
        if not scores or report.judged_on == SYNTHETIC_PHOTOS:
            return _unmeasured("there are no customers' photos for evaluation")
        recall = scores["mean_sku"]["recall@1"]
        low, high = thresholds.encoder_recall_low, thresholds.encoder_recall_high
        return dg.AssetCheckResult(
            passed=(low is None or recall >= low) and (high is None or recall <= high),
            metadata={"recall@1": recall, "low": str(low), "high": str(high)},
        )

    @dg.asset_check(
        asset=RETRIEVAL_REPORT.name,
        description="The fingerprint beats mean-SKU in image R@1 by what the preset asks for.",
        **resources,
    )
    def fingerprint_beats_mean_sku(artifacts: ArtifactStoreResource) -> dg.AssetCheckResult:
        report = _report(artifacts)
        settings = report.settings
        if report.judged_on == SYNTHETIC_PHOTOS:
            return _unmeasured("there are no customers' photos for evaluation")
        gain = {
            name: settings[name]["image"].differences["fingerprint-mean_sku"]["recall@1"]
            for name in ("seen", "zero")
            if settings[name]["image"].models
        }
        seen, zero = thresholds.fingerprint_gain_seen, thresholds.fingerprint_gain_zero_low
        passed = seen is None or "seen" not in gain or gain["seen"].delta >= seen
        passed &= zero is None or "zero" not in gain or gain["zero"].low > zero
        absent = ", ".join(name for name in ("seen", "zero") if name not in gain)
        note = {"not_measured": f"no evaluation photos of {absent} SKUs"} if absent else {}
        return dg.AssetCheckResult(
            passed=passed,
            metadata={
                **note,
                "gain": _gains(gain),
                "least_seen": str(seen),
                "least_zero_low": str(zero),
            },
        )

    @dg.asset_check(
        asset=RETRIEVAL_REPORT.name,
        description="The p95 of a single search stays within the preset's budget.",
        **resources,
    )
    def search_latency_within_budget(artifacts: ArtifactStoreResource) -> dg.AssetCheckResult:
        latency = _report(artifacts).latency
        assert latency is not None
        p95 = latency.stages["search"].p95_ms
        return dg.AssetCheckResult(
            passed=p95 <= thresholds.search_p95_ms,
            metadata={"search_p95_ms": p95, "budget_ms": thresholds.search_p95_ms},
        )

    @dg.asset_check(
        asset=RETRIEVAL_REPORT.name,
        description="Generated views do no harm: R@1 with them is not below R@1 without them, or with copies "
        "of real views, by more than the interval.",
        **resources,
    )
    def generated_views_do_no_harm(artifacts: ArtifactStoreResource) -> dg.AssetCheckResult:
        report = _report(artifacts)
        controls = None if report.judged_on == SYNTHETIC_PHOTOS else report.view_controls
        if controls is None or not controls["seen+zero"]["image"].models:
            return _unmeasured("there are no generated views, or no evaluation photos")
        differences = controls["seen+zero"]["image"].differences
        gains = {name: of_metric["recall@1"] for name, of_metric in differences.items()}
        return dg.AssetCheckResult(
            passed=all(gain.high >= 0 for gain in gains.values()),
            metadata={"gain": _gains(gains)},
        )

    @dg.asset_check(
        asset=RETRIEVAL_REPORT.name,
        description="Photos of absent products get the verdict none, and few of those of present products "
        "do, by what the preset asks for.",
        **resources,
    )
    def absent_products_are_told(artifacts: ArtifactStoreResource) -> dg.AssetCheckResult:
        report = _report(artifacts)
        if report.verdicts is None or report.judged_on == SYNTHETIC_PHOTOS:
            reason = report.not_measured.get("verdicts", "no verdict on a customer's photo was judged")
            return _unmeasured(reason)
        judged = (report.verdicts.detected or report.verdicts).settings
        found = judged.get("seen+zero") or next(iter(judged.values()))
        told, rejected = found.absent["none"].share, found.present["none"].share
        least, most = thresholds.absent_told, thresholds.present_rejected
        return dg.AssetCheckResult(
            passed=(least is None or told >= least) and (most is None or rejected <= most),
            metadata={
                "absent_told": told, "least": str(least), "present_rejected": rejected, "most": str(most)
            },
        )  # fmt: skip

    return [
        *([generated_views_do_no_harm] if preset.views else []),
        *([absent_products_are_told] if preset.confidence else []),
        encoder_recall_in_range,
        fingerprint_beats_mean_sku,
        search_latency_within_budget,
    ]


def _unmeasured(reason: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True, metadata={"not_measured": reason})


def _report(artifacts: ArtifactStoreResource) -> Report:
    return Report.read(RETRIEVAL_REPORT.read(artifacts.get()).report)


def _gains(gains: dict[str, Gain]) -> dg.JsonMetadataValue:
    return dg.MetadataValue.json({name: gain.model_dump(exclude_none=True) for name, gain in gains.items()})
