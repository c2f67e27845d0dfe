import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skufp_pipeline.search.kernels.score import pairwise_dot, push, sort_best_first


@pytest.mark.parametrize("dimension", [1, 3, 7, 8, 17, 100, 128, 129, 512, 513, 2000])
def test_the_defined_score_is_numpys_sum_bit_by_bit(dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    rows = rng.standard_normal((50, dimension)).astype(np.float32)
    query = rng.standard_normal(dimension)
    expected = (rows.astype(np.float64) * query).sum(axis=1)
    flat = rows.reshape(-1)
    for row in range(50):
        assert pairwise_dot(flat, row * dimension, query, 0, dimension) == expected[row]


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 50)), unique=True), st.integers(1, 12))
def test_a_heap_keeps_the_best_and_breaks_ties_by_row(entries: list[tuple[int, int]], k: int) -> None:
    scores, rows, size = np.empty(k), np.empty(k, np.int64), 0
    for score, row in entries:
        size = push(scores, rows, size, float(score), row)
    sort_best_first(scores, rows, size)
    best = sorted(entries, key=lambda entry: (-entry[0], entry[1]))[:k]
    assert list(zip(scores[:size].tolist(), rows[:size].tolist(), strict=True)) == best
