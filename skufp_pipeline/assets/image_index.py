"""Group `image_index`: indexes of one row per catalogue picture, one for each encoder that is named."""

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.places import (
    ANNOTATIONS,
    DETECTOR_CHECKPOINT,
    ENCODER,
    IMAGE_TEXT,
    SKU_CROPS,
    image_encoder,
    image_index,
)
from skufp_pipeline.artifacts.stored import Stored
from skufp_pipeline.assets.index import STAGE, development_recall, released
from skufp_pipeline.checks.off import not_measured
from skufp_pipeline.checks.release import RECALL, release_checks
from skufp_pipeline.compute import Needs
from skufp_pipeline.datasets.table import GALLERY
from skufp_pipeline.fingerprint.tables import EmbeddingTables
from skufp_pipeline.presets import Preset
from skufp_pipeline.search.image_bundle import build_image_index
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
        code=("skufp_pipeline.search.image_bundle", "skufp_pipeline.search.judging"),
        config={
            "image_index": settings.model_dump(exclude={"of"}),
            "segment_rows": preset.index_segment_rows,
            "picture_side": preset.index_picture_side,
            "lexical": _lexical(preset, name),
        },
        needs=Needs(preset.compute.cores, preset.compute.memory_gib),
        deps=(ANNOTATIONS, SKU_CROPS, IMAGE_TEXT, image_encoder(name)[1], *_query_encoders(preset, name)),
        check_specs=tuple(release_checks(stored.name)),
        fresh_hours=preset.automation.index_fresh_hours if name == ENCODER else None,
    )


def images_of_products(run: Run) -> dg.MaterializeResult:
    """One row per catalogue picture; a product scores what its best picture scores. A candidate that passes
    its checks is put in use, and asked by `skufp search --index NAME`."""
    preset, settings, name = run.preset, run.preset.image_index, run.step.stored.name.removesuffix("_index")
    assert settings is not None
    encoders = [run.read(stored) for stored in _query_encoders(preset, name)]
    embeddings, texts, items = (
        run.read_all(image_encoder(name)[1]),
        run.read_all(IMAGE_TEXT),
        run.read(ANNOTATIONS),
    )
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
        return {**counts, RECALL: development_recall(index, embeddings)}

    candidate = run.produce_or_off(image_index(name), build)
    if candidate.off:
        return run.done(candidate, {}, *(not_measured(spec, candidate.off) for spec in run.step.check_specs))
    return released(run, candidate, Versions(run.store, name), encoders, items)


def _query_encoders(preset: Preset, name: str) -> tuple[Stored[Any], ...]:
    """The results that turn photos into vectors; they are kept with each version of the index."""
    return (image_encoder(name)[0], *((DETECTOR_CHECKPOINT,) if preset.detector else ()))


def _lexical(preset: Preset, name: str) -> dict[str, Any] | None:
    """How words count; an encoder of pictures alone is asked no texts."""
    lexical = preset.search.lexical if name == ENCODER else None
    return None if lexical is None else lexical.model_dump()
