"""The report on indexes of pictures; in the graph only where the preset has any."""

from pathlib import Path
from typing import Any

import dagster as dg

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
    names = [name for name in _names(preset) if not found[image_index(name).name].off]

    def build(directory: Path) -> dict[str, Any]:
        from skufp_pipeline.evaluation.assemble import asked_photos
        from skufp_pipeline.fingerprint.tables import EmbeddingTables

        settings = preset.evaluation
        photos = asked_photos(EmbeddingTables.images_of(embeddings), crop_of, settings.stage_queries)
        if not photos:
            raise TooLittleError("no customer's photo is held out for evaluation")
        plain = {"use_policy": "off", "use_look_twice": False}
        fingerprints = _opened(run, found[SEARCH_INDEX.name], settings=preset.query_encoder, **plain)
        indexes = {name: _opened(run, found[image_index(name).name], name=name, **plain) for name in names}
        chain, stages = None, preset.multi_stage
        if stages is not None and stages.index in names:
            reader = found[image_index(stages.index).name]
            engine, folder = _opened(run, reader, name=stages.index, all_stages=True)
            chain = (
                image_search.chain_of(engine, items.items(), preset.dataset.find(raw.path), settings),
                folder,
            )
        draws = settings.resamples, preset.seed
        figures = image_search.judge_systems(fingerprints, indexes, photos, chain, *draws)
        ImageSearchReport.write(directory, figures)
        return {"recall@1": image_search.headline(figures)}

    result = run.produce_or_off(IMAGE_SEARCH_REPORT, build)
    if result.off:
        return run.done(result, {})
    return run.done(result, {"tables": dg.MetadataValue.md(image_search.markdown_tables(result.figures()))})


def _opened(run: Run, reader: SearchIndex, **options: Any) -> tuple[Any, Path]:
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
