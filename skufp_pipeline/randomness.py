"""Named streams of random numbers: every SKU and every image has its own.

Results do not depend on the order in which images are drawn, or on the process that draws them.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from skufp_pipeline.hashing import stable_hash

T = TypeVar("T")


def generator(seed: int, *name: object) -> np.random.Generator:
    """Returns the stream of random numbers called `name` under `seed`."""
    return np.random.Generator(np.random.PCG64(stable_hash("/".join(map(str, name)), str(seed))))


def choose(rng: np.random.Generator, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
    """Picks one of `options`, uniformly or with chances proportional to `weights`."""
    if weights is None:
        return options[int(rng.integers(len(options)))]
    limits = np.cumsum(weights)
    return options[int(np.searchsorted(limits, rng.uniform(0, limits[-1]), side="right"))]


def chance(rng: np.random.Generator, probability: float) -> bool:
    """Returns True with the given probability."""
    return bool(rng.random() < probability)
