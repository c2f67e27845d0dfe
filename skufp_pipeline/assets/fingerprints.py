"""Group `fingerprints`: best-shot teachers, the aggregator, and one vector per SKU."""

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.kinds import Aggregator, Embeddings, Fingerprints, Teachers
from skufp_pipeline.artifacts.places import (
    BEST_SHOT_TEACHERS,
    CLIP_CHECKPOINT,
    CLIP_EMBEDDINGS,
    FINGERPRINT_CHECKPOINT,
    FINGERPRINTS,
    GENERATED_VIEW_EMBEDDINGS,
    SYNTHETIC_EMBEDDINGS,
)
from skufp_pipeline.artifacts.stored import Stored, left_out
from skufp_pipeline.checks.leaks import no_leaks
from skufp_pipeline.compute import Needs
from skufp_pipeline.encoders.tables import stood_in
from skufp_pipeline.evaluation.figures import training_curves
from skufp_pipeline.fingerprint.tables import (
    EmbeddingTables,
    teacher_table,
    teacher_table_by_shard,
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
    trained = fingerprint.model_dump(mode="json", exclude={"catalog_text_weight", "hubness", "synthetic"})
    if fingerprint.gaussian:
        trained["gaussian"].pop("aggregator_weight")
    use = fingerprint.synthetic
    if use.at_training:
        trained["synthetic"] = use.model_dump(include={"aggregator", "gaussian", "photo_weight"})
    views = (CLIP_EMBEDDINGS, GENERATED_VIEW_EMBEDDINGS) if preset.views else (CLIP_EMBEDDINGS,)
    steps = [
        Step(
            stored=BEST_SHOT_TEACHERS,
            make=best_shot_teachers,
            stage=STAGE,
            kinds={"numpy", "parquet"},
            code=(FINGERPRINT + "tables",),
            config={"max_views": fingerprint.max_views, **({"synthetic": True} if use.teachers else {})},
            needs=light,
            deps=(CLIP_CHECKPOINT, CLIP_EMBEDDINGS, *_synthetic(use.teachers)),
        ),
        Step(
            stored=FINGERPRINT_CHECKPOINT,
            make=fingerprint_checkpoint,
            stage=STAGE,
            kinds={"pytorch", "safetensors"},
            code=(FINGERPRINT + "learn",),
            config={"fingerprint": trained, "seed": preset.seed},
            needs=Needs(compute.cores, compute.memory_gib, compute.gpus),
            deps=(CLIP_CHECKPOINT, *views, BEST_SHOT_TEACHERS, *_synthetic(use.at_training)),
        ),
        Step(
            stored=FINGERPRINTS,
            make=fingerprints,
            stage=STAGE,
            kinds={"pytorch", "parquet"},
            code=(FINGERPRINT + "make",),
            config={
                name: settings[name]
                for name in ("max_views", "gaussian", "catalog_text_weight", "hubness", "synthetic")
            },
            needs=light,
            deps=(CLIP_CHECKPOINT, *views, FINGERPRINT_CHECKPOINT, *_synthetic(use.at_making)),
        ),
    ]
    return Group.of("fingerprints", preset, steps, no_leaks)


def best_shot_teachers(run: Run) -> dg.MaterializeResult:
    """The single view and the single text of each SKU that retrieve its training queries best."""
    run.read(CLIP_CHECKPOINT)
    use, max_views = run.preset.fingerprint.synthetic, run.preset.fingerprint.max_views
    synthetic = run.read_all(SYNTHETIC_EMBEDDINGS) if use.teachers else None
    shards = run.read_all(CLIP_EMBEDDINGS)

    def build(directory: Path) -> dict[str, Any]:
        if synthetic is None:
            teachers, used = teacher_table_by_shard(shards, max_views)
        else:  # they stand in only where no shard has a customer's photo
            tables = EmbeddingTables.of(shards, synthetic=synthetic).with_stand_ins(wanted=True)
            teachers, used = teacher_table(tables, max_views)
        note = "no training queries: every teacher is its SKU's medoid" if used.is_empty() else stood_in(used)
        return {**Teachers.write(directory, teachers, used), **left_out(note)}

    result = run.produce(BEST_SHOT_TEACHERS, build)
    teachers = result.table()
    chosen = counts_table(teachers, ["split", "chosen_by"])
    return run.done(result, {**frame_metadata(teachers), "chosen_by": chosen})


def fingerprint_checkpoint(run: Run) -> dg.MaterializeResult:
    """The Q-Former-style aggregator, trained by regression, rank distillation and classification, and the
    noise of views and photos, estimated on training SKUs."""
    from skufp_pipeline.fingerprint.aggregator import save_aggregator
    from skufp_pipeline.fingerprint.gaussian import save_gaussian
    from skufp_pipeline.fingerprint.learn import learn

    settings, seed = run.preset.fingerprint, run.preset.seed
    tables, teachers = _embeddings(run, settings.synthetic.at_training), run.read(BEST_SHOT_TEACHERS)

    def build(directory: Path) -> dict[str, Any]:
        device = run.models.torch_device()
        learnt = learn(tables, teachers.table(), settings, seed, device, run.scratch, run.log)
        save_aggregator(learnt.aggregator, learnt.dimension, settings.aggregator, directory)
        if learnt.gaussian is not None:
            save_gaussian(learnt.gaussian, directory)
        Aggregator.write(directory, learnt.history, learnt.used)
        return {"skus": learnt.skus, **_best(learnt.history), **left_out(*learnt.told)}

    result = run.produce(FINGERPRINT_CHECKPOINT, build)
    return run.done(result, _curve(result.history()))


def fingerprints(run: Run) -> dg.MaterializeResult:
    """One unit vector and one bias per SKU, from its catalog views and texts, and from training photos if it
    has some; a new SKU needs no training."""
    from skufp_pipeline.fingerprint.aggregator import load_aggregator
    from skufp_pipeline.fingerprint.gaussian import load_gaussian
    from skufp_pipeline.fingerprint.make import make_fingerprints, parts_left_out

    settings, device = run.preset.fingerprint, run.models.torch_device()
    tables = _embeddings(run, settings.synthetic.at_making)
    checkpoint = run.read(FINGERPRINT_CHECKPOINT).path

    def build(directory: Path) -> dict[str, Any]:
        gaussian = load_gaussian(checkpoint) if settings.gaussian else None
        aggregator = load_aggregator(checkpoint, device)
        table, used = make_fingerprints(aggregator, gaussian, tables, settings, device)
        note = left_out(*parts_left_out(settings, gaussian, used))
        return {**Fingerprints.write(directory, table, used), **note}

    result = run.produce(FINGERPRINTS, build)
    table = result.table()
    return run.done(result, {**frame_metadata(table), "views_by_split": counts_table(table, ["split"])})


def _best(history: list[dict[str, float]]) -> dict[str, float]:
    """The kept epoch and its development score; empty if nothing was trained."""
    from skufp_pipeline.training.history import best_epoch, unscored

    if not history:
        return {}
    best, quality = best_epoch(history, "development_mrr", later=False), "development_mrr"
    return {"best_epoch": best["epoch"], **({} if unscored(history, quality) else {quality: best[quality]})}


def _curve(history: list[dict[str, float]]) -> dict[str, Any]:
    """Plots and tabulates the training of the aggregator; empty if nothing was trained."""
    if not history:
        return {}
    losses = tuple(name for name in history[0] if name not in ("epoch", "development_mrr"))
    curve = picture(training_curves(history, losses, "development_mrr"))
    return {"curve": curve, "history": markdown_table(pl.DataFrame(history).tail(5))}


def _embeddings(run: Run, with_synthetic: bool) -> EmbeddingTables:
    """The tables of all shards by one encoder, with the generated views if the preset has them."""
    run.read(CLIP_CHECKPOINT)
    generated = run.read_all(GENERATED_VIEW_EMBEDDINGS) if run.preset.views else None
    synthetic = run.read_all(SYNTHETIC_EMBEDDINGS) if with_synthetic else None
    return EmbeddingTables.of(run.read_all(CLIP_EMBEDDINGS), generated, synthetic)


def _synthetic(wanted: bool) -> tuple[Stored[Embeddings], ...]:
    return (SYNTHETIC_EMBEDDINGS,) if wanted else ()
