"""The report on indexes of pictures; in the graph only where the preset has any."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.kinds import ImageSearchReport, SearchIndex
from skufp_pipeline.artifacts.places import (
    ANNOTATIONS,
    CLIP_EMBEDDINGS,
    IMAGE_SEARCH_REPORT,
    RAW_DATASET,
    SEARCH_INDEX,
    SKU_CROPS,
    image_index,
)
from skufp_pipeline.artifacts.stored import Stored
from skufp_pipeline.assets.image_index import query_encoders_of
from skufp_pipeline.assets.index import query_encoders
from skufp_pipeline.compute import Needs
from skufp_pipeline.errors import TooLittleError
from skufp_pipeline.presets import Preset
from skufp_pipeline.steps import Group, Run, Step

Opened = tuple[Any, Path]  # a query engine and the folder of its index


def group(preset: Preset) -> Group:
    """The one step of this group; none without indexes of pictures."""
    if preset.image_index is None:
        return Group.of("evaluation", preset, [])
    report = Step(
        stored=IMAGE_SEARCH_REPORT,
        make=image_search_report,
        stage="build_index",
        weekly=True,
        kinds={"numpy", "parquet"},
        code=("skufp_pipeline.evaluation.image_search", "skufp_pipeline.evaluation.assemble"),
        config={
            "evaluation": preset.evaluation.model_dump(include={"resamples", "stage_queries"}),
            "seed": preset.seed,
            "query_encoder": preset.query_encoder.model_dump(mode="json"),
        },
        needs=Needs(preset.compute.cores, preset.compute.memory_gib),
        deps=tuple(dict.fromkeys((ANNOTATIONS, RAW_DATASET, SKU_CROPS, CLIP_EMBEDDINGS, *_asked(preset)))),
    )
    return Group.of("evaluation", preset, [report])


def image_search_report(run: Run) -> dg.MaterializeResult:
    """R@1, 3, 5 and 10 of every index of pictures beside the fingerprints, and of every stage after the
    search, with paired intervals, milliseconds and bytes."""
    from skufp_pipeline.evaluation import image_search

    preset, crop_of = run.preset, run.inputs.crop_files()
    items, raw, embeddings = run.read(ANNOTATIONS), run.read(RAW_DATASET), run.read_all(CLIP_EMBEDDINGS)
    found = {stored.name: run.read(stored) for stored in _asked(preset)}

    def build(directory: Path) -> dict[str, Any]:
        from skufp_pipeline.evaluation.assemble import asked_photos
        from skufp_pipeline.fingerprint.tables import EmbeddingTables

        images, settings = EmbeddingTables.images_of(embeddings), preset.evaluation
        photos = asked_photos(images, crop_of, settings.stage_queries)
        if not photos:
            raise TooLittleError("no customer's photo is held out for evaluation")
        engines = _engines(run, found)
        chain = _chain(run, found, items.items(), preset.dataset.find(raw.path))
        draws = settings.resamples, preset.seed
        figures = image_search.judge_systems(*engines, photos, chain, *draws)
        ImageSearchReport.write(directory, figures)
        return {"recall@1": image_search.headline(figures)}

    result = run.produce_or_off(IMAGE_SEARCH_REPORT, build)
    if result.off:
        return run.done(result, {})
    return run.done(result, {"tables": dg.MetadataValue.md(image_search.markdown_tables(result.figures()))})


def _engines(run: Run, found: Mapping[str, Any]) -> tuple[Opened, dict[str, Opened]]:
    """The engine of the fingerprints and those of the indexes that are not off."""
    plain = {"use_policy": "off", "use_look_twice": False}
    fingerprints = _opened(run, found[SEARCH_INDEX.name], settings=run.preset.query_encoder, **plain)
    readers = {name: found[image_index(name).name] for name in _names(run.preset)}
    return fingerprints, {
        name: _opened(run, reader, name=name, **plain) for name, reader in readers.items() if not reader.off
    }


def _chain(
    run: Run, found: Mapping[str, Any], items: pl.DataFrame, find: Callable[[str], Path]
) -> tuple[Any, Path] | None:
    """The index with stages after its search, and its folder; None without one."""
    from skufp_pipeline.evaluation.image_search import chain_of

    stages = run.preset.multi_stage
    if stages is None or found[image_index(stages.index).name].off:
        return None
    engine, folder = _opened(run, found[image_index(stages.index).name], name=stages.index, all_stages=True)
    return chain_of(engine, items, find, run.preset.evaluation), folder


def _opened(run: Run, reader: SearchIndex, **options: Any) -> Opened:
    """The engine of the version that was read, whether it is in use or not, and its folder."""
    from skufp_pipeline.query.engine import QueryEngine
    from skufp_pipeline.training.device import pick_device

    version = reader.artifact.manifest.recipe.digest
    return QueryEngine.open(run.store, pick_device("cpu"), version=version, **options), reader.path


def _names(preset: Preset) -> list[str]:
    return preset.image_index.of if preset.image_index else []


def _asked(preset: Preset) -> tuple[Stored[Any], ...]:
    """The indexes, and what turns photos into vectors of each."""
    of_pictures = ((image_index(name), *query_encoders_of(preset, name)) for name in _names(preset))
    return (SEARCH_INDEX, *query_encoders(preset), *(stored for part in of_pictures for stored in part))
