"""Identity drift by hand."""

import numpy as np
import pytest

from skufp_pipeline.views.drift import DRIFT_SCHEMA, drift_figures, drift_table
from skufp_pipeline.views.filters import Scores


def scores(cosine: list[float], distance: list[float]) -> Scores:
    zero = np.zeros(len(cosine), np.float32)
    return Scores(np.array(cosine, np.float32), np.array(distance, np.float32), zero, zero)


def test_gains_are_mean_differences_within_their_interval() -> None:
    frozen, lora = scores([0.5, 0.5, 0.8], [0.4, 0.4, 0.2]), scores([0.6, 0.8, 0.7], [0.3, 0.1, 0.2])
    table = drift_table(["c0", "c1", "c2"], ["a", "a", "b"], frozen, lora)
    assert table.schema == DRIFT_SCHEMA
    figures = drift_figures(table)
    assert figures["frozen_clip_cosine"] == pytest.approx(0.6)
    assert figures["lora_hsv_distance"] == pytest.approx(0.2)
    assert figures["clip_cosine_gain"] == pytest.approx(0.1)
    assert figures["hsv_distance_gain"] == pytest.approx(-0.4 / 3)
    for name in ("clip_cosine", "hsv_distance"):
        low, gain, high = (figures[f"{name}_gain{end}"] for end in ("_low", "", "_high"))
        assert low <= gain <= high
    assert figures["clip_cosine_gain_low"] == pytest.approx(-0.1)  # SKU b alone
    assert figures["clip_cosine_gain_high"] == pytest.approx(0.2)  # SKU a alone


def test_the_same_candidates_drift_by_nothing() -> None:
    same = scores([0.5, 0.7], [0.1, 0.3])
    figures = drift_figures(drift_table(["c", "d"], ["a", "b"], same, same))
    assert figures["clip_cosine_gain"] == figures["hsv_distance_gain_high"] == 0
