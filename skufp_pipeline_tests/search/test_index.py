import math
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import ArrayLike, NDArray

from skufp_pipeline.errors import UserError
from skufp_pipeline.search.index import FingerprintIndex, SearchResult


def make_index(fingerprints: ArrayLike) -> FingerprintIndex:
    rows = np.asarray(fingerprints, dtype=np.float32)
    return FingerprintIndex(rows, pl.DataFrame({"sku_id": [str(n) for n in range(len(rows))]}))


def unit_rows(count: int, dimension: int, seed: int) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def brute_force(index: FingerprintIndex, query: ArrayLike, k: int) -> SearchResult:
    """All scores in float64, sorted by score and then by row."""
    wide = np.asarray(query, dtype=np.float64)
    wide = wide / (np.linalg.norm(wide) or 1)
    scores = (index.fingerprints.astype(np.float64) * wide).sum(axis=1)
    order = sorted(range(len(index)), key=lambda row: (-scores[row], row))[:k]
    return SearchResult(np.array(order, dtype=np.int64), scores[order])


def assert_exact(index: FingerprintIndex, queries: NDArray[np.floating], k: int) -> None:
    found = index.search(queries, k)
    assert len(found) == len(queries)
    for query, result in zip(queries, found, strict=True):
        expected = brute_force(index, query, k)
        assert result.rows.tolist() == expected.rows.tolist()
        np.testing.assert_allclose(result.scores, expected.scores, atol=1e-15)


def test_the_best_come_first_with_their_cosines() -> None:
    (result,) = make_index([[1, 0], [0.6, 0.8], [0, -1]]).search([0, 5], 2)
    assert result.rows.tolist() == [1, 0]
    assert result.scores.dtype == np.float64
    np.testing.assert_allclose(result.scores, [np.float64(np.float32(0.8)), 0])


def test_ties_are_broken_by_row() -> None:
    (result,) = make_index([[0, 1], [1, 0], [1, 0], [0, 1], [1, 0]]).search([1, 0], 4)
    assert result.rows.tolist() == [1, 2, 4, 0]


@pytest.mark.parametrize(
    ("count", "dimension", "k"), [(1, 1, 1), (50, 3, 10), (3000, 64, 10), (300, 512, 300)]
)
def test_it_equals_float64_brute_force(count: int, dimension: int, k: int) -> None:
    assert_exact(make_index(unit_rows(count, dimension, 0)), unit_rows(7, dimension, 1), k)


def test_it_equals_brute_force_where_scores_differ_by_less_than_float32_tells() -> None:
    """Rows a rounding error away from one another: a float32 product orders them at random."""
    rng = np.random.default_rng(0)
    base = unit_rows(1, 128, 2)
    nearly = base + rng.integers(-1, 2, (500, 128)) * np.spacing(np.abs(base))
    index = make_index(np.concatenate([nearly, nearly[:100], unit_rows(500, 128, 3)])[rng.permutation(1100)])
    queries = np.concatenate([base, base + 0.01 * unit_rows(5, 128, 4)])
    assert_exact(index, queries, 20)
    fast = np.argsort(-(queries.astype(np.float32) @ index.fingerprints.T), axis=1, kind="stable")[:, :20]
    exact = np.array([result.rows for result in index.search(queries, 20)])
    assert (fast != exact).any()


@given(
    arrays(np.int8, st.tuples(st.integers(1, 25), st.integers(1, 5)), elements=st.integers(-2, 2)),
    st.data(),
    st.integers(1, 40),
)
def test_it_equals_brute_force_on_grids_full_of_ties(
    grid: NDArray[np.int8], data: st.DataObject, k: int
) -> None:
    grid = grid[np.abs(grid).sum(axis=1) > 0]
    if len(grid) == 0:
        return
    rows = (grid / np.linalg.norm(grid, axis=1, keepdims=True)).astype(np.float32)
    queries = data.draw(arrays(np.int8, (3, rows.shape[1]), elements=st.integers(-2, 2)))
    assert_exact(make_index(rows), queries.astype(np.float64), k)


def test_a_batch_gives_what_one_query_at_a_time_gives() -> None:
    index, queries = make_index(unit_rows(200, 16, 0)), unit_rows(20, 16, 1)
    for query, result in zip(queries, index.search(queries, 5), strict=True):
        (alone,) = index.search(query, 5)
        assert alone.rows.tolist() == result.rows.tolist()
        np.testing.assert_array_equal(alone.scores, result.scores)


@pytest.mark.parametrize("factor", [1e-300, 1e-30, 7.0, 1e30, 1e300])
def test_a_querys_norm_does_not_matter(factor: float) -> None:
    index, query = make_index(unit_rows(50, 8, 0)), unit_rows(1, 8, 1).astype(np.float64)
    (found,), (plain,) = index.search(query * factor, 5), index.search(query, 5)
    assert found.rows.tolist() == plain.rows.tolist()
    np.testing.assert_allclose(found.scores, plain.scores, atol=1e-12)


def test_a_query_of_zero_scores_zero_everywhere() -> None:
    (result,) = make_index(unit_rows(5, 3, 0)).search(np.zeros(3), 2)
    assert result.rows.tolist() == [0, 1]
    assert result.scores.tolist() == [0, 0]


def test_more_than_there_is_gives_all() -> None:
    (result,) = make_index(unit_rows(3, 4, 0)).search(np.ones(4), 100)
    assert sorted(result.rows.tolist()) == [0, 1, 2]


def test_an_empty_index_finds_nothing() -> None:
    results = make_index(np.empty((0, 4))).search(np.ones((2, 4)), 3)
    assert [len(result.rows) for result in results] == [0, 0]
    assert [len(result.scores) for result in results] == [0, 0]


def test_no_queries_have_no_results() -> None:
    assert make_index(unit_rows(3, 4, 0)).search(np.empty((0, 4)), 3) == []


@pytest.mark.parametrize("k", [0, -1])
def test_less_than_one_result_is_an_error(k: int) -> None:
    with pytest.raises(ValueError, match=f"k must be at least 1, got {k}"):
        make_index(unit_rows(3, 4, 0)).search(np.ones(4), k)


def test_a_query_of_another_dimension_is_an_error() -> None:
    with pytest.raises(ValueError, match="queries have 3 dimensions, the index has 4"):
        make_index(unit_rows(3, 4, 0)).search(np.ones(3), 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_query_that_is_not_finite_is_an_error(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        make_index(unit_rows(3, 4, 0)).search([[1, 0, 0, 0], [0, 0, bad, 0]], 1)


def test_fingerprints_and_skus_must_be_as_many() -> None:
    with pytest.raises(UserError, match="2 fingerprints but 1 SKUs"):
        FingerprintIndex(unit_rows(2, 3, 0), pl.DataFrame({"sku_id": ["a"]}))


@pytest.mark.parametrize("count", [0, 5])
def test_a_saved_index_comes_back_memory_mapped(tmp_path: Path, count: int) -> None:
    rows = unit_rows(5, 4, 0)[:count]
    skus = pl.DataFrame({"sku_id": [str(n) for n in range(count)]}, schema={"sku_id": pl.String})
    index = FingerprintIndex(rows, skus, {"clip_checkpoint": "abc"})
    index.save(tmp_path)
    loaded = FingerprintIndex.load(tmp_path)
    assert isinstance(loaded.fingerprints, np.memmap)
    np.testing.assert_array_equal(loaded.fingerprints, rows)
    assert loaded.skus.equals(index.skus)
    assert loaded.references == {"clip_checkpoint": "abc"}
    assert (len(loaded), loaded.dimension) == (count, 4)
    assert_exact(loaded, unit_rows(3, 4, 1), 3)


def test_the_same_index_is_saved_as_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        make_index(unit_rows(5, 4, 0)).save(tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.parametrize("name", ["fingerprints.npy", "skus.parquet", "references.json"])
@pytest.mark.parametrize("damage", ["missing", "half", "empty"])
def test_a_damaged_bundle_is_told_by_its_folder(tmp_path: Path, name: str, damage: str) -> None:
    make_index(unit_rows(50, 4, 0)).save(tmp_path)
    if damage == "missing":
        (tmp_path / name).unlink()
    else:
        os.truncate(tmp_path / name, 0 if damage == "empty" else (tmp_path / name).stat().st_size // 2)
    with pytest.raises(
        UserError, match=f"index bundle {tmp_path} can't be read: .*; materialize search_index"
    ):
        FingerprintIndex.load(tmp_path)
