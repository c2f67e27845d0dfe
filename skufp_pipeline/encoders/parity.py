"""Compares an exported encoder with its original: cosines, and R@1 of real queries."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.measures.metrics import recall_at_k
from skufp_pipeline.measures.ranks import ranks

FLOAT32, INT8 = "float32", "int8"
LEAST_COSINE = {FLOAT32: 0.999, INT8: 0.99}  # for each photo
LARGEST_RECALL_LOSS = 0.005  # largest loss of R@1 by int8


@dataclass(frozen=True)
class Parity:
    """Comparison of two encoders' embeddings of the same photos."""

    photos: int
    cosine_least: float  # smallest cosine of a photo's two embeddings
    cosine_mean: float
    reference_recall: float  # R@1 of the reference encoder
    recall: float  # R@1 of the other encoder

    def holds(self, precision: str) -> bool:
        """Returns whether a model of this precision may replace the reference."""
        is_close = self.cosine_least >= LEAST_COSINE[precision]
        recall_loss = self.reference_recall - self.recall
        return is_close and (precision == FLOAT32 or recall_loss <= LARGEST_RECALL_LOSS + 1e-12)

    def __str__(self) -> str:
        return (
            f"cosine at least {self.cosine_least:.5f}, mean {self.cosine_mean:.5f}; "
            f"R@1 {self.recall:.4f} against {self.reference_recall:.4f} on {self.photos} photos"
        )


def compare(
    reference: NDArray[np.float32],
    found: NDArray[np.float32],
    answers: NDArray[np.int64],
    gallery: NDArray[np.float32],
) -> Parity:
    """Computes the parity of two sets of embeddings, (N, D) each, of the same photos.

    `gallery` has (S, D) unit rows by the reference encoder; `answers` (N,) are the correct rows in it.
    """
    cosines = unit_cosines(reference, found)
    recalls = [float(recall_at_k(ranks(rows @ gallery.T, answers), 1).mean()) for rows in (reference, found)]
    return Parity(len(found), float(cosines.min()), float(cosines.mean()), *recalls)


def unit_cosines(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns the (N,) cosines of the pairs of rows."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / norms
