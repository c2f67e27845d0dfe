"""Retrieval metrics from the rank of the right SKU (paper, Appendix A, eq. 4-8), and calibration error."""

from typing import NamedTuple

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


class Bin(NamedTuple):
    """A part of a reliability diagram: mean probability, share of the event, and weight of all."""

    probability: float
    share: float
    weight: float


def reliability(
    probabilities: np.ndarray, event: np.ndarray, weights: np.ndarray | None = None, bins: int = 10
) -> tuple[list[Bin], float]:
    """The reliability diagram of a binary event over bins of equal count, and its expected calibration error.

    >>> round(reliability(np.array([0.2, 0.2, 0.7, 0.9]), np.array([0, 0, 1, 1]), bins=2)[1], 3)
    0.2

    Args:
        probabilities, event: (N,) P(event), and whether it happened.
        weights: (N,) how much each counts; all the same by default.
    """
    weights = np.ones(len(probabilities)) if weights is None else weights
    parts = np.array_split(np.argsort(probabilities, kind="stable"), min(bins, len(probabilities)))
    found = [
        Bin(
            float(np.average(probabilities[part], weights=weights[part])),
            float(np.average(event[part], weights=weights[part])),
            float(weights[part].sum() / weights.sum()),
        )
        for part in parts
        if weights[part].sum() > 0
    ]
    return found, sum(abs(part.probability - part.share) * part.weight for part in found)


def area_under_roc(higher: np.ndarray, lower: np.ndarray) -> float:
    """P(a value of `higher` is above one of `lower`), ties counting half.

    >>> area_under_roc(np.array([0.9, 0.5]), np.array([0.5, 0.1]))
    0.875
    """
    values, place = np.unique(np.concatenate([higher, lower]), return_inverse=True)
    ups, downs = (
        np.bincount(part, minlength=len(values)) for part in (place[: len(higher)], place[len(higher) :])
    )
    below = np.cumsum(downs) - downs
    return float((ups * (below + downs / 2)).sum() / (len(higher) * len(lower)))
