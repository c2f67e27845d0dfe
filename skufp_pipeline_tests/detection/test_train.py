from pathlib import Path

import numpy as np
import pytest
import torch

from skufp_pipeline.detection.measure import agreement, best_overlaps
from skufp_pipeline.detection.regions import Region
from skufp_pipeline.detection.train import (
    agreement_on,
    augmented,
    drawn_batch,
    moved,
    part,
    shares_in,
    train_detector,
)
from skufp_pipeline.detection.windows import around
from skufp_pipeline.errors import TooLittleError

from .examples import SETTINGS, SIDE, TRAINING, rectangles

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


def test_a_found_box_is_placed_better_by_another_look(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"training": TRAINING.model_copy(update={"steps": 150})})
    network, _ = train_detector(rectangles(200, 0), rectangles(40, 1), settings, 3, CPU, tmp_path, print)
    judged = [
        agreement_on(rectangles(40, 2), network, settings.model_copy(update={"looks": looks}), CPU).mean_iou
        for looks in (0, 1)
    ]
    assert judged[1] > judged[0] + 0.05


def test_boxes_move_with_what_they_show() -> None:
    photos = rectangles(30, 5)
    for number, (pixels, boxes) in enumerate(zip(photos.pixels, photos.boxes, strict=True)):
        rng = np.random.default_rng(number)
        window = around(moved(boxes[0], rng)) if number % 2 else part(rng)
        shown, there = augmented(pixels, boxes, window, 48, rng)
        assert shown.shape == (48, 48, 3)
        bright = shown.astype(int).max(axis=2) > 110
        for x1, y1, x2, y2 in (there.clip(0, 1) * len(shown)).tolist():
            inside = bright[round(y1) : round(y2), round(x1) : round(x2)]
            assert inside.mean() > 0.8 or shares_in(there)[0] < 0.25
            assert inside.sum() > 0.7 * bright.sum(), "a blurred edge is all that is outside"


def test_half_of_a_batch_are_views_of_single_items() -> None:
    training = TRAINING.model_copy(update={"batch_size": 8})
    pixels, truth, middle = drawn_batch(rectangles(20, 0), training, np.random.default_rng(0))
    assert pixels.shape == (8, SIDE, SIDE, 3)
    assert truth.shape == (8, 1, 4)
    assert np.isnan(middle).all(axis=1).tolist() == [False] * 4 + [True] * 4
    np.testing.assert_array_equal(truth[:4, 0], middle[:4])


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
