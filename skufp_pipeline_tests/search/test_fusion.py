import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skufp_pipeline.search import fusion
from skufp_pipeline.search.fusion import best_fused
from skufp_pipeline.search.index import FingerprintIndex

COUNT = 40
draw = np.random.default_rng(0)
# Few directions, so that many SKUs have equal scores.
DIRECTIONS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.8, 0], [0, 0.6, -0.8]], np.float32)
VECTORS = DIRECTIONS[draw.integers(0, len(DIRECTIONS), COUNT)]
BIASES = draw.choice([0.0, 0.25], COUNT).astype(np.float32)


def index_of(segments: int) -> FingerprintIndex:
    ids = [f"s{row}" for row in range(COUNT)]
    parts = np.array_split(np.arange(COUNT), segments)
    tables = [pl.DataFrame({"sku_id": [ids[row] for row in part]}) for part in parts]
    index = FingerprintIndex(VECTORS[parts[0]], tables[0], threads=1)
    for part, table in zip(parts[1:], tables[1:], strict=True):
        index = index.add(VECTORS[part], table)
    return index.with_biases(BIASES).remove(["s3", "s17"])


INDEXES = {segments: index_of(segments) for segments in (1, 3)}


def brute_force(
    query: np.ndarray, k: int, rows: list[int], boosts: list[float], allowed: set[int]
) -> tuple[list[int], np.ndarray]:
    unit = query / np.linalg.norm(query)
    scores = VECTORS.astype(float) @ unit + BIASES
    scores[rows] += boosts
    left = [row for row in range(COUNT) if row in allowed and row not in (3, 17)]
    best = sorted(left, key=lambda row: (-round(scores[row], 12), row))[:k]
    return best, scores[best]


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from([1, 3]),
    st.integers(1, COUNT + 5),
    st.dictionaries(st.integers(0, COUNT - 1), st.sampled_from([0.0, 0.25, 0.5, 5.0]), max_size=COUNT),
    st.sampled_from([[1.0, 0.0, 0.0], [0.0, 0.6, 0.8], [0.5, 0.5, -0.5]]),
    st.none() | st.sets(st.integers(0, COUNT - 1)),
    st.integers(1, 12),
)
def test_ranking_and_ties_are_those_of_brute_force(
    segments: int,
    k: int,
    boosted: dict[int, float],
    query: list[float],
    within: set[int] | None,
    at_once: int,
) -> None:
    index, rows = INDEXES[segments], sorted(boosted)
    present = {int(row) for row in index.present.numbers()}
    chosen = None if within is None else index.of_skus(f"s{row}" for row in within & present)
    given_boosts = [boosted[row] for row in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusion, "AT_ONCE", at_once)
        found = best_fused(index, query, k, np.array(rows, np.int64), np.array(given_boosts), chosen)
    allowed = set(range(COUNT)) if within is None else within
    expected, scores = brute_force(np.array(query), k, rows, given_boosts, allowed)
    assert found.rows.tolist() == expected
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)


def test_without_words_the_result_is_that_of_the_vectors() -> None:
    index, query = INDEXES[3], [0.2, 0.9, 0.1]
    found = best_fused(index, query, 7, np.empty(0, np.int64), np.empty(0))
    (plain,) = index.search(query, 7)
    assert found.rows.tolist() == plain.rows.tolist()
    assert found.scores.tolist() == plain.scores.tolist()


def test_searches_stop_where_no_later_row_can_be_among_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    index, asked = INDEXES[1], []
    search = FingerprintIndex.search

    def counted(self: FingerprintIndex, *args: object) -> object:
        asked.append(args[1])
        return search(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(FingerprintIndex, "search", counted)
    monkeypatch.setattr(fusion, "AT_ONCE", 1)
    rows = np.arange(20, dtype=np.int64)
    best_fused(index, [1.0, 0, 0], 2, rows, np.where(rows < 4, 9.0, 0.001 * rows))
    assert len(asked) == 2, "the vectors' best, and the four rows that words put first"
