from typing import Any

import pytest

from skufp_pipeline.checks.detection import detector_finds_items
from skufp_pipeline.detection.settings import DetectorThresholds


def figures(**recalls: float) -> dict[str, Any]:
    return {"by_split": {split: {"recall": recall} for split, recall in recalls.items()}}


@pytest.mark.parametrize(
    ("least", "passes"), [(None, True), (0.8, True), (0.81, False), (0.9, False)], ids=str
)
def test_every_split_must_meet_the_threshold(least: float | None, passes: bool) -> None:
    found = detector_finds_items(figures(train=0.9, validation=0.8), DetectorThresholds(recall=least))
    assert found.passed == passes


def test_without_known_boxes_nothing_is_measured_and_that_is_said() -> None:
    found = detector_finds_items(figures(), DetectorThresholds(recall=0.5))
    assert found.passed
    assert found.metadata["not_measured"].value == "no box of an evaluation photo is known"
