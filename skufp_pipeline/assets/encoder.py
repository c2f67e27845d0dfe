"""Group `encoder`: CLIP fine-tuned on SKUs (Baseline 3), and the embeddings of crops and texts."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.kinds import Embeddings, Encoder
from skufp_pipeline.artifacts.places import (
    CLIP_CHECKPOINT,
    CLIP_EMBEDDINGS,
    FROZEN_CLIP_CHECKPOINT,
    FROZEN_CLIP_EMBEDDINGS,
    IMAGE_TEXT,
    RAW_DATASET,
    SKU_CROPS,
)
from skufp_pipeline.artifacts.stored import Stored, left_out
from skufp_pipeline.checks.encoder import embeddings_sound, embeddings_sound_spec
from skufp_pipeline.checks.leaks import no_leaks
from skufp_pipeline.datasets import table as roles
from skufp_pipeline.evaluation.figures import adaptation_curves, training_curves
from skufp_pipeline.presets import Preset
from skufp_pipeline.show import frame_metadata, markdown_table, picture, picture_file
from skufp_pipeline.steps import Group, Run, Step
from skufp_pipeline.training.settings import TrainingSettings
from skufp_pipeline.training.weights import weight_inputs, weights_summary

ENCODERS = "skufp_pipeline.encoders."
TRAIN, EMBED = "train_models", "embed_shards"


def group(preset: Preset) -> Group:
    """The steps of this group; the frozen encoder is included only if it is pretrained."""
    needs = preset.compute.network_needs
    unneeded = {"training", "adaptation", "batch_size"}
    if preset.encoder.white_balance == 0:
        unneeded.add("white_balance")
    encoder = preset.encoder.model_dump(mode="json", exclude=unneeded)
    steps = [
        Step(
            stored=CLIP_CHECKPOINT,
            make=clip_checkpoint,
            stage=TRAIN,
            apart=True,
            kinds={"pytorch", "openclip", "safetensors"},
            code=tuple(ENCODERS + module for module in _training_modules(preset)),
            config={
                "encoder": encoder,
                **_training_config(preset),
                "prompts": preset.prompts.decisive(),
                "seed": preset.seed,
            },
            needs=needs,
            deps=(SKU_CROPS, IMAGE_TEXT, *_anchors_of(preset), *_photos_of(preset)),
            priority=1,
        ),
        Step(
            stored=CLIP_EMBEDDINGS,
            make=clip_embeddings,
            stage=EMBED,
            kinds={"pytorch", "parquet"},
            code=(ENCODERS + "embed",),
            needs=needs,
            deps=(SKU_CROPS, IMAGE_TEXT, CLIP_CHECKPOINT, *_anchors_of(preset)),
            check_specs=(embeddings_sound_spec(CLIP_EMBEDDINGS.name),),
            priority=1 if preset.first_index else 0,
        ),
    ]
    if preset.encoder.is_pretrained:
        steps += _frozen_steps(preset, encoder)
    return Group.of("encoder", preset, steps, no_leaks)


def _anchors_of(preset: Preset) -> tuple[Stored[Any], ...]:
    """The frozen tower's vectors of the catalogue, which an adapted tower brings photos to."""
    return () if preset.encoder.adaptation is None else (FROZEN_CLIP_EMBEDDINGS,)


def _photos_of(preset: Preset) -> tuple[Stored[Any], ...]:
    """The whole photos, if training moves the boxes of items in them."""
    adapted = preset.encoder.adaptation is not None
    return () if adapted or not preset.encoder.training.augmentation.box_jitter else (RAW_DATASET,)


def what_is_around(run: Run, settings: TrainingSettings) -> Any:
    """Where training reads what is around the items (`Around`); None if it moves no boxes."""
    from skufp_pipeline.encoders.dataset import Around

    jitter = settings.augmentation.box_jitter
    return Around(run.preset.dataset.find(run.read(RAW_DATASET).path), jitter) if jitter else None


def _training_config(preset: Preset) -> dict[str, Any]:
    """What decides how the encoder is trained: it is adapted, or else fine-tuned."""
    settings = preset.encoder
    if settings.adaptation is None:
        return {"training": settings.training.model_dump(mode="json")}
    synthetic = preset.synthetic.model_dump(mode="json", exclude={"photos"})
    return {"adaptation": settings.adaptation.model_dump(mode="json"), "synthetic": synthetic}


def _training_modules(preset: Preset) -> tuple[str, ...]:
    if preset.encoder.adaptation is None:
        return ("clip_train", "dataset", "text_alignment")
    return ("interpolation", "dataset", "text_alignment")


def _frozen_steps(preset: Preset, encoder: Mapping[str, Any]) -> list[Step]:
    """The encoder before fine-tuning (Baseline 2), and what it embeds."""
    needs = preset.compute.network_needs
    checkpoint = Step(
        stored=FROZEN_CLIP_CHECKPOINT,
        make=frozen_clip_checkpoint,
        stage="load_encoder",
        kinds={"pytorch", "openclip", "safetensors"},
        code=(ENCODERS + "text_alignment",),
        config={"encoder": encoder, "prompts": preset.prompts.decisive(), "seed": preset.seed},
        needs=needs,
        deps=(SKU_CROPS, IMAGE_TEXT),
        priority=3,
    )
    embeddings = Step(
        stored=FROZEN_CLIP_EMBEDDINGS,
        make=frozen_clip_embeddings,
        stage="embed_frozen",
        weekly=preset.encoder.adaptation is None,  # an adapted encoder's catalog views need those of new SKUs
        kinds={"pytorch", "parquet"},
        code=(ENCODERS + "embed",),
        needs=needs,
        deps=(SKU_CROPS, IMAGE_TEXT, FROZEN_CLIP_CHECKPOINT),
        check_specs=(embeddings_sound_spec(FROZEN_CLIP_EMBEDDINGS.name),),
        priority=3,
    )
    return [checkpoint, embeddings]


def clip_checkpoint(run: Run) -> dg.MaterializeResult:
    """Baseline 3: image and text towers fine-tuned with SKU cross-entropy, or the image tower adapted on
    synthetic photos, in open_clip's own format, with the training curve and the ids of every query used."""
    from skufp_pipeline.encoders.dataset import text_shards

    crops, texts = run.read_all(SKU_CROPS), run.read_all(IMAGE_TEXT)
    frozen = [shard for stored in _anchors_of(run.preset) for shard in run.read_all(stored)]
    around = what_is_around(run, run.preset.encoder.training) if _photos_of(run.preset) else None
    run.inputs.add(weight_inputs(run.preset.encoder.weight_files()))
    run.inputs.add(run.preset.synthetic.inputs() if frozen else {})

    def build(directory: Path) -> dict[str, Any]:
        encoder = run.models.new_encoder(run.preset.encoder, run.preset.seed)
        shards = text_shards(texts, crops)
        if frozen:
            return _adapt(run, encoder, shards, pl.concat([shard.images() for shard in frozen]), directory)
        return _fine_tune(run, encoder, shards, around, directory)

    result = run.produce(CLIP_CHECKPOINT, build)
    if result.adaptation() is not None:
        return run.done(result, adaptation_metadata(result))
    return run.done(result, curve_metadata(result.history()))


def _fine_tune(run: Run, encoder: Any, shards: Sequence[Any], around: Any, directory: Path) -> dict[str, Any]:
    """Fine-tunes the encoder on SKU labels and writes it."""
    from skufp_pipeline.encoders.clip_train import fine_tune
    from skufp_pipeline.encoders.dataset import gather_training_data
    from skufp_pipeline.training.history import learning_curve

    preset, settings, progress = run.preset, run.preset.encoder.training, run.progress("crops decoded")
    places, balance = (settings.cache_side, run.scratch, progress), preset.encoder.white_balance
    data, used = gather_training_data(shards, preset.prompts, *places, balance, around)
    history = fine_tune(encoder, data, settings, preset.seed, run.scratch, run.log)
    aligned = _align(run, encoder, shards)
    Encoder.write(directory, encoder, learning_curve(history), used if history else used.clear())
    return {**training_summary(data, used, history, preset.encoder.weight_files()), **aligned}


def _adapt(
    run: Run, encoder: Any, shards: Sequence[Any], frozen: pl.DataFrame, directory: Path
) -> dict[str, Any]:
    """Adapts the image tower on synthetic photos, and on customers' where there are some, and writes it."""
    from skufp_pipeline.encoders.adapt import sheet_of_photos
    from skufp_pipeline.encoders.dataset import gather_adaptation_data
    from skufp_pipeline.encoders.interpolation import adapt_and_go_back

    preset, settings, synthetic = run.preset, run.preset.encoder.adaptation, run.preset.synthetic
    assert settings is not None
    places = settings.cache_side, synthetic.backgrounds, run.scratch
    data, used = gather_adaptation_data(shards, frozen, *places, run.progress("pictures decoded"))
    adapted = adapt_and_go_back(encoder, data, settings, synthetic.camera, preset.seed, run.scratch, run.log)
    aligned = _align(run, encoder, shards, frozen)
    sheet = sheet_of_photos(data, synthetic.camera, preset.seed)
    used = used if adapted.history else used.clear()
    Encoder.write(directory, encoder, adapted.history, used, adapted.table(), sheet)
    counts = {"skus": data.num_skus, "pictures": len(data.pictures), "photos": len(data.photos)}
    weights = weights_summary(preset.encoder.weight_files())
    figures = {"weights": weights, **counts, "steps": len(adapted.history), "alpha": adapted.alpha}
    return {**figures, **aligned, **left_out(*adapted.left_out(used.height))}


def _align(
    run: Run, encoder: Any, shards: Sequence[Any], frozen: pl.DataFrame | None = None
) -> dict[str, int]:
    """Aligns a frozen text model with the image tower, where the preset has one."""
    from skufp_pipeline.encoders.text_alignment import align_to_catalogue

    tables = [(shard.image_text, shard.catalog_texts, shard.crop_dir) for shard in shards]
    settings, seed = run.preset.encoder, run.preset.seed
    return align_to_catalogue(encoder, tables, settings, seed, run.progress("pictures embedded"), frozen)


def clip_embeddings(run: Run) -> dg.MaterializeResult:
    """Unit embeddings of the shard's crops (catalog views, queries) and texts. A catalog view's by an adapted
    encoder is the mean of its vector and the frozen encoder's."""
    checkpoint = run.read(CLIP_CHECKPOINT)
    frozen = next((run.read(stored) for stored in _anchors_of(run.preset)), None)
    return _embed_shard(run, CLIP_EMBEDDINGS, lambda: run.models.load_encoder(checkpoint.folder), frozen)


def frozen_clip_checkpoint(run: Run) -> dg.MaterializeResult:
    """The encoder as it was pretrained; a frozen text model is aligned with the catalogue's pictures."""
    from skufp_pipeline.encoders.dataset import text_shards
    from skufp_pipeline.encoders.tables import no_queries

    settings, seed = run.preset.encoder, run.preset.seed
    crops, texts = run.read_all(SKU_CROPS), run.read_all(IMAGE_TEXT)
    run.inputs.add(weight_inputs(settings.weight_files()))

    def build(directory: Path) -> dict[str, Any]:
        encoder = run.models.new_encoder(settings, seed)
        aligned = _align(run, encoder, text_shards(texts, crops))
        Encoder.write(directory, encoder, [], no_queries())
        weights = weights_summary(settings.weight_files())
        return {"weights": weights, **aligned, **left_out("as pretrained: no query was used")}

    return run.done(run.produce(FROZEN_CLIP_CHECKPOINT, build), {})


def frozen_clip_embeddings(run: Run) -> dg.MaterializeResult:
    """Unit embeddings of the shard by the encoder before fine-tuning, which training has to improve on."""
    checkpoint = run.read(FROZEN_CLIP_CHECKPOINT)
    return _embed_shard(run, FROZEN_CLIP_EMBEDDINGS, lambda: run.models.load_encoder(checkpoint.folder))


def _embed_shard(
    run: Run,
    stored: Stored[Embeddings],
    load_encoder: Callable[[], Any],
    frozen: Embeddings | None = None,
) -> dg.MaterializeResult:
    crops, texts, batch_size = run.read(SKU_CROPS), run.read(IMAGE_TEXT), run.preset.encoder.batch_size

    def build(directory: Path) -> dict[str, Any]:
        from skufp_pipeline.encoders.embed import embed_images, embed_text_table, with_anchors

        encoder, progress = load_encoder(), run.progress("crops embedded")
        images = embed_images(encoder, texts.images(), crops.path, batch_size, progress)
        images = images if frozen is None else with_anchors(images, frozen.images())
        return Embeddings.write(directory, images, embed_text_table(encoder, texts.every_text(), batch_size))

    result = run.produce(stored, build)
    return run.done(result, frame_metadata(result.images()), embeddings_sound(stored.name, *result.tables()))


def training_summary(
    data: Any,
    used: pl.DataFrame,
    history: Any,
    named: Mapping[str, str | None],
    quality: str = "development_accuracy",
) -> dict[str, Any]:
    """Summarises the training of an image tower: weights (`named` by setting), counts, best epoch, speed.

    `quality` is the score that chose the epoch.
    """
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
    best, epoch_note = best_epoch(history, quality), unscored(history, quality)
    views_only = (
        None if (used["role"] == roles.TRAIN).any() else "no training queries: trained on catalog views alone"
    )
    score = {} if epoch_note else {quality: best[quality]}
    figures = {"best_epoch": best["epoch"], **score, **speed(history)}
    return {**counts, **figures, **left_out(views_only, epoch_note)}


def curve_metadata(history: list[dict[str, float]], quality: str = "development_accuracy") -> dict[str, Any]:
    """Plots and tabulates the training history of an image tower; empty if nothing was trained."""
    if not history:
        return {}
    losses = tuple(name for name in history[0] if name.endswith("loss"))
    return {
        "curve": picture(training_curves(history, losses, quality)),
        "history": markdown_table(pl.DataFrame(history)),
    }


def adaptation_metadata(result: Encoder) -> dict[str, Any]:
    """Plots the loss and how each alpha was judged, and shows synthetic photos with the product's box."""
    judged = result.adaptation()
    assert judged is not None
    if judged.is_empty():
        return {}
    return {
        "curve": picture(adaptation_curves(result.history(), judged, result.summary["alpha"])),
        "judged": markdown_table(judged),
        "synthetic_photos": picture_file(result.sheet),
    }
