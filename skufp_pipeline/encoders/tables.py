"""The embedding column of all embedding tables, and the table of queries used in training."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skufp_pipeline.datasets.table import GALLERY, SYNTHETIC, is_synthetic

# Queries that a trained result used; `use` is train or development, of a synthetic photo `synthetic train` or
# `synthetic development`.
USED_SCHEMA: dict[str, pl.DataType] = {
    "query_id": pl.String(),
    "sku_id": pl.String(),
    "role": pl.String(),
    "use": pl.String(),
}


def used_queries(frame: pl.DataFrame, use: str) -> pl.DataFrame:
    """Returns `USED_SCHEMA` for the query rows (`query_id`, `sku_id`, `role`), used as `use`."""
    chosen = frame.filter(pl.col("role") != GALLERY).select("query_id", "sku_id", "role")
    marked = pl.when(is_synthetic("query_id")).then(pl.lit(f"{SYNTHETIC} {use}")).otherwise(pl.lit(use))
    return chosen.with_columns(use=marked).select(*USED_SCHEMA)


def stood_in(used: pl.DataFrame) -> str | None:
    """Returns a sentence on the synthetic photos among `USED_SCHEMA`; None if there are none."""
    count = used.filter(is_synthetic("query_id"))["query_id"].n_unique()
    return f"{count} synthetic photos were used as if they were customers'" if count else None


def no_queries() -> pl.DataFrame:
    """Returns an empty table of `USED_SCHEMA`."""
    return pl.DataFrame(schema=USED_SCHEMA)


def embedding_column(rows: NDArray[np.float32]) -> pl.Series:
    """Converts (N, D) to the column `embedding`, a fixed-size list of D float32."""
    return pl.Series("embedding", rows, dtype=pl.Array(pl.Float32, rows.shape[1]))


def embedding_rows(table: pl.DataFrame, column: str = "embedding") -> NDArray[np.float32]:
    """Returns the column as writable (N, D) float32; N may be 0."""
    kind = table.schema[column]
    if not isinstance(kind, pl.Array):
        raise ValueError(f"{column} must be a fixed-size list (pl.Array) column, found {kind}")
    return np.array(table[column].to_numpy().reshape(table.height, kind.shape[0]), dtype=np.float32)
