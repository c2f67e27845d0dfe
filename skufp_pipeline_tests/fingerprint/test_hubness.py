"""Query-bank normalisation on two directions, and the skew of counts that can be written down."""

import numpy as np
import pytest

from skufp_pipeline.fingerprint.hubness import occurrence_skew, query_bank_biases
from skufp_pipeline.fingerprint.settings import HubnessSettings

from .examples import unit_rows

EYE, ZERO = np.eye(2, dtype=np.float32), np.zeros(2, np.float32)


def test_one_photo_takes_from_each_sku_its_score_of_it() -> None:
    biases = query_bank_biases(EYE[:1], EYE, ZERO, HubnessSettings(strength=0.5, sharpness=10))
    np.testing.assert_allclose(biases, [-0.25, 0.25], atol=1e-6)


def test_the_bank_is_averaged_as_a_soft_maximum() -> None:
    biases = query_bank_biases(EYE[[0, 0, 1]], EYE, ZERO, HubnessSettings(strength=1, sharpness=2))
    drawn = np.log([(2 * np.exp(2) + 1) / 3, (2 + np.exp(2)) / 3]) / 2
    np.testing.assert_allclose(biases, drawn.mean() - drawn, atol=1e-6)


def test_a_strength_of_0_changes_nothing() -> None:
    rows, before = unit_rows((20, 4), 0), np.linspace(-1, 1, 20, dtype=np.float32)
    after = query_bank_biases(unit_rows((9, 4), 1), rows, before, HubnessSettings(strength=0))
    np.testing.assert_array_equal(after, before)


def test_a_hub_comes_up_less_often() -> None:
    rows, photos = unit_rows((300, 8), 2), unit_rows((2, 500, 8), 3)
    rows[:5] = rows.mean(axis=0) / np.linalg.norm(rows.mean(axis=0))
    leaning = photos + 2 * rows[0]
    bank, queries = leaning / np.linalg.norm(leaning, axis=-1, keepdims=True)
    none = np.zeros(300, np.float32)
    biases = query_bank_biases(bank, rows, none, HubnessSettings(strength=1, sharpness=20))
    assert occurrence_skew(queries @ rows.T + biases) < 0.5 * occurrence_skew(queries @ rows.T)


def test_the_skew_of_equal_counts_is_0_and_of_one_hub_is_worked_out_by_hand() -> None:
    assert occurrence_skew(np.eye(4), k=1) == 0
    hub = np.tile([1.0, 0.0, 0.0, 0.0], (4, 1))  # counts 4, 0, 0, 0: mean 1, deviations 3, -1, -1, -1
    assert occurrence_skew(hub, k=1) == pytest.approx(6 / 3**1.5)
