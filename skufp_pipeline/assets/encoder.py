"""Group `encoder`: CLIP fine-tuned on SKUs (Baseline 3), and the embeddings of crops and texts."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.kinds import Embeddings, Encoder
from skufp_pipeline.artifacts.places import (
    CLIP_CHECKPOINT,
    CLIP_EMBEDDINGS,
    FROZEN_CLIP_EMBEDDINGS,
    IMAGE_TEXT,
    SKU_CROPS,
)
from skufp_pipeline.artifacts.stored import Stored, left_out
from skufp_pipeline.checks.encoder import embeddings_sound, embeddings_sound_spec
from skufp_pipeline.checks.leaks import no_leaks
from skufp_pipeline.datasets import table as roles
from skufp_pipeline.evaluation.figures import training_curves
from skufp_pipeline.presets import Preset
from skufp_pipeline.show import frame_metadata, markdown_table, picture
from skufp_pipeline.steps import Group, Run, Step
from skufp_pipeline.training.weights import weight_inputs, weights_summary

ENCODERS = "skufp_pipeline.encoders."
TRAIN, EMBED = "train_models", "embed_shards"


def group(preset: Preset) -> Group:
    """The steps of this group; the frozen encoder is included only if it is pretrained."""
    needs = preset.compute.network_needs
    encoder = preset.encoder.model_dump(mode="json", exclude={"training", "batch_size"})
    steps = [
        Step(
            stored=CLIP_CHECKPOINT,
            make=clip_checkpoint,
            stage=TRAIN,
            apart=True,
            kinds={"pytorch", "openclip", "safetensors"},
            code=(ENCODERS + "clip_train", ENCODERS + "dataset"),
            config={
                "encoder": encoder,
                "training": preset.encoder.training.model_dump(mode="json"),
                "prompts": preset.prompts.decisive(),
                "seed": preset.seed,
            },
            needs=needs,
            deps=(SKU_CROPS, IMAGE_TEXT),
            priority=1,
        ),
        Step(
            stored=CLIP_EMBEDDINGS,
            make=clip_embeddings,
            stage=EMBED,
            kinds={"pytorch", "parquet"},
            code=(ENCODERS + "embed",),
            needs=needs,
            deps=(SKU_CROPS, IMAGE_TEXT, CLIP_CHECKPOINT),
            check_specs=(embeddings_sound_spec(CLIP_EMBEDDINGS.name),),
        ),
    ]
    if preset.encoder.is_pretrained:
        frozen = Step(
            stored=FROZEN_CLIP_EMBEDDINGS,
            make=frozen_clip_embeddings,
            stage=EMBED,
            weekly=True,
            kinds={"pytorch", "parquet"},
            code=(ENCODERS + "embed",),
            config={"encoder": encoder, "seed": preset.seed},
            needs=needs,
            deps=(SKU_CROPS, IMAGE_TEXT),
            check_specs=(embeddings_sound_spec(FROZEN_CLIP_EMBEDDINGS.name),),
        )
        steps.append(frozen)
    return Group.of("encoder", preset, steps, no_leaks)


def clip_checkpoint(run: Run) -> dg.MaterializeResult:
    """Baseline 3: image and text towers fine-tuned with SKU cross-entropy, in open_clip's own format, with
    the training curve and the ids of every query used."""
    from skufp_pipeline.encoders.clip_train import fine_tune
    from skufp_pipeline.encoders.dataset import gather_training_data, text_shards
    from skufp_pipeline.training.history import learning_curve

    preset, training = run.preset, run.preset.encoder.training
    crops, texts = run.read_all(SKU_CROPS), run.read_all(IMAGE_TEXT)
    run.inputs.add(weight_inputs(preset.encoder.weight_files()))

    def build(directory: Path) -> dict[str, Any]:
        shards, progress = text_shards(texts, crops), run.progress("crops decoded")
        data, used = gather_training_data(shards, preset.prompts, training.cache_side, run.scratch, progress)
        encoder = run.models.new_encoder(preset.encoder, preset.seed)
        history = fine_tune(encoder, data, training, preset.seed, run.scratch, run.log)
        Encoder.write(directory, encoder, learning_curve(history), used if history else used.clear())
        return training_summary(data, used, history, preset.encoder.weight_files())

    result = run.produce(CLIP_CHECKPOINT, build)
    return run.done(result, curve_metadata(result.history()))


def clip_embeddings(run: Run) -> dg.MaterializeResult:
    """Unit embeddings of the shard's crops (catalog views and queries) and texts."""
    checkpoint = run.read(CLIP_CHECKPOINT)
    return _embed_shard(run, CLIP_EMBEDDINGS, lambda: run.models.load_encoder(checkpoint.folder))


def frozen_clip_embeddings(run: Run) -> dg.MaterializeResult:
    """Unit embeddings of the shard by the encoder before fine-tuning, which training has to improve on."""
    settings, seed = run.preset.encoder, run.preset.seed
    run.inputs.add(weight_inputs(settings.weight_files()))
    return _embed_shard(run, FROZEN_CLIP_EMBEDDINGS, lambda: run.models.new_encoder(settings, seed))


def _embed_shard(
    run: Run, stored: Stored[Embeddings], load_encoder: Callable[[], Any]
) -> dg.MaterializeResult:
    crops, texts, batch_size = run.read(SKU_CROPS), run.read(IMAGE_TEXT), run.preset.encoder.batch_size

    def build(directory: Path) -> dict[str, Any]:
        from skufp_pipeline.encoders.embed import embed_images, embed_text_table

        encoder, progress = load_encoder(), run.progress("crops embedded")
        images = embed_images(encoder, texts.images(), crops.path, batch_size, progress)
        return Embeddings.write(directory, images, embed_text_table(encoder, texts.every_text(), batch_size))

    result = run.produce(stored, build)
    return run.done(result, frame_metadata(result.images()), embeddings_sound(stored.name, *result.tables()))


def training_summary(
    data: Any, used: pl.DataFrame, history: Any, named: Mapping[str, str | None]
) -> dict[str, Any]:
    """Summarises the training of an image tower: weights (`named` by setting), counts, best epoch, speed."""
    from skufp_pipeline.training.history import best_epoch, speed, unscored
    from skufp_pipeline.training.images import too_few_images

    counts = {
        "weights": weights_summary(named),
        "skus": data.num_skus,
        "images": len(data.images.labels),
        "development_queries": len(data.development.labels),
    }
    if not history:
        return {**counts, **left_out(f"not fine-tuned: {too_few_images(data)}")}
    best, epoch_note = best_epoch(history), unscored(history)
    views_only = (
        None if (used["role"] == roles.TRAIN).any() else "no training queries: trained on catalog views alone"
    )
    accuracy = {} if epoch_note else {"development_accuracy": best["development_accuracy"]}
    figures = {"best_epoch": best["epoch"], **accuracy, **speed(history)}
    return {**counts, **figures, **left_out(views_only, epoch_note)}


def curve_metadata(history: list[dict[str, float]]) -> dict[str, Any]:
    """Plots and tabulates the training history of an image tower; empty if nothing was trained."""
    if not history:
        return {}
    losses = tuple(name for name in history[0] if name.endswith("loss"))
    return {
        "curve": picture(training_curves(history, losses, "development_accuracy")),
        "history": markdown_table(pl.DataFrame(history)),
    }
