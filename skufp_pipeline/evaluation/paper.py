"""The paper's own protocol, measured beside ours: its teachers are chosen by the queries that are scored.

Section 4.3 takes as a SKU's teacher the view with the best validation retrieval metric, and scores the same
validation queries. A model by that protocol is named `paper_...`; its difference from our model of that name
is the effect of the leak. No fingerprint that is published or served uses these teachers.
"""

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from skufp_pipeline.datasets.table import EVALUATION
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.evaluation.protocol import Evaluation, Gallery, Model, evaluate
from skufp_pipeline.fingerprint.tables import EmbeddingTables, choose_teachers

PREFIX = "paper_"


def paper_teachers(tables: EmbeddingTables, max_views: int) -> pl.DataFrame:
    """Teachers of every SKU as in `fingerprint.tables.teacher_table`, chosen by the evaluation queries."""
    scored = pl.col("role") == EVALUATION
    return choose_teachers(tables, tables.images.filter(scored), tables.texts.filter(scored), max_views)


def paper_models(
    models: Sequence[Model], teachers: pl.DataFrame, fingerprints: pl.DataFrame | None = None
) -> list[Model]:
    """Our best-shot model and, with `fingerprints`, our fingerprint, each followed by the paper's.

    Args:
        models: all of ours, by our protocol.
        teachers: `sku_id`, `split`, `image_teacher`, from `paper_teachers`.
        fingerprints: `sku_id`, `split`, `bias`, `fingerprint`, of a model trained with those teachers.
    """
    ours = {model.name: model for model in models}
    result = [ours["best_shot"], _with_gallery(ours["best_shot"], teachers, "image_teacher")]
    if fingerprints is not None:
        result += [ours["fingerprint"], _with_gallery(ours["fingerprint"], fingerprints, "fingerprint")]
    return result


def judge_paper(models: Sequence[Model], resamples: int, seed: int) -> Evaluation:
    """Evaluates the models of `paper_models`, and the effect of the leak on each."""
    leaky = [model.name for model in models if model.name.startswith(PREFIX)]
    return evaluate(models, [(name, name.removeprefix(PREFIX)) for name in leaky], seed, resamples)


def _with_gallery(model: Model, table: pl.DataFrame, column: str) -> Model:
    known = table.filter(pl.col("sku_id").is_in(set(model.gallery.sku_ids)))
    biases = known["bias"].to_numpy() if column == "fingerprint" else None
    gallery = Gallery(
        known["sku_id"].to_list(), known["split"].to_list(), embedding_rows(known, column), biases
    )
    return replace(model, name=PREFIX + model.name, gallery=gallery)
