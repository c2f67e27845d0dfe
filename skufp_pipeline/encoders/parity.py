"""How near an exported encoder is to the one it was made from: cosines, and the top-1 of real queries."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.measures.metrics import recall_at_k
from skufp_pipeline.measures.ranks import ranks

FLOAT32, INT8 = "float32", "int8"
LEAST_COSINE = {FLOAT32: 0.999, INT8: 0.99}  # of any single photo
LARGEST_RECALL_LOSS = 0.005  # R@1 that int8 may cost


@dataclass(frozen=True)
class Parity:
    """Embeddings of the same photos by two encoders, compared.

    Attributes:
        photos: how many.
        cosine_least, cosine_mean: of a photo's two embeddings.
        reference_recall, recall: R@1 of the photos by the first and by the second.
    """

    photos: int
    cosine_least: float
    cosine_mean: float
    reference_recall: float
    recall: float

    def holds(self, precision: str) -> bool:
        """Whether a model of this precision may stand in for the reference."""
        near = self.cosine_least >= LEAST_COSINE[precision]
        lost = self.reference_recall - self.recall
        return near and (precision == FLOAT32 or lost <= LARGEST_RECALL_LOSS + 1e-12)

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
    """Parity of two embeddings of the same photos.

    Args:
        reference, found: (N, D) rows.
        answers: (N,) the right row of the gallery.
        gallery: (S, D) unit rows, made by the reference.
    """
    cosines = unit_cosines(reference, found)
    recalls = [float(recall_at_k(ranks(rows @ gallery.T, answers), 1).mean()) for rows in (reference, found)]
    return Parity(len(found), float(cosines.min()), float(cosines.mean()), *recalls)


def unit_cosines(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) cosine of each pair of rows."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / norms
