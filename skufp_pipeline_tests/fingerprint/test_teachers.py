import numpy as np
import pytest
from numpy.typing import ArrayLike

from skufp_pipeline.fingerprint.teachers import Teachers, best_shot
from skufp_pipeline.fingerprint.views import ViewSet, medoid

from .examples import random_views, unit_rows, view_set

EAST, NORTH, WEST, SOUTH = (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)


def choose(views: ViewSet, *queries: tuple[int, ArrayLike]) -> Teachers:
    """Teachers chosen by queries (row of the SKU, embedding)."""
    dimension = views.views.shape[2]
    vectors = np.array([vector for _, vector in queries], dtype=np.float32).reshape(-1, dimension)
    return best_shot(views, vectors, np.array([row for row, _ in queries], dtype=np.int64))


def test_the_view_that_ranks_first_is_chosen_though_it_is_not_central() -> None:
    """East is the medoid, but the query looks north, where b stands too."""
    views = view_set([EAST, EAST, NORTH], [(0.6, 0.8)])
    np.testing.assert_allclose(medoid(views)[0], EAST)
    teachers = choose(views, (0, NORTH))
    assert teachers.view.tolist() == [2, 0]
    np.testing.assert_array_equal(teachers.vectors[0], NORTH)
    assert teachers.reciprocal_rank[0] == 1.0
    assert teachers.num_queries.tolist() == [1, 0]


def test_reciprocal_ranks_are_averaged_over_a_skus_queries() -> None:
    """Alone against b at (0.6, 0.8): east wins the first query and comes second in the other."""
    views = view_set([EAST], [(0.6, 0.8)])
    teachers = choose(views, (0, EAST), (0, NORTH))
    assert teachers.reciprocal_rank[0] == pytest.approx((1 + 1 / 2) / 2)


def test_a_rival_that_scores_the_same_counts_against_the_view() -> None:
    assert choose(view_set([EAST], [EAST]), (0, EAST)).reciprocal_rank[0] == 0.5


def test_rivals_stand_as_their_mean() -> None:
    """b has a view right at the query, but its mean is farther than a's."""
    views = view_set([(0.9, np.sqrt(0.19))], [EAST, NORTH])
    assert choose(views, (0, EAST)).reciprocal_rank[0] == 1.0


def test_of_equal_ranks_the_higher_mean_cosine_is_chosen() -> None:
    views = view_set([(0.6, 0.8), (0.8, 0.6)], [SOUTH])
    teachers = choose(views, (0, EAST))
    assert teachers.view[0] == 1
    assert teachers.reciprocal_rank[0] == 1.0


def test_of_equal_ranks_and_cosines_the_first_view_is_chosen() -> None:
    views = view_set([(0.6, 0.8), (0.6, 0.8), (0.6, -0.8)], [WEST])
    assert choose(views, (0, EAST)).view[0] == 0


def test_a_sku_without_queries_gets_its_medoid() -> None:
    views = view_set([EAST, NORTH], [WEST, (0.6, 0.8), (0.0, 1.0)])
    teachers = choose(views, (0, NORTH))
    assert teachers.num_queries.tolist() == [1, 0]
    np.testing.assert_array_equal(teachers.vectors[1], medoid(views)[1])
    assert np.isnan(teachers.reciprocal_rank[1])


def test_without_any_query_all_teachers_are_medoids() -> None:
    views = random_views([1, 3, 5])
    teachers = choose(views)
    np.testing.assert_array_equal(teachers.vectors, medoid(views))
    assert np.isnan(teachers.reciprocal_rank).all()


def test_queries_of_other_skus_do_not_matter() -> None:
    views = random_views([4] * 6)
    queries = unit_rows((30, 8), 7)
    truth = np.arange(30) % 6
    every = best_shot(views, queries, truth)
    for sku in range(6):
        own = truth == sku
        alone = best_shot(views, queries[own], truth[own])
        assert alone.view[sku] == every.view[sku]
        assert alone.reciprocal_rank[sku] == every.reciprocal_rank[sku]


def test_the_order_of_queries_does_not_matter() -> None:
    views, queries, truth = random_views([4] * 6), unit_rows((30, 8), 7), np.arange(30) % 6
    order = np.random.default_rng(0).permutation(30)
    one, other = best_shot(views, queries, truth), best_shot(views, queries[order], truth[order])
    assert one.view.tolist() == other.view.tolist()
    np.testing.assert_allclose(one.reciprocal_rank, other.reciprocal_rank)


def test_it_equals_the_choice_written_out() -> None:
    """Every view of every SKU tried one at a time, in float64."""
    views, queries, truth = random_views([3, 1, 5, 2, 4], seed=3), unit_rows((40, 8), 8), np.arange(40) % 5
    teachers = best_shot(views, queries, truth)
    wide = views.views.astype(np.float64)
    means = wide.sum(axis=1) / np.linalg.norm(wide.sum(axis=1), axis=1, keepdims=True)
    for sku in range(5):
        outcomes = []
        for view in range(int(views.counts[sku])):
            ranks, cosines = [], []
            for query in queries[truth == sku].astype(np.float64):
                own = query @ wide[sku, view]
                ranks.append(1 + sum(query @ means[rival] >= own for rival in range(5) if rival != sku))
                cosines.append(own)
            outcomes.append((np.mean([1 / rank for rank in ranks]), np.mean(cosines), -view))
        best = max(outcomes)
        assert teachers.view[sku] == -best[2]
        assert teachers.reciprocal_rank[sku] == pytest.approx(best[0])
        np.testing.assert_array_equal(teachers.vectors[sku], views.views[sku, -best[2]])
