import numpy as np
import pytest

from skufp_pipeline.encoders.parity import Parity, compare, unit_cosines

GALLERY = np.eye(3, dtype=np.float32)


def parity(cosine: float = 1.0, reference: float = 0.5, recall: float = 0.5) -> Parity:
    return Parity(200, cosine, 1.0, reference, recall)


def test_the_same_rows_are_at_full_parity() -> None:
    rows = GALLERY[[0, 1, 2, 2]]
    assert compare(rows, rows, np.array([0, 1, 2, 0]), GALLERY) == Parity(4, 1.0, 1.0, 0.75, 0.75)


def test_cosines_and_recalls_are_those_of_the_pairs() -> None:
    reference = GALLERY[[0, 1]]
    found = np.array([[0.8, 0.6, 0], [0.8, 0.6, 0]], np.float32)
    judged = compare(reference, found, np.array([0, 1]), GALLERY)
    assert (judged.cosine_least, judged.cosine_mean) == pytest.approx((0.6, 0.7))
    assert (judged.photos, judged.reference_recall, judged.recall) == (2, 1.0, 0.5)


def test_cosines_do_not_ask_for_unit_rows() -> None:
    assert unit_cosines(np.array([[3, 4]], np.float32), np.array([[8, 6]], np.float32)) == pytest.approx(0.96)


@pytest.mark.parametrize(("precision", "least"), [("float32", 0.999), ("int8", 0.99)])
def test_the_farthest_photo_decides(precision: str, least: float) -> None:
    assert parity(least).holds(precision)
    assert not parity(least - 1e-6).holds(precision)
    assert not parity(float("nan")).holds(precision)


def test_int8_may_cost_half_a_point_of_recall_and_float32_is_judged_by_cosine_alone() -> None:
    assert parity(recall=0.495).holds("int8")
    assert not parity(recall=0.49).holds("int8")
    assert parity(recall=0.6).holds("int8")
    assert parity(recall=0.49).holds("float32")
