"""Group `extractors`: image towers with losses of their own, and their embeddings of every crop."""

from collections.abc import Callable
from functools import update_wrapper
from pathlib import Path
from typing import Any

import dagster as dg

from skufp_pipeline.artifacts.kinds import Embeddings, ExtractorFiles, write_unused
from skufp_pipeline.artifacts.places import (
    IMAGE_TEXT,
    RAW_DATASET,
    SKU_CROPS,
    extractor_checkpoint,
    extractor_embeddings,
    extractor_onnx,
)
from skufp_pipeline.artifacts.stored import left_out
from skufp_pipeline.assets.encoder import EMBED, TRAIN, curve_metadata, training_summary, what_is_around
from skufp_pipeline.checks.encoder import embeddings_sound, embeddings_sound_spec
from skufp_pipeline.checks.extractors import beats_mean_picture, loss_falls, training_specs
from skufp_pipeline.checks.leaks import no_leaks
from skufp_pipeline.checks.off import not_measured
from skufp_pipeline.encoders.tables import no_queries
from skufp_pipeline.extractors.settings import AutoencoderSettings, ExtractorSettings
from skufp_pipeline.presets import Preset
from skufp_pipeline.show import frame_metadata, picture_file
from skufp_pipeline.steps import Group, Run, Step
from skufp_pipeline.training.weights import weight_inputs

EXTRACTORS = "skufp_pipeline.extractors."
PARITY_PHOTOS = 50
KINDS = {"clip": "openclip", "clip_vit": "openclip", "autoencoder": "pytorch"}  # of the others: timm
DOING = {  # the first sentence of each checkpoint's description
    "reid": "Baseline 1: an image-only ResNet with BNNeck, by cross-entropy and batch-hard triplets",
    "xception": "Xception with a projection, by pairs of photo and shop picture",
    "clip_vit": "The image tower of a CLIP, by pairs of photo and shop picture",
    "resnet50": "A ResNet without its head, by triplets with the hardest negatives of a batch",
    "clip": "A CLIP, by pictures and sentences",
    "vit": "A vision transformer, by the prediction of masked patches",
    "autoencoder": "A convolutional autoencoder, by the error of its reconstructions",
}


def group(preset: Preset) -> Group:
    """The steps of the extractors that the preset wants."""
    steps = [step for name in preset.extractors.wanted() for step in extractor_steps(preset, name)]
    return Group.of("extractors", preset, steps, no_leaks)


def extractor_steps(preset: Preset, name: str) -> list[Step]:
    """The steps of one extractor: it is trained, it embeds, and it is exported if its settings say so."""
    steps = [_checkpoint_step(preset, name), _embeddings_step(preset, name)]
    return [*steps, _onnx_step(preset, name)] if preset.extractors.wanted()[name].onnx else steps


def _checkpoint_step(preset: Preset, name: str) -> Step:
    stored, settings = extractor_checkpoint(name), preset.extractors.wanted()[name]
    decisive = settings.model_dump(mode="json", exclude={"batch_size", "onnx"})
    photos = (RAW_DATASET,) if settings.training.augmentation.box_jitter else ()
    return Step(
        stored=stored,
        make=_made(train, name, f"{DOING[name]}; with the training curve and the ids of every query used."),
        stage=TRAIN,
        apart=True,
        kinds={"pytorch", KINDS.get(name, "timm"), "safetensors"},
        # By full name: the families of the other extractors are no part of its code.
        code=(EXTRACTORS + "train", EXTRACTORS + "data", EXTRACTORS + name),
        config={name: decisive, "seed": preset.seed},
        needs=preset.compute.network_needs,
        deps=(SKU_CROPS, IMAGE_TEXT, *photos),
        check_specs=training_specs(stored.name, isinstance(settings, AutoencoderSettings)),
    )


def _embeddings_step(preset: Preset, name: str) -> Step:
    stored = extractor_embeddings(name)
    return Step(
        stored=stored,
        make=_made(embed, name, f"Unit embeddings of the shard's crops by `{name}`, an image-level gallery."),
        stage=EMBED,
        apart=True,
        weekly=True,
        kinds={"pytorch", "parquet"},
        code=(EXTRACTORS + "extractor", EXTRACTORS + name, "skufp_pipeline.encoders.embed"),
        needs=preset.compute.network_needs,
        deps=(SKU_CROPS, IMAGE_TEXT, extractor_checkpoint(name)),
        check_specs=(embeddings_sound_spec(stored.name),),
    )


def _onnx_step(preset: Preset, name: str) -> Step:
    return Step(
        stored=extractor_onnx(name),
        make=_made(export, name, f"The tower of `{name}` for ONNX Runtime, compared with PyTorch on photos."),
        stage="build_index",
        kinds={"onnx"},
        code=(EXTRACTORS + "extractor", EXTRACTORS + name, EXTRACTORS + "export"),
        needs=preset.compute.network_needs,
        deps=(SKU_CROPS, IMAGE_TEXT, extractor_checkpoint(name)),
    )


def _made(
    make: Callable[[Run, str], dg.MaterializeResult], name: str, description: str
) -> Callable[[Run], dg.MaterializeResult]:
    """The function of a step of the extractor `name`, with the description of its asset."""

    def made(run: Run) -> dg.MaterializeResult:
        return make(run, name)

    update_wrapper(made, make)  # the code reference is that of `make`
    made.__doc__ = description
    return made


def train(run: Run, name: str) -> dg.MaterializeResult:
    """Trains an extractor and writes it with its curve, samples of its training and the queries it used."""
    settings, stored = _settings(run, name), extractor_checkpoint(name)
    crops, texts = run.read_all(SKU_CROPS), run.read_all(IMAGE_TEXT)
    around = what_is_around(run, settings.training)
    run.inputs.add(weight_inputs(settings.weight_files()))

    def build(directory: Path) -> dict[str, Any]:
        from skufp_pipeline.encoders.dataset import text_shards
        from skufp_pipeline.extractors.data import gather_extractor_data
        from skufp_pipeline.extractors.train import train_extractor
        from skufp_pipeline.training.history import learning_curve

        shards, progress = text_shards(texts, crops), run.progress("crops decoded")
        data, used = gather_extractor_data(shards, settings, run.scratch, progress, around)
        extractor = run.models.new_extractor(settings, run.preset.seed)
        made = train_extractor(extractor, data, settings, run.preset.seed, run.scratch, run.log)
        ExtractorFiles.write(directory, extractor, learning_curve(made.history), used, made.sheet)
        files = settings.weight_files()
        summary = training_summary(data, used, made.history, files, made.quality)
        held = f"no development photos: {data.held_out} SKUs were held out" if data.held_out else None
        told = left_out(summary.get("left_out"), held)
        return {**summary, **made.figures, "quality": made.quality, **told}

    result = run.produce_or_off(stored, build, lambda folder: write_unused(folder, no_queries()))
    return run.done(result, _shown(result), *_checks(result, name, settings))


def _shown(result: ExtractorFiles) -> dict[str, Any]:
    """The curve and the samples of a training."""
    sheet = {} if result.sheet is None else {"samples": picture_file(result.sheet)}
    return {**curve_metadata(result.history(), result.summary.get("quality", "")), **sheet}


def _checks(result: ExtractorFiles, name: str, settings: ExtractorSettings) -> list[dg.AssetCheckResult]:
    asset = extractor_checkpoint(name).name
    found = [loss_falls(asset, result)]
    return [*found, beats_mean_picture(asset, result)] if isinstance(settings, AutoencoderSettings) else found


def embed(run: Run, name: str) -> dg.MaterializeResult:
    """Embeds the shard's crops by an extractor."""
    stored, batch_size = extractor_embeddings(name), _settings(run, name).batch_size
    checkpoint, crops = run.read(extractor_checkpoint(name)), run.read(SKU_CROPS)
    texts = run.read(IMAGE_TEXT)

    def build(directory: Path) -> dict[str, Any]:
        from skufp_pipeline.encoders.embed import embed_images

        extractor = run.models.load_extractor(checkpoint.needed().folder)
        progress = run.progress("crops embedded")
        images = embed_images(extractor, texts.images(), crops.path, batch_size, progress)
        return Embeddings.write(directory, images)

    result, spec = run.produce_or_off(stored, build), embeddings_sound_spec(stored.name)
    if result.off:
        return run.done(result, {}, not_measured(spec, result.off))
    return run.done(result, frame_metadata(result.images()), embeddings_sound(stored.name, result.images()))


def export(run: Run, name: str) -> dg.MaterializeResult:
    """Exports the tower of an extractor, if its embeddings of photos stay those of PyTorch."""
    checkpoint = run.read(extractor_checkpoint(name))
    crops, texts = run.read_all(SKU_CROPS), run.read_all(IMAGE_TEXT)

    def build(directory: Path) -> dict[str, Any]:
        from skufp_pipeline.encoders.dataset import text_shards, training_rows
        from skufp_pipeline.extractors.export import build_extractor_onnx

        extractor = run.models.load_extractor(checkpoint.needed().folder)
        rows, development = training_rows(text_shards(texts, crops))
        photos = [Path(path) for path in [*development["path"], *rows["path"]][:PARITY_PHOTOS]]
        return build_extractor_onnx(extractor, photos, directory)

    return run.done(run.produce_or_off(extractor_onnx(name), build), {})


def _settings(run: Run, name: str) -> ExtractorSettings:
    return run.preset.extractors.wanted()[name]
