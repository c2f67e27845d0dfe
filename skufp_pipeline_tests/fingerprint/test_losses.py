"""Equations 10 to 13, against the same written out one term at a time in float64."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from skufp_pipeline.fingerprint.losses import classification, embedding_regression, rank_distillation

from .examples import unit_rows

EAST, NORTH, WEST = (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)


def rows(*values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def tensors(*arrays: NDArray) -> list[Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def softmax(query: NDArray[np.float64], gallery: NDArray[np.float64], temperature: float) -> list[float]:
    powers = [math.exp(float(query @ row) / temperature) for row in gallery]
    return [power / sum(powers) for power in powers]


def test_regression_is_the_mean_squared_distance() -> None:
    """Distances 0, sqrt 2 and 2."""
    loss = embedding_regression(rows(EAST, EAST, EAST), rows(EAST, NORTH, WEST))
    assert loss.item() == pytest.approx((0 + 2 + 4) / 3)


def test_regression_equals_the_sum_written_out() -> None:
    made, teachers = unit_rows((7, 5), 0), unit_rows((7, 5), 1)
    expected = np.mean(
        [sum((m - t) ** 2) for m, t in zip(made.astype(np.float64), teachers.astype(np.float64), strict=True)]
    )
    found = embedding_regression(*tensors(made, teachers))
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_rank_distillation_is_zero_where_the_fingerprints_are_the_teachers() -> None:
    queries, teachers = tensors(unit_rows((6, 4), 0), unit_rows((5, 4), 1))
    assert rank_distillation(queries, teachers, teachers, 0.07).item() == pytest.approx(0, abs=1e-6)


def test_a_hand_worked_rank_distillation() -> None:
    """The teachers say p = (e, 1) / (e + 1), the fingerprints q = (1, e) / (e + 1): KL = (e-1)/(e+1)."""
    loss = rank_distillation(rows(EAST), rows(EAST, NORTH), rows(NORTH, EAST), temperature=1.0)
    assert loss.item() == pytest.approx((math.e - 1) / (math.e + 1))


@pytest.mark.parametrize("temperature", [0.05, 0.3, 1.0])
def test_rank_distillation_equals_the_divergence_written_out(temperature: float) -> None:
    queries, teachers, made = unit_rows((9, 6), 0), unit_rows((7, 6), 1), unit_rows((7, 6), 2)
    terms = []
    for query in queries.astype(np.float64):
        target = softmax(query, teachers.astype(np.float64), temperature)
        student = softmax(query, made.astype(np.float64), temperature)
        terms.append(sum(p * math.log(p / q) for p, q in zip(target, student, strict=True)))
    found = rank_distillation(*tensors(queries, teachers, made), temperature)
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_the_teachers_are_the_target_of_the_divergence() -> None:
    queries, teachers, made = tensors(*[unit_rows((6, 4), seed) for seed in range(3)])
    one = rank_distillation(queries, teachers, made, 0.1)
    assert one.item() != pytest.approx(rank_distillation(queries, made, teachers, 0.1).item(), rel=1e-3)


def test_a_hand_worked_classification() -> None:
    """Logits (2, 0) with truth 0, and (0, 2) with truth 0."""
    loss = classification(rows(EAST, NORTH), rows(EAST, NORTH), torch.tensor([0, 0]), temperature=0.5)
    assert loss.item() == pytest.approx((math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2)


@pytest.mark.parametrize("temperature", [0.05, 0.3, 1.0])
def test_classification_equals_the_cross_entropy_written_out(temperature: float) -> None:
    queries, made, truth = unit_rows((9, 6), 0), unit_rows((7, 6), 1), np.arange(9) % 7
    terms = [
        -math.log(softmax(query, made.astype(np.float64), temperature)[row])
        for query, row in zip(queries.astype(np.float64), truth, strict=True)
    ]
    found = classification(*tensors(queries, made, truth), temperature)
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-5)


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "regression": lambda made: embedding_regression(made, rows(EAST, NORTH)),
    "rank": lambda made: rank_distillation(rows(EAST, WEST), rows(EAST, NORTH), made, 0.01),
    "classification": lambda made: classification(rows(EAST, WEST), made, torch.tensor([0, 0]), 0.01),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_gradients_are_finite_at_a_low_temperature(loss: Callable[[Tensor], Tensor]) -> None:
    made = rows(WEST, EAST).requires_grad_()
    value = loss(made)
    value.backward()
    assert torch.isfinite(value)
    assert made.grad is not None
    assert torch.isfinite(made.grad).all()
    assert made.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_step_down_the_gradient_lowers_the_loss(loss: Callable[[Tensor], Tensor]) -> None:
    made = rows((0.6, 0.8), (0.8, 0.6)).requires_grad_()
    value = loss(made)
    (gradient,) = torch.autograd.grad(value, made)
    assert loss(made - 1e-4 * gradient) < value
