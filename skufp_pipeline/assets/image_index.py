"""Group `image_index`: indexes of one row per catalogue picture, one for each encoder that is named."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.kinds import Embeddings, StageEmbeddings
from skufp_pipeline.artifacts.places import (
    ANNOTATIONS,
    DETECTOR_CHECKPOINT,
    ENCODER,
    IMAGE_TEXT,
    SKU_CROPS,
    STAGE_EMBEDDINGS,
    STAGE_MODELS,
    image_encoder,
    image_index,
)
from skufp_pipeline.artifacts.stored import Stored
from skufp_pipeline.assets.index import STAGE, development_recall, released
from skufp_pipeline.assets.multi_stage import has_models
from skufp_pipeline.checks.off import not_measured
from skufp_pipeline.checks.release import RECALL, release_checks
from skufp_pipeline.compute import Needs
from skufp_pipeline.datasets.table import GALLERY
from skufp_pipeline.encoders.stage_settings import MultiStageSettings
from skufp_pipeline.fingerprint.tables import EmbeddingTables
from skufp_pipeline.presets import Preset
from skufp_pipeline.search.image_bundle import build_image_index
from skufp_pipeline.search.images import ImageIndex
from skufp_pipeline.search.versions import Versions
from skufp_pipeline.steps import Group, Run, Step


def group(preset: Preset) -> Group:
    """The steps of this group; none if the preset has no `image_index`."""
    settings = preset.image_index
    return Group.of("image_index", preset, [_step(preset, name) for name in settings.of] if settings else [])


def _step(preset: Preset, name: str) -> Step:
    settings, stored = preset.image_index, image_index(name)
    assert settings is not None
    return Step(
        stored=stored,
        make=images_of_products,
        stage=STAGE,
        weekly=name != ENCODER,  # as the embeddings
        kinds={"numpy", "parquet"},
        code=(
            "skufp_pipeline.search.image_bundle",
            "skufp_pipeline.search.judging",
            *(["skufp_pipeline.query.stage_weights"] if _stages_of(preset, name) else []),
        ),
        config={
            "image_index": settings.model_dump(exclude={"of"}),
            "segment_rows": preset.index_segment_rows,
            "picture_side": preset.index_picture_side,
            "lexical": _lexical(preset, name),
            **_stages_config(preset, name),
        },
        needs=Needs(preset.compute.cores, preset.compute.memory_gib),
        deps=(
            ANNOTATIONS, SKU_CROPS, IMAGE_TEXT, image_encoder(name)[1],
            *query_encoders_of(preset, name), *_embedded(preset, name), *_reranker(preset, name)[1:],
        ),
        check_specs=tuple(release_checks(stored.name)),
        fresh_hours=preset.automation.index_fresh_hours if name == ENCODER else None,
    )  # fmt: skip


def images_of_products(run: Run) -> dg.MaterializeResult:
    """One row per catalogue picture; a product scores what its best picture scores. A candidate that passes
    its checks is put in use, and asked by `skufp search --index NAME`."""
    preset, settings, name = run.preset, run.preset.image_index, run.step.stored.name.removesuffix("_index")
    assert settings is not None
    encoders = [run.read(stored) for stored in query_encoders_of(preset, name)]
    embeddings, texts = run.read_all(image_encoder(name)[1]), run.read_all(IMAGE_TEXT)
    items = run.read(ANNOTATIONS)
    of_stages = _embedded(preset, name), _reranker(preset, name)[1:]
    stages = [[shard for stored in part for shard in run.read_all(stored)] for part in of_stages]
    run.inputs.crop_files()

    def build(directory: Path) -> dict[str, Any]:
        encoders[0].needed()
        gallery = EmbeddingTables.images_of(embeddings).filter(pl.col("role") == GALLERY)
        tables = {SKU_CROPS.key_in(run.store, text.shard): text.images() for text in texts}
        references = {encoders[0].artifact.manifest.artifact: encoders[0].digest}
        sizes = preset.index_segment_rows, preset.index_picture_side, run.store.local_path, items.skus()
        lexical = preset.search.lexical if name == ENCODER else None
        index = build_image_index(directory, gallery, tables, references, name, settings, *sizes, lexical)
        counts = {"skus": len(index), "pictures": len(index.pictures), "dimension": index.dimension}
        counts |= _write_stages(directory, index, embeddings, stages[0], stages[1], preset)
        return {**counts, RECALL: development_recall(index, embeddings)}

    candidate = run.produce_or_off(image_index(name), build)
    if candidate.off:
        return run.done(candidate, {}, *(not_measured(spec, candidate.off) for spec in run.step.check_specs))
    return released(run, candidate, Versions(run.store, name), encoders, items)


def query_encoders_of(preset: Preset, name: str) -> tuple[Stored[Any], ...]:
    """The results that turn photos into vectors; they are kept with each version of the index."""
    detector = (DETECTOR_CHECKPOINT,) if preset.detector else ()
    models = (STAGE_MODELS,) if _embedded(preset, name) else ()
    return (image_encoder(name)[0], *detector, *models, *_reranker(preset, name)[:1])


def _stages_of(preset: Preset, name: str) -> MultiStageSettings | None:
    """The stages that follow the search in this index."""
    return preset.multi_stage if preset.multi_stage and preset.multi_stage.index == name else None


def _embedded(preset: Preset, name: str) -> tuple[Stored[StageEmbeddings], ...]:
    return (STAGE_EMBEDDINGS,) if has_models(_stages_of(preset, name)) else ()


def _reranker(preset: Preset, name: str) -> tuple[Stored[Any], ...]:
    """Checkpoint and embeddings of the extractor that ranks the answers of this index anew, if any."""
    stages = _stages_of(preset, name)
    extractor = stages.rerank.extractor if stages and stages.rerank else None
    return () if extractor is None else image_encoder(extractor)


def _stages_config(preset: Preset, name: str) -> dict[str, Any]:
    stages = _stages_of(preset, name)
    if stages is None:
        return {}
    captions = preset.prompts.captions if stages.captions else None
    return {
        "multi_stage": stages.model_dump(mode="json", exclude={"rerank": {"batch_size"}}),
        "captions": None if captions is None else captions.model_dump(exclude={"batch_size"}),
    }


def _write_stages(
    directory: Path,
    index: ImageIndex,
    embeddings: Sequence[Embeddings],
    shards: Sequence[StageEmbeddings],
    reranked: Sequence[Embeddings],
    preset: Preset,
) -> dict[str, Any]:
    """Adds the stages to a bundle, if this index has any; returns their part of its summary."""
    settings = _stages_of(preset, index.of)
    if settings is None:
        return {}
    from skufp_pipeline.query.stage_weights import write_multi_stage

    texts, pictures = (
        pl.concat([table for shard in shards if (table := read(shard)) is not None]) if wanted else None
        for read, wanted in (
            (StageEmbeddings.texts, settings.captions),
            (StageEmbeddings.pictures, settings.plain_reranker),
        )
    )
    if reranked:
        pictures = EmbeddingTables.images_of([shard.needed() for shard in reranked])
    images = EmbeddingTables.images_of(embeddings)
    return write_multi_stage(directory, index, images, texts, pictures, settings, preset.prompts.captions)


def _lexical(preset: Preset, name: str) -> dict[str, Any] | None:
    """How words count; an encoder of pictures alone is asked no texts."""
    lexical = preset.search.lexical if name == ENCODER else None
    return None if lexical is None else lexical.model_dump()
