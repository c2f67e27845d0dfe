"""The learning-rate schedule of all trainers."""

import math


def warm_cosine(step: int, total: int, warmup_fraction: float) -> float:
    """Returns a factor in [0, 1]: linear warm-up over `warmup_fraction` of the steps, then a cosine to 0."""
    warmup = max(1, round(total * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
