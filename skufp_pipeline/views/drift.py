"""Identity drift: how far generated views stray from their sources, with the adapter and without."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from skufp_pipeline.measures.bootstrap import bootstrap_mean
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
        change = (table[f"lora_{score}"] - table[f"frozen_{score}"]).to_numpy().astype(np.float64)
        gain = bootstrap_mean(change, table["sku_id"].to_numpy(), resamples, seed)
        figures |= {
            f"{score}_gain": gain.mean,
            f"{score}_gain_low": gain.low,
            f"{score}_gain_high": gain.high,
        }
    return figures
