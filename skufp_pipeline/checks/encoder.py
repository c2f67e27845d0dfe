"""Checks of the embeddings: finite, of unit norm, one row per crop and text."""

import dagster as dg
import numpy as np
import polars as pl

_TOLERANCE = 1e-5


def embeddings_sound_spec(asset: str) -> dg.AssetCheckSpec:
    """Declares the check on an asset of embeddings."""
    return dg.AssetCheckSpec(
        "embeddings_sound",
        asset=asset,
        blocking=True,
        description="Every embedding of the shard is finite and of unit norm, and no id occurs twice.",
    )


def embeddings_sound(
    asset: str, images: pl.DataFrame, texts: pl.DataFrame | None = None
) -> dg.AssetCheckResult:
    """Passes if all rows are finite, of unit norm, and no crop or text occurs twice; `texts` may be None.

    A sentence that describes a SKU and trains as a query, too, occurs once in each role.
    """
    tables = [(images, ["item_id"]), *([] if texts is None else [(texts, ["text_id", "role"])])]
    worst = max(_norm_error(table) for table, _ in tables)
    repeated = sum(int(table.select(names).is_duplicated().sum()) for table, names in tables)
    return dg.AssetCheckResult(
        check_name="embeddings_sound",
        asset_key=asset,
        passed=bool(worst <= _TOLERANCE) and repeated == 0,
        metadata={"largest_norm_error": worst, "tolerance": _TOLERANCE, "repeated_ids": repeated},
    )


def _norm_error(table: pl.DataFrame) -> float:
    """Returns the largest distance of a norm from 1; infinite if a value is not finite."""
    if table.is_empty():
        return 0.0
    norms = np.linalg.norm(table["embedding"].to_numpy().astype(np.float64), axis=1)
    return float(np.abs(norms - 1).max()) if np.isfinite(norms).all() else float("inf")
