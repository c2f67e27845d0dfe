"""Group `fingerprints`: best-shot teachers, the aggregator, and one vector per SKU."""

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.kinds import Aggregator, Fingerprints, Teachers
from skufp_pipeline.artifacts.places import (
    BEST_SHOT_TEACHERS,
    CLIP_CHECKPOINT,
    CLIP_EMBEDDINGS,
    FINGERPRINT_CHECKPOINT,
    FINGERPRINTS,
    GENERATED_VIEW_EMBEDDINGS,
)
from skufp_pipeline.checks.leaks import no_leaks
from skufp_pipeline.compute import Needs
from skufp_pipeline.evaluation.figures import training_curves
from skufp_pipeline.fingerprint.tables import (
    EmbeddingTables,
    fingerprint_data,
    teacher_table,
    used_by_fingerprints,
)
from skufp_pipeline.presets import Preset
from skufp_pipeline.show import counts_table, frame_metadata, markdown_table, picture
from skufp_pipeline.steps import Group, Run, Step

FINGERPRINT = "skufp_pipeline.fingerprint."
STAGE = "train_fingerprints"


def group(preset: Preset) -> Group:
    """The three steps from embeddings to fingerprints."""
    compute, fingerprint = preset.compute, preset.fingerprint
    light = Needs(compute.cores, compute.memory_gib)
    settings = fingerprint.model_dump(mode="json")
    # Settings that apply after training must not cause retraining.
    trained = fingerprint.model_dump(mode="json", exclude={"catalog_text_weight", "hubness"})
    if fingerprint.gaussian:
        trained["gaussian"].pop("aggregator_weight")
    views = (CLIP_EMBEDDINGS, GENERATED_VIEW_EMBEDDINGS) if preset.views else (CLIP_EMBEDDINGS,)
    steps = [
        Step(
            stored=BEST_SHOT_TEACHERS,
            make=best_shot_teachers,
            stage=STAGE,
            kinds={"numpy", "parquet"},
            code=(FINGERPRINT + "tables",),
            config={"max_views": fingerprint.max_views},
            needs=light,
            deps=(CLIP_CHECKPOINT, CLIP_EMBEDDINGS),
        ),
        Step(
            stored=FINGERPRINT_CHECKPOINT,
            make=fingerprint_checkpoint,
            stage=STAGE,
            kinds={"pytorch", "safetensors"},
            code=(FINGERPRINT + "aggregator_train", FINGERPRINT + "gaussian", FINGERPRINT + "tables"),
            config={"fingerprint": trained, "seed": preset.seed},
            needs=Needs(compute.cores, compute.memory_gib, compute.gpus),
            deps=(CLIP_CHECKPOINT, *views, BEST_SHOT_TEACHERS),
        ),
        Step(
            stored=FINGERPRINTS,
            make=fingerprints,
            stage=STAGE,
            kinds={"pytorch", "parquet"},
            code=(FINGERPRINT + "make",),
            config={
                name: settings[name] for name in ("max_views", "gaussian", "catalog_text_weight", "hubness")
            },
            needs=light,
            deps=(CLIP_CHECKPOINT, *views, FINGERPRINT_CHECKPOINT),
        ),
    ]
    return Group.of("fingerprints", preset, steps, no_leaks)


def best_shot_teachers(run: Run) -> dg.MaterializeResult:
    """The single view and the single text of each SKU that retrieve its training queries best."""
    run.read(CLIP_CHECKPOINT)
    tables = EmbeddingTables.of(run.read_all(CLIP_EMBEDDINGS))
    max_views = run.preset.fingerprint.max_views
    result = run.produce(
        BEST_SHOT_TEACHERS, lambda directory: Teachers.write(directory, *teacher_table(tables, max_views))
    )
    teachers = result.table()
    chosen = counts_table(teachers, ["split", "chosen_by"])
    return run.done(result, {**frame_metadata(teachers), "chosen_by": chosen})


def fingerprint_checkpoint(run: Run) -> dg.MaterializeResult:
    """The Q-Former-style aggregator, trained by regression, rank distillation and classification, and the
    noise of views and photos, estimated on training SKUs."""
    from skufp_pipeline.fingerprint.aggregator import save_aggregator
    from skufp_pipeline.fingerprint.aggregator_train import train_aggregator
    from skufp_pipeline.fingerprint.gaussian import fit_gaussian, save_gaussian

    settings, seed = run.preset.fingerprint, run.preset.seed
    tables, teachers = _embeddings(run), run.read(BEST_SHOT_TEACHERS)

    def build(directory: Path) -> dict[str, Any]:
        data = fingerprint_data(tables, teachers.table(), settings.max_views)
        device = run.models.torch_device()
        model, history = train_aggregator(data, settings, seed, device, run.scratch, run.log)
        save_aggregator(model, data.views.views.shape[2], settings.aggregator, directory)
        if settings.gaussian:
            save_gaussian(fit_gaussian(data.views, data.image_queries, settings.gaussian), directory)
        Aggregator.write(directory, history, used_by_fingerprints(tables))
        best = max(history, key=lambda row: row["development_mrr"])
        development = {name: best[name] for name in best if name.startswith("development")}
        return {"skus": len(data.views.sku_ids), "best_epoch": best["epoch"], **development}

    result = run.produce(FINGERPRINT_CHECKPOINT, build)
    history = result.history()
    losses = tuple(name for name in history[0] if name not in ("epoch", "development_mrr"))
    curve = picture(training_curves(history, losses, "development_mrr"))
    return run.done(result, {"curve": curve, "history": markdown_table(pl.DataFrame(history).tail(5))})


def fingerprints(run: Run) -> dg.MaterializeResult:
    """One unit vector and one bias per SKU, from its catalog views and texts, and from training photos if it
    has some; a new SKU needs no training."""
    from skufp_pipeline.fingerprint.aggregator import load_aggregator
    from skufp_pipeline.fingerprint.gaussian import load_gaussian
    from skufp_pipeline.fingerprint.make import make_fingerprints

    settings, device = run.preset.fingerprint, run.models.torch_device()
    tables, checkpoint = _embeddings(run), run.read(FINGERPRINT_CHECKPOINT).path

    def build(directory: Path) -> dict[str, Any]:
        gaussian = load_gaussian(checkpoint) if settings.gaussian else None
        aggregator = load_aggregator(checkpoint, device)
        return Fingerprints.write(
            directory, *make_fingerprints(aggregator, gaussian, tables, settings, device)
        )

    result = run.produce(FINGERPRINTS, build)
    table = result.table()
    return run.done(result, {**frame_metadata(table), "views_by_split": counts_table(table, ["split"])})


def _embeddings(run: Run) -> EmbeddingTables:
    """The tables of all shards by one encoder, with the generated views if the preset has them."""
    run.read(CLIP_CHECKPOINT)
    generated = run.read_all(GENERATED_VIEW_EMBEDDINGS) if run.preset.views else None
    return EmbeddingTables.of(run.read_all(CLIP_EMBEDDINGS), generated)
