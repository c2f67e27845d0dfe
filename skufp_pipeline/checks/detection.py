"""The check of the detector: it finds the items of photos that it was not trained on."""

from typing import Any

import dagster as dg

from skufp_pipeline.detection.settings import DetectorThresholds

FINDS_ITEMS = dg.AssetCheckSpec(
    "detector_finds_items",
    asset="detection_report",
    description="On evaluation photos of each split the detector meets the annotated box with an IoU of .5 "
    "or more, as often as the preset asks for.",
)


def detector_finds_items(figures: dict[str, Any], thresholds: DetectorThresholds) -> dg.AssetCheckResult:
    """Passes if the recall of every split meets the threshold; without one, or without boxes, it measures."""
    recalls = {split: found["recall"] for split, found in figures["by_split"].items()}
    least = thresholds.recall
    return dg.AssetCheckResult(
        check_name=FINDS_ITEMS.name,
        asset_key="detection_report",
        passed=least is None or all(recall >= least for recall in recalls.values()),
        metadata={
            **{f"recall_{split}": recall for split, recall in recalls.items()},
            "least": str(least),
            **({} if recalls else {"not_measured": "no box of an evaluation photo is known"}),
        },
    )
