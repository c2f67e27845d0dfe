"""Evaluates a training history (one row per round): learning curve, best row and speed."""

import math
from collections.abc import Sequence

import numpy as np

History = list[dict[str, float]]
MEASURED = ("images_per_second", "waiting_for_data", "peak_memory_gib")  # these vary between equal runs


def is_kept(score: float, best: float, later: bool = True) -> bool:
    """Returns whether a round with this score replaces the best one before it.

    Higher is better and nan, no score, is lowest; without any score the last round is kept. Of several
    rounds with equal scores the last is kept, or the first if `later` is False.
    """
    if math.isnan(score) or math.isnan(best):
        return math.isnan(best)
    return score >= best if later else score > best


def best_epoch(
    history: History, quality: str = "development_accuracy", later: bool = True
) -> dict[str, float]:
    """Returns the row whose weights were kept (`is_kept`)."""
    best = history[0]
    for row in history[1:]:
        best = row if is_kept(row[quality], best[quality], later) else best
    return best


def unscored(history: History, quality: str = "development_accuracy") -> str | None:
    """Says that nothing chose the kept round; None where a score did."""
    is_scored = any(not math.isnan(row[quality]) for row in history)
    return None if is_scored or not history else "no development photos: the last epoch was kept"


def learning_curve(history: History) -> History:
    """Returns the history without the `MEASURED` columns, which the seed does not determine, and without a
    score that no round has (nan)."""
    unknown = {
        name for name in (history[0] if history else {}) if all(math.isnan(row[name]) for row in history)
    }
    return [
        {name: value for name, value in row.items() if name not in (*MEASURED, *unknown)} for row in history
    ]


def speed(history: History) -> dict[str, float]:
    """Returns the mean rate, the mean share of time spent waiting, and the peak memory."""
    rate, waiting, memory = ([row[name] for row in history] for name in MEASURED)
    return {
        "images_per_second": round(float(np.mean(rate)), 1),
        "waiting_for_data": round(float(np.mean(waiting)), 4),
        "peak_memory_gib": round(max(memory), 3),
    }


def mean_losses(losses: Sequence[float], points: int) -> History:
    """Returns about `points` rows: `step`, and the mean `loss` of the steps since the previous row."""
    every = math.ceil(len(losses) / points)
    starts = range(0, len(losses), max(1, every))
    parts = [losses[start : start + every] for start in starts]
    return [
        {"step": start + len(part), "loss": sum(part) / len(part)}
        for start, part in zip(starts, parts, strict=True)
    ]
