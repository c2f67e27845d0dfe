"""Retrieval metrics from the rank of the right SKU (paper, Appendix A, eq. 4-8), and calibration error."""

import numpy as np

from skufp_pipeline.measures.ranks import UNRANKED

METRICS = ("recall@1", "recall@5", "recall@10", "recall@20", "mrr", "ndcg@10")


def recall_at_k(ranks: np.ndarray, k: int) -> np.ndarray:
    """(Q,) 1 where the right SKU is in the top `k`, else 0 (eq. 4 before the mean)."""
    return (ranks <= k).astype(np.float64)


def reciprocal_rank(ranks: np.ndarray) -> np.ndarray:
    """(Q,) 1 / rank, 0 where the SKU is not in the gallery (eq. 5 before the mean)."""
    return np.where(ranks == UNRANKED, 0.0, 1.0 / ranks)


def ndcg_at_k(ranks: np.ndarray, k: int) -> np.ndarray:
    """(Q,) 1 / log2(rank + 1) up to rank `k`, else 0: one item is relevant, so IDCG = 1 (eq. 6-8)."""
    return np.where(ranks <= k, 1.0 / np.log2(1.0 + ranks), 0.0)


def per_query_metrics(ranks: np.ndarray) -> dict[str, np.ndarray]:
    """Each of `METRICS` as a (Q,) float64 array; its mean over queries is the paper's figure.

    >>> {name: float(values.mean()) for name, values in per_query_metrics(np.array([1, 4])).items()}["mrr"]
    0.625
    """
    values = {f"recall@{k}": recall_at_k(ranks, k) for k in (1, 5, 10, 20)}
    return {**values, "mrr": reciprocal_rank(ranks), "ndcg@10": ndcg_at_k(ranks, 10)}


def shared_label(found: np.ndarray, query_labels: np.ndarray, item_labels: np.ndarray) -> np.ndarray:
    """(Q,) share of the found items (Q, K) with the query's label: precision at K by that label."""
    return (item_labels[found] == query_labels[:, None]).mean(axis=1)


def calibration_error(probabilities: np.ndarray, winner: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error of the likeliest class, over bins of equal count.

    `probabilities` (N, C) are rows that sum to 1; `winner` (N,) is the right class.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == winner
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(winner)))
    gaps = [abs(confidence[part].mean() - right[part].mean()) * len(part) for part in parts]
    return float(sum(gaps) / len(winner))
