"""Identity drift: how far generated views stray from their sources, with the adapter and without."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from skufp_pipeline.views.filters import Scores

DRIFT_SCHEMA: dict[str, pl.DataType] = {
    "candidate_id": pl.String(),
    "sku_id": pl.String(),
    "frozen_clip_cosine": pl.Float32(),
    "lora_clip_cosine": pl.Float32(),
    "frozen_hsv_distance": pl.Float32(),
    "lora_hsv_distance": pl.Float32(),
}


def drift_table(
    candidate_ids: Sequence[str], sku_ids: Sequence[str], frozen: Scores, lora: Scores
) -> pl.DataFrame:
    """`DRIFT_SCHEMA`: one row per candidate that both drew from the same seed."""
    columns = {
        "candidate_id": list(candidate_ids),
        "sku_id": list(sku_ids),
        "frozen_clip_cosine": frozen.clip_cosine,
        "lora_clip_cosine": lora.clip_cosine,
        "frozen_hsv_distance": frozen.hsv_distance,
        "lora_hsv_distance": lora.hsv_distance,
    }
    return pl.DataFrame(columns, schema=DRIFT_SCHEMA)


def drift_figures(table: pl.DataFrame, resamples: int = 1000, seed: int = 0) -> dict[str, float]:
    """Means, and what the adapter gains with its 95% bootstrap interval over SKUs.

    `clip_cosine_gain` is above 0, and `hsv_distance_gain` below, where the adapter keeps identity better.
    """
    figures = {name: float(table[name].to_numpy().mean()) for name in list(DRIFT_SCHEMA)[2:]}
    for score in ("clip_cosine", "hsv_distance"):
        change = table.select("sku_id", gain=pl.col(f"lora_{score}") - pl.col(f"frozen_{score}"))
        by_sku = change.group_by("sku_id", maintain_order=True).agg(pl.sum("gain"), pl.len())
        gain, count = by_sku["gain"].to_numpy(), by_sku["len"].to_numpy()
        rng = np.random.default_rng(seed)
        drawn = rng.integers(0, len(gain), (resamples, len(gain)))
        means = gain[drawn].sum(axis=1) / count[drawn].sum(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        figures |= {
            f"{score}_gain": float(gain.sum() / count.sum()),
            f"{score}_gain_low": float(low),
            f"{score}_gain_high": float(high),
        }
    return figures
