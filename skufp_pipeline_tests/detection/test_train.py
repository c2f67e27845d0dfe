from pathlib import Path

import numpy as np
import pytest
import torch

from skufp_pipeline.detection.measure import agreement, best_overlaps
from skufp_pipeline.detection.regions import Region
from skufp_pipeline.detection.train import agreement_on, augmented, train_detector
from skufp_pipeline.errors import TooLittleError

from .examples import SETTINGS, TRAINING, rectangles

CPU = torch.device("cpu")


def test_it_learns_to_find_rectangles_that_it_has_not_seen(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"training": TRAINING.model_copy(update={"steps": 150})})
    train, held = rectangles(200, 0), rectangles(40, 1)
    network, history = train_detector(train, held, settings, 3, CPU, tmp_path, lambda line: None)
    assert [row["step"] for row in history] == [*range(20, 150, 20), 150]
    found = agreement_on(held, network, settings, CPU)
    assert found.placed == max(row["development_recall"] for row in history)
    assert found.recall > 0.9
    assert found.mean_iou > 0.7


def test_too_few_photos_are_told(tmp_path: Path) -> None:
    with pytest.raises(TooLittleError, match="a detector needs 20 photos with boxes; found 3"):
        train_detector(rectangles(3, 0), rectangles(2, 1), SETTINGS, 3, CPU, tmp_path, print)


def test_boxes_move_with_what_they_show() -> None:
    photos = rectangles(30, 5)
    for number, (pixels, boxes) in enumerate(zip(photos.pixels, photos.boxes, strict=True)):
        part, moved = augmented(pixels, boxes, np.random.default_rng(number))
        assert part.shape == pixels.shape
        bright = part.astype(int).max(axis=2) > 110
        for x1, y1, x2, y2 in (moved * len(part)).tolist():
            inside = bright[round(y1) : round(y2), round(x1) : round(x2)]
            assert inside.mean() > 0.8
            assert inside.sum() > 0.7 * bright.sum(), "a blurred edge is all that is outside"


def test_agreement_counts_every_known_box() -> None:
    region = Region((0, 0, 10, 10), "item", 0.9)
    known = [np.array([[0, 0, 10, 8], [50, 50, 60, 60]]), np.array([[0, 0, 10, 10]])]
    found = agreement([[region], []], known)
    assert found.boxes == 3
    assert found.recall == pytest.approx(1 / 3)
    assert found.mean_iou == pytest.approx(0.8 / 3)
    assert found.placed == pytest.approx((1 + 1 + 1 + 1 + 0) / 15), "IoU .8 meets .5 to .8, not .9"
    assert found.regions == 0.5
    assert best_overlaps([], known[0]).tolist() == [0, 0]
    assert np.isnan(agreement([], []).recall)
