from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from skufp_pipeline.fingerprint.views import (
    ViewSet,
    gather_views,
    mean_sku,
    medoid,
    trimmed_mean,
    unit,
    view_centrality,
)

from .examples import image_table, random_views, view_set

EAST, NORTH, WEST = (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)
COUNTS = st.lists(st.integers(1, 6), min_size=1, max_size=6)
POOLINGS = (mean_sku, medoid, trimmed_mean)


def permuted(views: ViewSet, seed: int) -> ViewSet:
    """The same views with each SKU's places shuffled, absent ones among them."""
    order = np.random.default_rng(seed).permuted(
        np.tile(np.arange(views.mask.shape[1]), (len(views.sku_ids), 1)), axis=1
    )
    return ViewSet(
        views.sku_ids,
        views.splits,
        np.take_along_axis(views.views, order[:, :, None], axis=1),
        np.take_along_axis(views.mask, order, axis=1),
        np.take_along_axis(views.generated, order, axis=1),
    )


def test_the_mean_is_brought_to_unit_norm() -> None:
    views = view_set([EAST, NORTH], [EAST, EAST, NORTH])
    expected = [[0.5**0.5, 0.5**0.5], [2 / 5**0.5, 1 / 5**0.5]]
    np.testing.assert_allclose(mean_sku(views), expected, rtol=1e-6)


def test_the_medoid_is_the_view_nearest_to_the_mean() -> None:
    between = (0.8, 0.6)
    np.testing.assert_allclose(medoid(view_set([EAST, NORTH, between])), [between])


def test_of_equally_central_views_the_first_is_the_medoid() -> None:
    np.testing.assert_array_equal(medoid(view_set([NORTH, EAST], [EAST, NORTH])), [NORTH, EAST])


def test_the_trimmed_mean_leaves_the_farthest_quarter_out() -> None:
    views = view_set([EAST, WEST, EAST, (0.6, 0.8)])
    np.testing.assert_allclose(trimmed_mean(views), unit(np.array([[2.6, 0.8]])), rtol=1e-6)


def test_of_equally_far_views_the_last_is_left_out() -> None:
    views = view_set([NORTH, EAST, EAST, NORTH])
    np.testing.assert_allclose(trimmed_mean(views), unit(np.array([[2.0, 1.0]])), rtol=1e-6)


@pytest.mark.parametrize(("count", "kept"), [(1, 1), (3, 3), (4, 3), (7, 6), (8, 6)])
def test_the_share_that_is_left_out_is_rounded_down(count: int, kept: int) -> None:
    """Views on a circle, ever farther from the first: the last ones go."""
    angles = 0.1 * np.arange(count) ** 2
    views = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    centre = view_centrality(view_set(views))[0]
    expected = views[np.argsort(-centre, kind="stable")[:kept]].sum(axis=0, keepdims=True)
    np.testing.assert_allclose(trimmed_mean(view_set(views)), unit(expected), rtol=1e-5)


def test_without_trimming_the_trimmed_mean_is_the_mean() -> None:
    views = random_views([1, 4, 6])
    np.testing.assert_allclose(trimmed_mean(views, trim=0.0), mean_sku(views), atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_single_view_stands_for_itself(pooling: Callable[[ViewSet], NDArray[np.float32]]) -> None:
    pooled = pooling(view_set([(0.6, 0.8)], [EAST, NORTH, EAST]))
    np.testing.assert_allclose(pooled[0], [0.6, 0.8], rtol=1e-6)


def test_opposite_views_have_a_mean_of_zero_and_a_first_medoid() -> None:
    views = view_set([EAST, WEST])
    np.testing.assert_array_equal(mean_sku(views), [[0, 0]])
    np.testing.assert_array_equal(medoid(views), [EAST])
    assert np.isfinite(trimmed_mean(views)).all()


def test_absent_views_are_the_least_central() -> None:
    centrality = view_centrality(view_set([EAST], [NORTH, NORTH]))
    np.testing.assert_allclose(centrality, [[1, -np.inf], [1, 1]])


@given(st.lists(st.sampled_from([1, 3, 4, 5, 6]), min_size=1, max_size=6), st.integers(0, 99))
def test_the_order_of_views_does_not_matter(counts: list[int], seed: int) -> None:
    """But for two views, which are equally near to their mean."""
    views = random_views(counts, seed=seed)
    for pooling in POOLINGS:
        np.testing.assert_allclose(pooling(permuted(views, seed)), pooling(views), atol=1e-5)


@given(COUNTS, st.integers(0, 99))
def test_every_pooling_gives_unit_rows_and_sees_one_sku_at_a_time(counts: list[int], seed: int) -> None:
    views = random_views(counts, seed=seed)
    for pooling in POOLINGS:
        pooled = pooling(views)
        assert pooled.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(pooled, axis=1), 1, atol=1e-6)
        for row in range(len(counts)):
            np.testing.assert_allclose(pooling(views.select(np.array([row]))), pooled[[row]], atol=1e-6)


@given(COUNTS, st.integers(0, 99))
def test_the_medoid_is_one_of_the_skus_own_views(counts: list[int], seed: int) -> None:
    views = random_views(counts, seed=seed)
    for row, chosen in enumerate(medoid(views)):
        assert (views.views[row, views.mask[row]] == chosen).all(axis=1).any()


def test_rows_of_zero_stay_zero() -> None:
    np.testing.assert_allclose(unit(np.array([[0.0, 0.0], [3.0, 4.0]])), [[0, 0], [0.6, 0.8]], rtol=1e-6)


TABLE = image_table(
    [
        ("q", "b", "train", "train", EAST),
        ("v1", "b", "train", "gallery", NORTH),
        ("v2", "a", "validation", "gallery", EAST),
        ("v3", "b", "train", "gallery", WEST),
        ("d", "a", "validation", "development", WEST),
        ("e", "c", "train", "evaluation", WEST),
    ]
)


def test_gallery_rows_are_gathered_by_sku_in_the_tables_order() -> None:
    views = gather_views(TABLE, 5)
    assert (views.sku_ids, views.splits) == (["a", "b"], ["validation", "train"])
    assert views.counts.tolist() == [1, 2]
    assert views.mask.tolist() == [[True, False], [True, True]]
    assert views.views.tolist() == [[list(EAST), [0, 0]], [list(NORTH), list(WEST)]]


def test_views_past_the_limit_are_left_aside() -> None:
    views = gather_views(TABLE, 1)
    assert views.counts.tolist() == [1, 1]
    assert views.views.tolist() == [[list(EAST)], [list(NORTH)]]


def test_a_table_without_views_gathers_no_sku() -> None:
    views = gather_views(TABLE.filter(pl.col("role") != "gallery"), 5)
    assert views.sku_ids == []
    assert views.views.shape == (0, 1, 2)
    assert mean_sku(views).shape == (0, 2)


def test_chosen_skus_come_in_the_order_asked_for() -> None:
    views = gather_views(TABLE, 5).select(np.array([1, 0]))
    assert (views.sku_ids, views.splits) == (["b", "a"], ["train", "validation"])
    assert views.counts.tolist() == [2, 1]


def test_generated_views_follow_the_catalogs_and_leave_the_mean_alone() -> None:
    rows = [("1", "a", EAST), ("2", "b", NORTH), ("3", "b", WEST)]
    catalog = image_table([(item, sku, "train", "gallery", vector) for item, sku, vector in rows])
    more = [("g1", "a", NORTH), ("g2", "nowhere", EAST), ("g3", "a", WEST), ("g4", "a", WEST)]
    generated = image_table([(item, sku, "train", "gallery", vector) for item, sku, vector in more])
    views = gather_views(catalog, 2, generated)
    assert views.sku_ids == ["a", "b"]
    assert views.mask.tolist() == [[True, True, True], [True, True, False]]
    assert views.generated.tolist() == [[False, True, True], [False, False, False]]
    assert views.views[0].tolist() == [list(EAST), list(NORTH), list(WEST)]
    assert views.counts.tolist() == [1, 2]
    np.testing.assert_array_equal(mean_sku(views), mean_sku(gather_views(catalog, 2)))
