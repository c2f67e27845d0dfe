"""Curves, best rows and speeds of small histories."""

import math
from typing import Any

import pytest

from skufp_pipeline.training.history import MEASURED, best_epoch, learning_curve, mean_losses, speed

ROWS: Any = [
    {"epoch": 1, "loss": 2.0, "images_per_second": 10.0, "waiting_for_data": 0.5, "peak_memory_gib": 1.0},
    {"epoch": 2, "loss": 1.0, "images_per_second": 20.0, "waiting_for_data": 0.1, "peak_memory_gib": 3.0},
]


@pytest.mark.parametrize(
    ("qualities", "best"),
    [([0.2, 0.9, 0.5], 2), ([0.5, 0.9, 0.9], 3), ([math.nan] * 2, 2), ([-3.0, -1.0, -2.0], 2)],
)
def test_the_best_epoch_is_the_last_of_the_highest_quality(qualities: list[float], best: int) -> None:
    rows: Any = [{"epoch": n, "quality": q} for n, q in enumerate(qualities, start=1)]
    assert best_epoch(rows, "quality")["epoch"] == best


def test_what_was_measured_is_no_part_of_the_curve() -> None:
    assert learning_curve(ROWS) == [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]


def test_the_speed_is_the_mean_rate_and_the_most_memory() -> None:
    found = speed(ROWS)
    assert found == {"images_per_second": 15.0, "waiting_for_data": 0.3, "peak_memory_gib": 3.0}
    assert set(found) == set(MEASURED)


def test_a_curve_of_steps_is_thinned_to_means() -> None:
    losses = [float(step) for step in range(1, 12)]
    assert mean_losses(losses, 4) == [
        {"step": 3, "loss": 2.0},
        {"step": 6, "loss": 5.0},
        {"step": 9, "loss": 8.0},
        {"step": 11, "loss": 10.5},
    ]
    assert mean_losses(losses, 40) == [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
