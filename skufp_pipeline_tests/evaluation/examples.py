"""Four made-up SKUs on the axes of a plane, small enough to check by hand."""

from typing import Any

import numpy as np
import polars as pl

from skufp_pipeline.evaluation.protocol import Evaluation, Gallery, QuerySet, evaluation_queries
from skufp_pipeline.evaluation.report import Latency, Report, Times, results

# sku -> its direction; a and b are training SKUs, c and d validation SKUs.
DIRECTIONS = {"a": (1, 0), "b": (0, 1), "c": (-1, 0), "d": (0, -1)}
SPLITS = {"a": "train", "b": "train", "c": "validation", "d": "validation"}


def query_table(
    rows: list[tuple[str, str, str, str, tuple[float, float]]], dtype: pl.DataType | None = None
) -> pl.DataFrame:
    """Rows of query_id, sku_id, split, role, embedding."""
    schema = {name: pl.String() for name in ("query_id", "sku_id", "split", "role")}
    schema["embedding"] = dtype or pl.Array(pl.Float32(), 2)
    return pl.DataFrame(rows, schema=schema, orient="row")


def gallery(skus: str = "abcd", vectors: dict[str, tuple[float, float]] = DIRECTIONS) -> Gallery:
    return Gallery(
        list(skus), [SPLITS[s] for s in skus], np.array([vectors[s] for s in skus], dtype=np.float32)
    )


def queries(skus: str = "aabccd") -> QuerySet:
    """Each query points exactly at its SKU, so a model with the true directions is always right."""
    rows = [(f"q{i}", sku, SPLITS[sku], "evaluation", DIRECTIONS[sku]) for i, sku in enumerate(skus)]
    return evaluation_queries(query_table(rows))


LATENCY = Latency(
    threads=1,
    processor="Example CPU",
    stages={"search": Times(p50_ms=0.1, p95_ms=0.2, mean_ms=0.12)},
    search_batched=Times(batch=64, p50_ms=0.01, p95_ms=0.02, mean_ms=0.012),
)


def report_of(evaluation: Evaluation, preset: str = "demo", **parts: Any) -> Report:
    return Report(preset=preset, settings=results(evaluation), **parts)
