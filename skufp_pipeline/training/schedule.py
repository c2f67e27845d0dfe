"""The learning-rate schedule of every trainer."""

import math


def warm_cosine(step: int, total: int, warmup_fraction: float) -> float:
    """A factor in [0, 1]: a linear rise over the first share of `total` steps, then half a cosine to 0."""
    warmup = max(1, round(total * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
