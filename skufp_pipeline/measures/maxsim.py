"""MaxSim on int8 patches: exact, and the same on every machine.

The patches of a SKU's catalogue pictures each look for their most similar patch of the photo; the mean of
these similarities is a picture's score, and the best picture's is the SKU's. Products of int8 vectors are
whole numbers below 2^24, so that float32 matrix products of them are exact in any order of summation.
"""

import numpy as np
from numpy.typing import NDArray

SCALE = 127  # of a unit vector's int8 form
LARGEST_DIMENSION = 2**24 // SCALE**2

Patches = NDArray[np.int8]


def maxsim(photo: Patches, views: Patches, counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Returns the (N,) scores of N SKUs, -1 to 1.

    >>> one = np.array([[[127, 0]], [[0, 127]]], np.int8)
    >>> maxsim(one[0], one[:, None], np.array([1, 1])).tolist()
    [1.0, 0.0]

    Args:
        photo: (P, d) patches of a photo.
        views: (N, V, C, d) patches of up to V pictures a SKU.
        counts: (N,) pictures of each, 1 to V.
    """
    similar = similarities(photo, views.reshape(-1, views.shape[-1]))
    best = similar.max(axis=1).reshape(views.shape[:3]).sum(axis=2, dtype=np.float64)
    best[np.arange(views.shape[1]) >= np.asarray(counts)[:, None]] = -np.inf
    scores: NDArray[np.float64] = best.max(axis=1) / (views.shape[2] * SCALE**2)
    return scores


def similarities(photo: Patches, patches: Patches) -> NDArray[np.float32]:
    """Returns (M, P) whole numbers, `SCALE` squared times the cosines, of M patches with the P of a photo."""
    if photo.shape[-1] > LARGEST_DIMENSION or photo.shape[-1] != patches.shape[-1]:
        raise ValueError(
            f"patches of {patches.shape[-1]} dimensions can't be compared with {photo.shape[-1]}"
        )
    found: NDArray[np.float32] = patches.astype(np.float32) @ photo.astype(np.float32).T
    return found
