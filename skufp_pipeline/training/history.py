"""A training's history, one row a round: its curve, its best row, its speed."""

import math
from collections.abc import Sequence

import numpy as np

History = list[dict[str, float]]
MEASURED = ("images_per_second", "waiting_for_data", "peak_memory_gib")  # of the run, not of the result


def best_epoch(history: History, quality: str = "development_accuracy") -> dict[str, float]:
    """The row whose weights were kept: the last of the highest quality, nan being the lowest."""
    last_first = history[::-1]
    return max(last_first, key=lambda row: -math.inf if math.isnan(row[quality]) else row[quality])


def learning_curve(history: History) -> History:
    """What the seed decides of a history: the losses, not the speed."""
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in history]


def speed(history: History) -> dict[str, float]:
    """What the run measured of itself: mean rate and share of waiting, highest memory."""
    rate, waiting, memory = ([row[name] for row in history] for name in MEASURED)
    return {
        "images_per_second": round(float(np.mean(rate)), 1),
        "waiting_for_data": round(float(np.mean(waiting)), 4),
        "peak_memory_gib": round(max(memory), 3),
    }


def mean_losses(losses: Sequence[float], points: int) -> History:
    """A curve of about `points` rows: `step`, and the mean `loss` of the steps since the row before."""
    every = math.ceil(len(losses) / points)
    starts = range(0, len(losses), max(1, every))
    parts = [losses[start : start + every] for start in starts]
    return [
        {"step": start + len(part), "loss": sum(part) / len(part)}
        for start, part in zip(starts, parts, strict=True)
    ]
