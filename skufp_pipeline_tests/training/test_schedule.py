import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skufp_pipeline.training.schedule import warm_cosine


def test_a_line_up_then_half_a_cosine_down() -> None:
    factors = [warm_cosine(step, 8, 0.5) for step in range(9)]
    falling = [0.5 * (1 + math.cos(math.pi * part / 4)) for part in range(5)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1.0, *falling])


def test_without_warm_up_the_first_step_is_whole() -> None:
    assert warm_cosine(0, 10, 0.0) == 1.0
    assert warm_cosine(10, 10, 0.0) == pytest.approx(0)


@given(st.integers(1, 50), st.floats(0, 0.99), st.data())
def test_factors_lie_between_zero_and_one(total: int, warmup: float, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, total - 1))
    assert 0 <= warm_cosine(step, total, warmup) <= 1
