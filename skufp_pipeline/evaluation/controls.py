"""What generated views are worth: the same fingerprint model with them, without, and with copies instead.

The model was trained with view dropout and serves SKUs of either kind. Models that are trained anew for each
kind of view are compared by `benchmarks/views_ablation.py`.
"""

from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.evaluation.protocol import Evaluation, Gallery, Model, evaluate
from skufp_pipeline.fingerprint.tables import EmbeddingTables

WITHOUT, DUPLICATED = "fingerprint_without_views", "fingerprint_of_duplicates"


def control_tables(tables: EmbeddingTables) -> dict[str, EmbeddingTables]:
    """What the fingerprint model is given instead of the generated views of `tables`."""
    assert tables.generated is not None
    return {
        WITHOUT: replace(tables, generated=None),
        DUPLICATED: replace(tables, generated=duplicated(tables.images, tables.generated)),
    }


def duplicated(images: pl.DataFrame, generated: pl.DataFrame) -> pl.DataFrame:
    """`generated` with the embedding of each one's source view for its own."""
    sources = images.select(pl.col("item_id").alias("source_item_id"), "embedding")
    joined = generated.drop("embedding").join(sources, "source_item_id", how="left", maintain_order="left")
    return joined.select(generated.columns)


def judge_controls(
    model: Model, fingerprints: Mapping[str, pl.DataFrame], resamples: int, seed: int
) -> Evaluation:
    """The fingerprint as it is published, the controls, and its difference from each.

    Args:
        model: the published fingerprints.
        fingerprints: `fingerprint_table` by control, of the same SKUs.
    """
    skus = pl.DataFrame({"sku_id": model.gallery.sku_ids})
    models = [model]
    for name, table in fingerprints.items():
        rows = skus.join(table, on="sku_id", how="left", maintain_order="left")
        vectors, biases = embedding_rows(rows, "fingerprint"), rows["bias"].to_numpy()
        gallery = Gallery(model.gallery.sku_ids, model.gallery.splits, vectors, biases)
        models.append(replace(model, name=name, gallery=gallery))
    return evaluate(models, [(model.name, name) for name in fingerprints], seed, resamples)
