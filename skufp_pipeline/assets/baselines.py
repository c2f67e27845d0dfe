"""Group `baselines`: the re-identification network (Baseline 1) and its embeddings of every crop."""

from pathlib import Path
from typing import Any

import dagster as dg

from skufp_pipeline.artifacts.kinds import Embeddings, Encoder, write_unused
from skufp_pipeline.artifacts.places import (
    IMAGE_TEXT,
    RAW_DATASET,
    REID_CHECKPOINT,
    REID_EMBEDDINGS,
    SKU_CROPS,
)
from skufp_pipeline.assets.encoder import (
    EMBED,
    ENCODERS,
    TRAIN,
    curve_metadata,
    training_summary,
    what_is_around,
)
from skufp_pipeline.checks.encoder import embeddings_sound, embeddings_sound_spec
from skufp_pipeline.checks.leaks import no_leaks
from skufp_pipeline.checks.off import not_measured
from skufp_pipeline.encoders.tables import no_queries
from skufp_pipeline.presets import Preset
from skufp_pipeline.show import frame_metadata
from skufp_pipeline.steps import Group, Run, Step
from skufp_pipeline.training.weights import weight_inputs

SOUND = embeddings_sound_spec(REID_EMBEDDINGS.name)


def group(preset: Preset) -> Group:
    """The steps of this group; none if the preset has no `baselines.reid`."""
    settings, needs = preset.baselines.reid, preset.compute.network_needs
    if settings is None:
        return Group.of("baselines", preset, [])
    photos = (RAW_DATASET,) if settings.training.augmentation.box_jitter else ()
    steps = [
        Step(
            stored=REID_CHECKPOINT,
            make=reid_checkpoint,
            stage=TRAIN,
            apart=True,
            kinds={"pytorch", "timm", "safetensors"},
            code=(ENCODERS + "reid_train", ENCODERS + "dataset"),
            config={"reid": settings.model_dump(mode="json", exclude={"batch_size"}), "seed": preset.seed},
            needs=needs,
            deps=(SKU_CROPS, IMAGE_TEXT, *photos),
        ),
        Step(
            stored=REID_EMBEDDINGS,
            make=reid_embeddings,
            stage=EMBED,
            weekly=True,
            kinds={"pytorch", "parquet"},
            code=(ENCODERS + "reid", ENCODERS + "embed"),
            needs=needs,
            deps=(SKU_CROPS, IMAGE_TEXT, REID_CHECKPOINT),
            check_specs=(SOUND,),
        ),
    ]
    return Group.of("baselines", preset, steps, no_leaks)


def reid_checkpoint(run: Run) -> dg.MaterializeResult:
    """Baseline 1: an image-only ResNet with BNNeck, trained by cross-entropy and batch-hard triplets, with
    the training curve and the ids of every query used."""
    from skufp_pipeline.encoders.dataset import gather_training_images, text_shards
    from skufp_pipeline.encoders.reid_train import train_reid
    from skufp_pipeline.training.history import learning_curve

    settings, seed = run.preset.baselines.reid, run.preset.seed
    assert settings is not None
    crops, texts = run.read_all(SKU_CROPS), run.read_all(IMAGE_TEXT)
    around = what_is_around(run, settings.training)
    run.inputs.add(weight_inputs(settings.weight_files()))

    def build(directory: Path) -> dict[str, Any]:
        shards, progress = text_shards(texts, crops), run.progress("crops decoded")
        side = settings.training.cache_side
        data, used = gather_training_images(shards, side, run.scratch, progress, around)
        encoder = run.models.new_reid(settings, seed)
        history = train_reid(encoder, data, settings.training, seed, run.scratch, run.log)
        Encoder.write(directory, encoder, learning_curve(history), used)
        return training_summary(data, used, history, settings.weight_files())

    result = run.produce_or_off(REID_CHECKPOINT, build, lambda folder: write_unused(folder, no_queries()))
    return run.done(result, curve_metadata(result.history()))


def reid_embeddings(run: Run) -> dg.MaterializeResult:
    """Baseline 1's unit embeddings of the shard's crops; its catalogue rows are the image-level gallery."""
    settings = run.preset.baselines.reid
    assert settings is not None
    checkpoint, crops, texts = run.read(REID_CHECKPOINT), run.read(SKU_CROPS), run.read(IMAGE_TEXT)

    def build(directory: Path) -> dict[str, Any]:
        from skufp_pipeline.encoders.embed import embed_images

        encoder, progress = run.models.load_reid(checkpoint.needed().folder), run.progress("crops embedded")
        images = embed_images(encoder, texts.images(), crops.path, settings.batch_size, progress)
        return Embeddings.write(directory, images)

    result = run.produce_or_off(REID_EMBEDDINGS, build)
    if result.off:
        return run.done(result, {}, not_measured(SOUND, result.off))
    return run.done(
        result, frame_metadata(result.images()), embeddings_sound(REID_EMBEDDINGS.name, result.images())
    )
