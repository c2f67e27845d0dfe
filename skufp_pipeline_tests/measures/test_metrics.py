import json
import os
import subprocess
import sys

import numpy as np
import pytest

from skufp_pipeline.measures.metrics import (
    METRICS,
    UNRANKED,
    best_items,
    ndcg_at_k,
    per_query_metrics,
    ranks,
    ranks_of,
    recall_at_k,
    reciprocal_rank,
    shared_label,
)


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


def test_metrics_follow_the_formulas_of_appendix_a():
    found = np.array([1, 3, 10, 11])
    assert recall_at_k(found, 10).tolist() == [1, 1, 1, 0]
    assert reciprocal_rank(found).tolist() == [1, 1 / 3, 1 / 10, 1 / 11]
    assert ndcg_at_k(found, 10) == pytest.approx([1, 0.5, 1 / np.log2(11), 0])


def test_per_query_metrics_are_float64_in_the_order_of_the_table():
    values = per_query_metrics(np.array([1, 6]))
    assert tuple(values) == METRICS
    assert all(v.dtype == np.float64 and v.shape == (2,) for v in values.values())
    assert values["recall@5"].tolist() == [1, 0]
    assert values["recall@10"].tolist() == [1, 1]


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


def test_the_shared_label_is_the_share_of_found_items_that_have_the_querys():
    found = np.array([[0, 1, 2, 3], [3, 2, 1, 0]])
    shares = shared_label(found, np.array(["red", "blue"]), np.array(["red", "blue", "red", "red"]))
    assert shares.tolist() == [0.75, 0.25]


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


JUDGE = """
import json, sys, ranx
qrels, run, metrics = json.load(sys.stdin)
found = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), metrics, return_mean=False)
print(json.dumps({name: list(map(float, values)) for name, values in found.items()}))
"""


def judged_by_ranx(qrels, run, metrics):
    """In a process of its own: ranx compiles for half a minute; interpreted it gives the same figures."""
    done = subprocess.run(
        [sys.executable, "-c", JUDGE],
        input=json.dumps([qrels, run, metrics]),
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_metrics_equal_those_of_ranx_on_scores_with_ties():
    rng = np.random.default_rng(2)
    scores, truth = rng.integers(0, 12, size=(80, 40)), rng.integers(0, 40, size=80)
    qrels = {f"q{i:02d}": {f"s{t}": 1} for i, t in enumerate(truth)}
    run = {}
    for i, t in enumerate(truth):
        # ranx leaves ties open: write down the order it is to judge, the right item last among equals.
        order = sorted(range(40), key=lambda s: (-scores[i, s], s == t))
        run[f"q{i:02d}"] = {f"s{s}": float(40 - position) for position, s in enumerate(order)}
    expected = judged_by_ranx(qrels, run, list(METRICS))
    found = per_query_metrics(ranks(scores, truth))
    for name in METRICS:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-12, err_msg=name)
    assert 0 < found["recall@5"].mean() < 1
