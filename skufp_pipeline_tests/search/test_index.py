import copy
import itertools
import math
import os
import pickle
import threading
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import ArrayLike, NDArray

from skufp_pipeline.errors import UserError
from skufp_pipeline.search.export import export_fingerprints
from skufp_pipeline.search.index import FingerprintIndex, SearchResult, mix
from skufp_pipeline.search.scan import unit_queries


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
    paths = [path for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(paths) > 3
    for path in paths:
        twin = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == twin.read_bytes()


@pytest.mark.parametrize("name", ["index.json", "segment_0000/fingerprints.npy", "segment_0000/skus.arrow"])
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


# -- segments, filters, biases ------------------------------------------------------------------------------

ROWS = np.array([[x, y, z] for x, y, z in np.ndindex(3, 3, 3) if (x, y, z) != (1, 1, 1)], dtype=np.float64)
ROWS = ((ROWS - 1) / np.linalg.norm(ROWS - 1, axis=1, keepdims=True)).astype(np.float32)
COLOURS = ("red", "green", "blue")


class Model:
    """What an index should hold, as lists by row."""

    def __init__(self) -> None:
        self.sku_ids: list[str] = []
        self.vectors: list[NDArray[np.float32]] = []
        self.colours: list[str] = []
        self.biases: list[float] = []
        self.present: list[bool] = []

    def add(self, sku_ids: list[str], picks: list[int]) -> None:
        for sku_id, pick in zip(sku_ids, picks, strict=True):
            self.sku_ids.append(sku_id)
            self.vectors.append(ROWS[pick])
            self.colours.append(COLOURS[pick % 3])
            self.biases.append(0.0)
            self.present.append(True)

    def remove(self, sku_ids: list[str]) -> None:
        for row, sku_id in enumerate(self.sku_ids):
            self.present[row] &= sku_id not in sku_ids

    def compact(self) -> None:
        kept = self.rows()
        for name in ("sku_ids", "vectors", "colours", "biases", "present"):
            setattr(self, name, [getattr(self, name)[row] for row in kept])

    def rows(self, colours: tuple[str, ...] = COLOURS) -> list[int]:
        return [row for row, kept in enumerate(self.present) if kept and self.colours[row] in colours]

    def ids(self) -> list[str]:
        return [self.sku_ids[row] for row in self.rows()]

    def best(self, query: NDArray[np.float64], k: int, rows: list[int]) -> list[tuple[int, float]]:
        """Rows and scores by brute force."""
        (unit,) = unit_queries(np.atleast_2d(query))
        scores = [(float((self.vectors[r].astype(float) * unit).sum()) + self.biases[r], r) for r in rows]
        return [(row, score) for score, row in sorted(scores, key=lambda pair: (-pair[0], pair[1]))][:k]


def as_added(sku_ids: list[str], picks: list[int]) -> tuple[NDArray[np.float32], pl.DataFrame]:
    skus = {"sku_id": sku_ids, "colour": [COLOURS[pick % 3] for pick in picks]}
    return ROWS[picks], pl.DataFrame(skus, schema={"sku_id": pl.String, "colour": pl.String})


def assert_as_the_model(index: FingerprintIndex, model: Model) -> None:
    assert (len(index), index.row_count) == (len(model.rows()), len(model.sku_ids))
    assert index.present.numbers().tolist() == model.rows()
    fingerprints, skus = index.contents()
    assert skus["sku_id"].to_list() == model.ids()
    np.testing.assert_array_equal(fingerprints, [model.vectors[row] for row in model.rows()] or ROWS[:0])
    queries = np.array([[1, 2, -3], [0.6, 0.8, 0], [0, 0, 0]])
    chosen = {None: COLOURS}
    chosen |= {(c,): (c,) for c in COLOURS if c in model.colours}
    for within, colours in chosen.items():
        rows = None if within is None else index.where(colour=list(within))
        for query, result in zip(queries, index.search(queries, 5, rows), strict=True):
            expected = model.best(query, 5, model.rows(colours))
            assert result.rows.tolist() == [row for row, _ in expected]
            np.testing.assert_allclose(result.scores, [score for _, score in expected], atol=1e-15)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_sequence_of_changes_is_searched_exactly(data: st.DataObject) -> None:
    model, names = Model(), (f"sku-{number}" for number in itertools.count())
    picks = data.draw(st.lists(st.integers(0, len(ROWS) - 1), max_size=70))
    first = [next(names) for _ in picks]
    model.add(first, picks)
    index = FingerprintIndex(*as_added(first, picks))
    for _ in range(data.draw(st.integers(1, 4))):
        before, answers = index, index.search([1, 2, 3], 9)
        kind = data.draw(st.sampled_from(["add", "remove", "update", "biases", "compacted"]))
        some = data.draw(st.sets(st.sampled_from(model.ids()), max_size=9)) if model.ids() else set()
        ids, picks = sorted(some), data.draw(st.lists(st.integers(0, 25), min_size=9, max_size=9))
        if kind == "add":
            ids = [next(names) for _ in range(7)]
            index = index.add(*as_added(ids, picks[:7]))
            model.add(ids, picks[:7])
        elif kind == "remove":
            index = index.remove(ids)
            model.remove(ids)
        elif kind == "update":
            index = index.update(*as_added(ids, picks[: len(ids)]))
            model.remove(ids)
            model.add(ids, picks[: len(ids)])
        elif kind == "biases":
            model.biases = [float(np.float32(0.1 * (row % 5))) for row in range(len(model.sku_ids))]
            index = index.with_biases(model.biases)
        else:
            index = index.compacted()
            model.compact()
        assert_as_the_model(index, model)
        for old, now in zip(answers, before.search([1, 2, 3], 9), strict=True):
            assert old.rows.tolist() == now.rows.tolist(), "an index changes with none made from it"


@pytest.fixture
def shop() -> FingerprintIndex:
    """Five SKUs in two segments; the table's columns are a word, a number and a list."""
    skus = pl.DataFrame(
        {
            "sku_id": ["a", "b", "c", "d", "e"],
            "category_name": ["shorts", "trousers", "skirt", "shorts", "dress"],
            "colour": ["red", "red", "blue", "blue", None],
            "num_views": [1, 2, 3, 1, 2],
            "colours": [["red", "blue"], ["red"], ["blue"], ["blue"], []],
        }
    )
    return FingerprintIndex(ROWS[:3], skus[:3]).add(ROWS[3:5], skus[3:])


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        ({"category_name": "shorts"}, [0, 3]),
        ({"category_name": ["shorts", "trousers"]}, [0, 1, 3]),
        ({"category_name": ["shorts", "trousers"], "colour": "red"}, [0, 1]),
        ({"num_views": 1, "colour": "blue"}, [3]),
        ({"num_views": "2"}, [1, 4]),
        ({"colours": "blue"}, [0, 2, 3]),
        ({"category_name": "dress", "colour": "red"}, []),
        ({}, [0, 1, 2, 3, 4]),
    ],
)
def test_a_filter_is_any_of_a_columns_values_and_all_columns(
    shop: FingerprintIndex, columns: dict[str, Any], rows: list[int]
) -> None:
    within = shop.where(**columns)
    assert within.numbers().tolist() == rows
    assert within.count == len(rows)
    (result,) = shop.search(ROWS[0], 10, within)
    assert sorted(result.rows.tolist()) == rows
    assert sorted(shop.search([0, 0, 0], 10, ~within)[0].rows.tolist()) == sorted(set(range(5)) - set(rows))


def test_a_filter_leaves_out_what_is_removed(shop: FingerprintIndex) -> None:
    without = shop.remove(["a"])
    assert without.where(category_name="shorts").numbers().tolist() == [3]
    assert shop.where(category_name="shorts").numbers().tolist() == [0, 3]
    (result,) = without.search(ROWS[0], 5, shop.where(category_name="shorts"))  # a filter of before
    assert result.rows.tolist() == [3]


def test_a_filter_that_fits_nothing_names_what_there_is(shop: FingerprintIndex) -> None:
    with pytest.raises(
        UserError, match="no column 'color' to filter by; it has sku_id, category_name, colour"
    ):
        shop.where(color="red")
    with pytest.raises(UserError, match="no SKU has category_name 'short'; nearest: shorts, skirt"):
        shop.where(category_name="short")
    with pytest.raises(UserError, match="no SKU has num_views 'many'; nearest: 1, 2, 3"):
        shop.where(num_views="many")
    with pytest.raises(UserError, match="no value to filter colour by"):
        shop.where(colour=[])


@pytest.mark.parametrize(
    ("column", "sign", "bound", "rows"),
    [
        ("num_views", "<=", "2", [0, 1, 3, 4]),
        ("num_views", "<", 2, [0, 3]),
        ("num_views", ">", "1.5", [1, 2, 4]),
        ("price", ">=", "9.9", [0, 2]),
        ("price", "<", "9.9", [1]),
        ("launched", ">=", "2026-03-01", [1]),
        ("seen", "<", "2026-03-01T12:00", [0]),
    ],
)
def test_a_range_holds_the_rows_on_its_side_and_no_empty_ones(
    shop: FingerprintIndex, column: str, sign: str, bound: Any, rows: list[int]
) -> None:
    priced = shop.skus.with_columns(
        price=pl.Series([9.9, 5.0, 20.0, None, None]),
        launched=pl.Series([date(2026, 1, 31), date(2026, 3, 1), None, None, None]),
        seen=pl.Series([datetime(2026, 3, 1, 9), datetime(2026, 3, 1, 12), None, None, None]),
    )
    index = FingerprintIndex(ROWS[:5], priced)
    within = index.compare(column, sign, bound)
    assert within.numbers().tolist() == rows
    assert sorted(index.search([0, 0, 0], 10, within)[0].rows.tolist()) == rows


def test_a_range_that_means_nothing_is_refused(shop: FingerprintIndex) -> None:
    with pytest.raises(UserError, match="the column 'colour' holds no numbers or dates"):
        shop.compare("colour", "<", "red")
    with pytest.raises(UserError, match="num_views < many: the column 'num_views' holds numbers"):
        shop.compare("num_views", "<", "many")
    with pytest.raises(UserError, match="no SKU has num_views > 3; there are 1 to 3"):
        shop.compare("num_views", ">", "3")
    with pytest.raises(UserError, match="no column 'price' to filter by"):
        shop.compare("price", ">", "3")


def test_numbers_are_equal_however_they_are_written(shop: FingerprintIndex) -> None:
    assert shop.where(num_views="1.0").numbers().tolist() == [0, 3]
    sold = FingerprintIndex(ROWS[:2], shop.skus[:2].with_columns(sold=pl.Series([True, False])))
    assert sold.where(sold="true").numbers().tolist() == [0]


def test_known_and_unknown_ids_of_a_list_are_told_apart(shop: FingerprintIndex) -> None:
    rows, unknown = shop.known_skus(["e", "x", "b", "x"])
    assert (rows.numbers().tolist(), unknown.to_list()) == ([1, 4], ["x"])


def test_a_filter_of_another_index_is_refused(shop: FingerprintIndex) -> None:
    with pytest.raises(UserError, match=r"segments of \[3, 2\] rows, not \[5\]"):
        shop.compacted().search(ROWS[0], 1, shop.where(colour="red"))


def test_a_subset_of_skus_is_searched_alone(shop: FingerprintIndex) -> None:
    assert sorted(shop.search(ROWS[0], 9, shop.of_skus(["e", "b", "e"]))[0].rows.tolist()) == [1, 4]
    assert shop.of_skus("c").numbers().tolist() == [2]
    assert shop.search(ROWS[0], 9, shop.of_skus([]))[0].rows.tolist() == []
    with pytest.raises(UserError, match="SKU 'x', 'y' is not in the index"):
        shop.of_skus(["a", "x", "y"])
    with pytest.raises(UserError, match="SKU 'a' is not in the index"):
        shop.remove(["a"]).of_skus(["a", "b"])
    with pytest.raises(UserError, match="SKU ids of this index are String"):
        shop.of_skus([3])


def test_a_sku_is_added_once_and_removed_once(shop: FingerprintIndex) -> None:
    new = pl.DataFrame({"sku_id": ["f"]})
    with pytest.raises(UserError, match="SKU 'a' is in the index already; use update, or remove it first"):
        shop.add(ROWS[:2], pl.DataFrame({"sku_id": ["f", "a"]}))
    with pytest.raises(UserError, match="SKU 'f' occurs more than once"):
        shop.add(ROWS[:2], pl.DataFrame({"sku_id": ["f", "f"]}))
    for change in (lambda: shop.remove(["f"]), lambda: shop.update(ROWS[:1], new)):
        with pytest.raises(UserError, match="SKU 'f' is not in the index"):
            change()
    back = shop.remove(["a"]).add(ROWS[:1], pl.DataFrame({"sku_id": ["a"]}))
    assert back.of_skus(["a"]).numbers().tolist() == [5]
    assert back.skus.row(5) == ("a", None, None, None, None)


@pytest.mark.parametrize(
    ("fingerprints", "skus", "told"),
    [
        (np.eye(4)[:1], {"sku_id": ["f"]}, "fingerprints have 4 dimensions, the index has 3"),
        ([[1.0, 1.0, 0.0]], {"sku_id": ["f"]}, "1 fingerprints are not unit rows"),
        ([[np.nan, 1.0, 0.0]], {"sku_id": ["f"]}, "not unit rows"),
        (np.eye(3)[:2], {"sku_id": ["f"]}, "2 fingerprints but 1 SKUs"),
        (np.eye(3)[:1], {"name": ["f"]}, "no column sku_id, only name"),
        (np.eye(3)[:1], {"sku_id": ["f"], "price": [3]}, "no column 'price'; it has sku_id"),
        (np.eye(3)[:1], {"sku_id": ["f"], "colour": [3]}, "column colour of the SKUs is Int64, in the index"),
        (np.eye(3)[:1], {"sku_id": [3]}, "column sku_id of the SKUs is Int64, in the index it is String"),
    ],
)
def test_what_can_not_be_added_is_told(
    shop: FingerprintIndex, fingerprints: ArrayLike, skus: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        shop.add(fingerprints, pl.DataFrame(skus))


def test_what_was_added_does_not_change_with_the_callers_array(shop: FingerprintIndex) -> None:
    mine = ROWS[7:8].copy()
    index = shop.add(mine, pl.DataFrame({"sku_id": ["f"]}))
    mine[:] = 0
    np.testing.assert_array_equal(index.fingerprints[5], ROWS[7])


def test_a_bias_moves_a_sku_and_is_kept_when_others_come_and_go(shop: FingerprintIndex) -> None:
    assert shop.search(ROWS[0], 1)[0].rows.tolist() == [0]
    biased = shop.with_biases([-2, 0, 0, 0, 0.1])
    assert shop.search(ROWS[0], 1)[0].rows.tolist() == [0]
    result = biased.search(ROWS[0], 5)[0]
    assert result.rows.tolist()[-1] == 0
    cosines = (ROWS[:5].astype(float) @ (ROWS[0] / np.linalg.norm(ROWS[0].astype(float))))[result.rows]
    np.testing.assert_allclose(result.scores, cosines + biased.biases[result.rows], atol=1e-7)
    changed = biased.remove(["b"]).add(ROWS[9:10], pl.DataFrame({"sku_id": ["f"]})).compacted()
    np.testing.assert_array_equal(changed.biases, np.float32([-2, 0, 0, 0.1, 0]))


@pytest.mark.parametrize(
    "values", [[0, 0, 0, 0], [[0, 0, 0, 0, 0]], [0, 0, math.nan, 0, 0], [0, 0, 0, 0, 1e39]]
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_biases_must_be_finite_and_one_a_row(shop: FingerprintIndex, values: list[float]) -> None:
    with pytest.raises(UserError, match=r"biases must be \(5\,\), one a row|biases must be finite"):
        shop.with_biases(values)


def test_a_sku_may_be_added_with_its_bias() -> None:
    index = make_index(np.eye(2)).add(np.array([[0.0, 1.0]]), pl.DataFrame({"sku_id": ["new"]}), [0.25])
    assert index.biases.tolist() == [0.0, 0.0, 0.25]
    (found,) = index.search(np.array([0.0, 1.0]), 2)
    assert (found.rows.tolist(), found.scores.tolist()) == ([2, 1], [1.25, 1.0])


def test_more_like_this_leaves_itself_out() -> None:
    index = make_index(np.concatenate([ROWS, ROWS[:4]]))  # twins tie with it
    for sku_id in ("0", "3", "27", "9"):
        row = int(sku_id)
        found = index.search_like(sku_id, 6)
        expected = [r for r in index.search(index.fingerprints[row], 7)[0].rows.tolist() if r != row][:6]
        assert found.rows.tolist() == expected
        assert len(found.scores) == 6
    assert index.search_like("0", 3, index.of_skus(["0", "5"])).rows.tolist() == [5]
    assert index.search_like("0", 3, index.of_skus(["5", "26"])).rows.tolist() == [26, 5]
    hubs = index.with_biases([-3] + 29 * [0])  # its own bias keeps it from being its nearest
    assert hubs.search_like("0", 29).rows.tolist() == [r for r in hubs.search(ROWS[0], 30)[0].rows if r]
    with pytest.raises(UserError, match="SKU 'x' is not in the index"):
        index.search_like("x", 3)
    with pytest.raises(ValueError, match="k must be at least 1"):
        index.search_like("0", 0)


@pytest.mark.parametrize("weight", [0, 0.3, 1])
def test_a_mix_weighs_directions_whatever_the_norms(weight: float) -> None:
    image, text = np.array([3.0, 0]), np.array([[0, 0.01]])
    mixed = mix(image, text, weight)
    expected = np.array([1 - weight, weight]) / math.hypot(1 - weight, weight)
    np.testing.assert_allclose(mixed, [expected], atol=1e-15)


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan])
def test_a_weight_outside_0_to_1_is_refused(weight: float) -> None:
    with pytest.raises(UserError, match="the text's weight must be 0 to 1, got"):
        mix([1.0, 0], [0, 1.0], weight)


def test_a_mix_of_two_dimensions_is_an_error() -> None:
    with pytest.raises(ValueError, match="queries have 3 dimensions, the index has 2"):
        mix([1.0, 0], [0, 1.0, 0], 0.5)


def test_searches_go_on_undisturbed_while_others_add_and_remove() -> None:
    rows = unit_rows(900, 16, 0)
    ids = [str(number) for number in range(900)]
    index = FingerprintIndex(rows[:600], pl.DataFrame({"sku_id": ids[:600]}))
    queries = unit_rows(8, 16, 1)
    expected = [result.rows.tolist() for result in index.search(queries, 10)]
    wrong: list[int] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            found = [result.rows.tolist() for result in index.search(queries, 10)]
            wrong.extend(n for n in range(8) if found[n] != expected[n])

    readers = [threading.Thread(target=ask) for _ in range(3)]
    for reader in readers:
        reader.start()
    changed = index
    for begin in range(600, 900, 20):
        part = slice(begin, begin + 20)
        changed = changed.add(rows[part], pl.DataFrame({"sku_id": ids[part]})).remove([ids[begin - 600]])
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert (len(index), len(changed)) == (600, 885)
    assert_exact(index, queries, 10)


def test_an_index_of_several_segments_is_exported_without_what_is_removed(
    shop: FingerprintIndex, tmp_path: Path
) -> None:
    export_fingerprints(shop.remove(["b"]), "parquet", tmp_path / "out")
    table = pl.read_parquet(tmp_path / "out" / "fingerprints.parquet")
    assert table["sku_id"].to_list() == ["a", "c", "d", "e"]
    np.testing.assert_array_equal(table["fingerprint"].to_numpy(), ROWS[[0, 2, 3, 4]])


@pytest.mark.parametrize("count", [0, 1, 200])
def test_an_index_is_warmed_up_whatever_it_holds(count: int) -> None:
    rows = np.eye(200, 300, dtype=np.float32)[:count]
    index = FingerprintIndex(
        rows.reshape(count, 300), pl.DataFrame({"sku_id": [str(r) for r in range(count)]})
    )
    index.warm_up()
    if count > 1:
        without_first = index.remove(["0"])
        without_first.warm_up()
        assert len(without_first) == count - 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda index: pickle.loads(pickle.dumps(index))])
def test_a_copied_or_pickled_index_answers_the_same(
    tmp_path: Path, copied: Callable[[FingerprintIndex], FingerprintIndex]
) -> None:
    whole = make_index(unit_rows(300, 16, 0))
    more = pl.DataFrame({"sku_id": ["late"]}, schema=whole.skus.select("sku_id").schema)
    changed = whole.remove(whole.skus["sku_id"][:3]).add(unit_rows(1, 16, 1), more)
    changed = changed.with_biases(np.linspace(-0.1, 0.1, changed.row_count))
    whole.save(tmp_path)
    queries = unit_rows(20, 16, 2)
    for index in (whole, changed, FingerprintIndex.load(tmp_path)):
        again = copied(index)
        for found, expected in zip(again.search(queries, 5), index.search(queries, 5), strict=True):
            np.testing.assert_array_equal(found.rows, expected.rows)
            np.testing.assert_array_equal(found.scores, expected.scores)
        assert len(again) == len(index)
        assert again.skus.equals(index.skus)
