"""Measures what generated views add: the same fingerprint model with, without, and with duplicates instead.

The model was trained with view dropout, so it handles SKUs of each kind. `benchmarks/views_ablation.py`
compares models retrained for each kind of view.
"""

from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.evaluation.protocol import Evaluation, Gallery, Model, evaluate
from skufp_pipeline.fingerprint.tables import EmbeddingTables

WITHOUT, DUPLICATED = "fingerprint_without_views", "fingerprint_of_duplicates"


def control_tables(tables: EmbeddingTables) -> dict[str, EmbeddingTables]:
    """By control, the tables that replace `tables` with its generated views."""
    assert tables.generated is not None
    return {
        WITHOUT: replace(tables, generated=None),
        DUPLICATED: replace(tables, generated=duplicated(tables.images, tables.generated)),
    }


def duplicated(images: pl.DataFrame, generated: pl.DataFrame) -> pl.DataFrame:
    """`generated` with each embedding replaced by that of its source view."""
    sources = images.select(pl.col("item_id").alias("source_item_id"), "embedding")
    joined = generated.drop("embedding").join(sources, "source_item_id", how="left", maintain_order="left")
    return joined.select(generated.columns)


def judge_controls(
    model: Model, fingerprints: Mapping[str, pl.DataFrame], resamples: int, seed: int
) -> Evaluation:
    """Evaluates the published `model`, the controls, and the difference from each.

    `fingerprints` holds each control's `fingerprint_table`, of the same SKUs.
    """
    skus = pl.DataFrame({"sku_id": model.gallery.sku_ids})
    models = [model]
    for name, table in fingerprints.items():
        rows = skus.join(table, on="sku_id", how="left", maintain_order="left")
        vectors, biases = embedding_rows(rows, "fingerprint"), rows["bias"].to_numpy()
        gallery = Gallery(model.gallery.sku_ids, model.gallery.splits, vectors, biases)
        models.append(replace(model, name=name, gallery=gallery))
    return evaluate(models, [(model.name, name) for name in fingerprints], seed, resamples)
