import json
import os
import subprocess
import sys

import numpy as np
import pytest

from skufp_pipeline.measures.metrics import (
    METRICS,
    calibration_error,
    ndcg_at_k,
    per_query_metrics,
    recall_at_k,
    reciprocal_rank,
    shared_label,
)
from skufp_pipeline.measures.ranks import ranks


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


def test_the_shared_label_is_the_share_of_found_items_that_have_the_querys():
    found = np.array([[0, 1, 2, 3], [3, 2, 1, 0]])
    shares = shared_label(found, np.array(["red", "blue"]), np.array(["red", "blue", "red", "red"]))
    assert shares.tolist() == [0.75, 0.25]


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


def test_the_calibration_error_is_the_gap_of_confidence_and_accuracy():
    probabilities = np.array([[0.8, 0.2]] * 10)
    assert calibration_error(probabilities, np.array([0] * 8 + [1] * 2), bins=1) == pytest.approx(0)
    assert calibration_error(probabilities, np.zeros(10, int)) == pytest.approx(0.2)
