"""Biases against hubs, SKUs that rank among the first results of far too many queries.

Query-bank normalisation (Bogolin et al., CVPR 2022) divides a SKU's softmax weight by the weight that a bank
of queries gives it. With training photos as the bank this is one bias per SKU; search costs the same.
"""

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.fingerprint.settings import HubnessSettings

_BLOCK = 4096  # SKUs scored at once


def query_bank_biases(
    bank: NDArray[np.float32],
    fingerprints: NDArray[np.float32],
    biases: NDArray[np.float32],
    settings: HubnessSettings,
) -> NDArray[np.float32]:
    """(S,) biases, lowered by `strength` times each SKU's soft maximum over the bank less the mean SKU's.

    Args:
        bank: (Q, D) unit rows of `train` photos, at least one.
        fingerprints, biases: (S, D) and (S,), before the correction.
    """
    sharpness, soft_maxima = settings.sharpness, np.empty(len(fingerprints))
    for start in range(0, len(fingerprints), _BLOCK):
        part = slice(start, start + _BLOCK)
        scores = sharpness * (bank @ fingerprints[part].T + biases[part]).astype(np.float64)
        highest = scores.max(axis=0)
        soft_maxima[part] = (np.log(np.exp(scores - highest).mean(axis=0)) + highest) / sharpness
    corrected: NDArray[np.float32] = (biases - settings.strength * (soft_maxima - soft_maxima.mean())).astype(
        np.float32
    )
    return corrected


def occurrence_skew(scores: NDArray[np.floating], k: int = 10) -> float:
    """Skewness of how often each SKU is in the top `k` of the (Q, S) scores; 0 without hubs or anti-hubs."""
    first = np.argpartition(-scores, min(k, scores.shape[1]) - 1, axis=1)[:, :k]
    counts = np.bincount(first.ravel(), minlength=scores.shape[1]).astype(np.float64)
    spread = counts.std()
    return float(((counts - counts.mean()) ** 3).mean() / spread**3) if spread else 0.0
