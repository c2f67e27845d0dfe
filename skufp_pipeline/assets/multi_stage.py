"""Group `multi_stage`: models of the stages after a search in an index of pictures, their embeddings."""

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.kinds import StageEmbeddings, StageModels
from skufp_pipeline.artifacts.places import ENCODER, IMAGE_TEXT, SKU_CROPS, STAGE_EMBEDDINGS, STAGE_MODELS
from skufp_pipeline.assets.encoder import EMBED, ENCODERS
from skufp_pipeline.datasets.table import DEVELOPMENT, GALLERY, item_id
from skufp_pipeline.encoders.stage_settings import MultiStageSettings
from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.presets import Preset
from skufp_pipeline.show import frame_metadata
from skufp_pipeline.steps import Group, Run, Step
from skufp_pipeline.training.weights import weight_inputs, weights_summary


def group(preset: Preset) -> Group:
    """The steps of this group; none if no stage of the preset has a model."""
    settings, needs = preset.multi_stage, preset.compute.network_needs
    if not has_models(settings):
        return Group.of("multi_stage", preset, [])
    models = Step(
        stored=STAGE_MODELS,
        make=stage_models,
        stage="load_stage_models",
        kinds={"pytorch", "timm", "safetensors"},
        code=(ENCODERS + "sentences", ENCODERS + "timm_tower"),
        config={"models": models_of(settings), "seed": preset.seed},
        needs=needs,
    )
    embeddings = Step(
        stored=STAGE_EMBEDDINGS,
        make=stage_embeddings,
        stage=EMBED,
        weekly=settings is not None and settings.index != ENCODER,  # as the index
        kinds={"pytorch", "parquet"},
        code=(ENCODERS + "sentences", ENCODERS + "timm_tower", ENCODERS + "embed"),
        config={"of": settings.captions.of if settings and settings.captions else None},
        needs=needs,
        deps=(SKU_CROPS, IMAGE_TEXT, STAGE_MODELS),
    )
    return Group.of("multi_stage", preset, [models, embeddings])


def has_models(settings: MultiStageSettings | None) -> bool:
    """Whether a stage needs a model of its own."""
    return settings is not None and bool(settings.captions or settings.plain_reranker)


def models_of(settings: MultiStageSettings | None) -> dict[str, Any]:
    """What decides the models."""
    if settings is None:
        return {}
    kept: dict[str, Any] = {"captions": {"text_model"}}
    if settings.plain_reranker is not None:
        kept["rerank"] = {"model", "pretrained", "image_size"}
    return settings.model_dump(mode="json", include=kept)


def stage_models(run: Run) -> dg.MaterializeResult:
    """The text model and the re-ranker of the stages after the search, as they are, in their own formats;
    they are kept with each version of the index that uses them."""
    settings = run.preset.multi_stage
    assert settings is not None
    run.inputs.add(weight_inputs(settings.weight_files()))

    def build(directory: Path) -> dict[str, Any]:
        captions, rerank = settings.captions, settings.plain_reranker
        sentences = run.models.sentences(captions.text_model) if captions else None
        tower = run.models.new_timm_tower(rerank, run.preset.seed) if rerank else None
        StageModels.write(directory, sentences, tower)
        return {"weights": weights_summary(settings.weight_files())}

    return run.done(run.produce(STAGE_MODELS, build), {})


def stage_embeddings(run: Run) -> dg.MaterializeResult:
    """Embeddings of the shard's catalogue pictures and development photos: by the re-ranker, and of their
    captions (of the catalogue's texts, if the preset says so) by the text model."""
    settings = run.preset.multi_stage
    assert settings is not None
    models, crops, texts = run.read(STAGE_MODELS), run.read(SKU_CROPS), run.read(IMAGE_TEXT)

    def build(directory: Path) -> dict[str, Any]:
        from skufp_pipeline.encoders.embed import embed_images
        from skufp_pipeline.encoders.sentences import load_sentences, saved
        from skufp_pipeline.encoders.timm_tower import load_timm_tower

        device, progress = run.models.torch_device(), run.progress("pictures embedded")
        rows = texts.images().filter(pl.col("role").is_in([GALLERY, DEVELOPMENT]))
        said = pictures = None
        if (rerank := settings.plain_reranker) is not None:
            tower = load_timm_tower(models.reranker, device)
            pictures = embed_images(tower, rows, crops.path, rerank.batch_size, progress)
        if settings.captions is not None:
            said = spoken(rows, settings.captions.of)
            words = load_sentences(saved(models.sentences), device).embed(said["text"].to_list())
            said = said.with_columns(embedding_column(words))
        return StageEmbeddings.write(directory, said, pictures)

    result = run.produce(STAGE_EMBEDDINGS, build)
    shown = result.pictures() if settings.plain_reranker else result.texts()
    return run.done(result, {} if shown is None else frame_metadata(shown))


def spoken(rows: pl.DataFrame, of: str) -> pl.DataFrame:
    """The texts to compare: of a photo its caption, of a catalogue picture that or the catalogue's text; none
    where a caption is empty."""
    catalogue = pl.col("text_captions" if of == "captions" else "text")
    text = pl.when(pl.col("role") == GALLERY).then(catalogue).otherwise("text_captions").alias("text")
    return rows.select(item_id(), "sku_id", "split", "role", text).drop_nulls("text")
