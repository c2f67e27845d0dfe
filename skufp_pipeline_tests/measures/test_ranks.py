import numpy as np
import pytest

from skufp_pipeline.measures.metrics import METRICS, per_query_metrics
from skufp_pipeline.measures.ranks import UNRANKED, best_items, ranks, ranks_of, right_items


def test_the_rank_counts_the_items_that_score_higher():
    scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.9, 0.5, 0.1]])
    assert ranks(scores, np.array([0, 1, 2])).tolist() == [1, 2, 3]


def test_ties_count_against_the_right_item():
    scores = np.array([[0.5, 0.5, 0.1], [0.5, 0.5, 0.5]])
    assert ranks(scores, np.array([0, 1])).tolist() == [2, 3]


def test_an_item_absent_from_the_gallery_is_unranked_and_scores_zero_in_every_metric():
    found = ranks(np.array([[0.5, 0.4]]), np.array([-1]))
    assert found.tolist() == [UNRANKED]
    assert {name: float(v[0]) for name, v in per_query_metrics(found).items()} == dict.fromkeys(METRICS, 0.0)


def test_a_nan_score_is_an_error():
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        ranks(np.array([[0.5, np.nan]]), np.array([0]))


@pytest.mark.parametrize("truth", [[2], [-2], [0, 0]])
def test_a_right_item_outside_the_gallery_is_an_error(truth):
    with pytest.raises(ValueError, match="right items"):
        ranks(np.array([[0.5, 0.4]]), np.array(truth))


def test_a_constant_embedding_scores_about_zero():
    found = ranks_of(np.ones((50, 8)), np.ones((200, 8)), np.arange(50))
    assert (found == 200).all()
    assert per_query_metrics(found)["recall@20"].mean() == 0
    assert per_query_metrics(found)["mrr"].mean() == pytest.approx(1 / 200)


def test_a_query_of_zeros_ties_with_everything():
    assert ranks_of(np.zeros((1, 2)), np.ones((3, 2)), np.array([1])).tolist() == [3]


@pytest.mark.parametrize("block", [1, 7, 256])
def test_ranks_of_embeddings_equal_ranks_of_exact_integer_scores(block):
    rng = np.random.default_rng(0)
    queries, gallery = rng.integers(-3, 4, size=(40, 5)), rng.integers(-3, 4, size=(61, 5))
    truth = rng.integers(-1, 61, size=40)
    found = ranks_of(queries.astype(np.float32), gallery.astype(np.float32), truth, block)
    assert found.tolist() == ranks(queries @ gallery.T, truth).tolist()


@pytest.mark.parametrize("copies", [2, 3, 1001])
def test_equal_rows_tie_wherever_they_stand(copies):
    rng = np.random.default_rng(1)
    unique = rng.normal(size=(5, 512)).astype(np.float32)
    place = rng.permutation(np.tile(np.arange(5), copies))
    queries = rng.normal(size=(33, 512)).astype(np.float32)
    truth = rng.integers(0, len(place), size=33)
    better = (queries @ unique.T >= (queries @ unique.T)[np.arange(33), place[truth]][:, None]).sum(axis=1)
    assert ranks_of(queries, unique[place], truth).tolist() == (better * copies).tolist()


def test_the_smallest_float32_step_is_not_a_tie():
    gallery = np.array([[1.0], [np.nextafter(np.float32(1), np.float32(2))]], dtype=np.float32)
    assert ranks_of(np.ones((2, 1)), gallery, np.array([0, 1])).tolist() == [2, 1]


def test_an_item_with_several_rows_scores_their_maximum():
    gallery = np.array([[0.1], [0.9], [0.5], [0.2], [0.6]])
    owner = np.array([0, 0, 1, 2, 2])
    queries = np.ones((3, 1))
    assert ranks_of(queries, gallery, np.array([0, 1, 2]), owner=owner).tolist() == [1, 3, 2]


@pytest.mark.parametrize("block", [1, 256])
def test_the_best_items_are_those_of_a_full_sort(block):
    rng = np.random.default_rng(3)
    queries, gallery = rng.normal(size=(9, 4)), rng.normal(size=(30, 4))
    found = best_items(queries, gallery, 10, block)
    expected = np.argsort(-(queries @ gallery.T), axis=1)[:, :10]
    assert np.sort(found, axis=1).tolist() == np.sort(expected, axis=1).tolist()


def test_the_best_items_of_an_image_level_gallery_are_distinct_items():
    gallery = np.array([[0.9], [0.8], [0.7], [0.1]])
    found = best_items(np.ones((1, 1)), gallery, 2, owner=np.array([0, 0, 1, 2]))
    assert sorted(found[0].tolist()) == [0, 1]


def test_of_fewer_items_than_asked_for_all_are_found():
    assert sorted(best_items(np.ones((1, 1)), np.ones((3, 1)), 10)[0].tolist()) == [0, 1, 2]


@pytest.mark.parametrize("owner", [[0, 2], [1, 1], [0, 1, 0], [0]])
def test_owners_that_are_not_sorted_runs_are_an_error(owner):
    with pytest.raises(ValueError, match="owner must count up"):
        ranks_of(
            np.ones((1, 1)),
            np.ones((len(owner) + (len(owner) == 1), 1)),
            np.array([0]),
            owner=np.array(owner),
        )


def test_embeddings_that_are_not_finite_are_an_error():
    with pytest.raises(ValueError, match="gallery: 1 values are not finite"):
        ranks_of(np.ones((1, 2)), np.array([[np.inf, 0.0]]), np.array([0]))


def test_embeddings_of_different_width_are_an_error():
    with pytest.raises(ValueError, match="3 dimensions, the gallery 2"):
        ranks_of(np.ones((1, 3)), np.ones((1, 2)), np.array([0]))


def test_an_empty_gallery_ranks_nothing():
    assert ranks_of(np.ones((2, 3)), np.ones((0, 3)), np.array([-1, -1])).tolist() == [UNRANKED] * 2


def test_right_items_are_places_in_the_gallery_and_minus_one_where_it_holds_none():
    assert right_items(["b", "x", "a", "b"], ["a", "b"]).tolist() == [1, -1, 0, 1]
    assert right_items([], ["a"]).dtype == np.int64


def test_items_within_the_tolerance_tie_with_the_right_one():
    scores = np.array([[0.5, 0.4, 0.3]] * 2)
    assert ranks(scores, np.array([0, 0]), np.array([0.0, 0.15])).tolist() == [1, 2]
