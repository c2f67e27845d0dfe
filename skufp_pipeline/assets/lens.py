"""Group `lens`: extractors cross-validated on products that their training has not seen, and compared."""

from collections.abc import Callable, Sequence
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from skufp_pipeline.artifacts.kinds import ExtractorFolds, LensReport, SyntheticPhotos
from skufp_pipeline.artifacts.places import (
    IMAGE_TEXT,
    LENS_REPORT,
    SKU_CROPS,
    SYNTHETIC_PHOTOS,
    extractor_folds,
    image_index,
)
from skufp_pipeline.artifacts.stored import Stored
from skufp_pipeline.assets.extractors import EXTRACTORS, KINDS
from skufp_pipeline.assets.image_index import query_encoders_of
from skufp_pipeline.checks.lens import (
    beats_chance,
    beats_chance_spec,
    folds_disjoint,
    folds_specs,
    held_out_loss_falls,
)
from skufp_pipeline.checks.off import not_measured
from skufp_pipeline.compute import Needs
from skufp_pipeline.datasets.table import EVALUATION
from skufp_pipeline.presets import Preset
from skufp_pipeline.show import markdown_table, picture
from skufp_pipeline.steps import Group, Run, Step
from skufp_pipeline.training.weights import weight_inputs

if TYPE_CHECKING:
    from skufp_pipeline.query.engine import QueryEngine

EVALUATED = "skufp_pipeline.evaluation."


def group(preset: Preset) -> Group:
    """The folds of each extractor, and their comparison; none if the preset has no `lens`."""
    if preset.lens is None:
        return Group.of("lens", preset, [])
    report = Step(
        stored=LENS_REPORT,
        make=lens_report,
        stage="compare_extractors",
        weekly=True,
        kinds={"numpy", "matplotlib"},
        code=(EVALUATED + "lens_report",),
        config={"lens": preset.lens.model_dump(), "seed": preset.seed},
        needs=Needs(preset.compute.cores, preset.compute.memory_gib, threads=preset.compute.threads),
        deps=(SYNTHETIC_PHOTOS, *(stored for name in compared(preset) for stored in _of(preset, name))),
        check_specs=(beats_chance_spec(LENS_REPORT.name),),
    )
    return Group.of("lens", preset, [*(_folds_step(preset, name) for name in compared(preset)), report])


def _of(preset: Preset, name: str) -> tuple[Stored[Any], ...]:
    """What is compared of an extractor."""
    return (extractor_folds(name), image_index(name), *query_encoders_of(preset, name))


def compared(preset: Preset) -> list[str]:
    """The extractors that are indexed, and so can be compared as searches."""
    indexed = preset.image_index.of if preset.image_index else []
    return [name for name in indexed if name in preset.extractors.wanted()]


def _folds_step(preset: Preset, name: str) -> Step:
    stored, settings, lens = extractor_folds(name), preset.extractors.wanted()[name], preset.lens
    assert lens is not None
    decisive = settings.model_dump(mode="json", exclude={"batch_size", "onnx"})
    return Step(
        stored=stored,
        make=_made(name),
        stage="judge_folds",
        apart=True,
        weekly=True,
        kinds={"pytorch", KINDS.get(name, "timm")},
        code=(EVALUATED + "lens", EXTRACTORS + "train", EXTRACTORS + "data", EXTRACTORS + name),
        config={
            name: decisive,
            "lens": lens.model_dump(include={"folds", "cross_validated", "most_asked"}),
            "seed": preset.seed,
        },
        needs=preset.compute.network_needs,
        deps=(SKU_CROPS, IMAGE_TEXT, SYNTHETIC_PHOTOS),
        check_specs=folds_specs(stored.name),
    )


def _made(name: str) -> Callable[[Run], dg.MaterializeResult]:
    def made(run: Run) -> dg.MaterializeResult:
        return folds(run, name)

    update_wrapper(made, folds)  # the code reference is its
    made.__doc__ = (
        f"`{name}` trained once a fold without the fold's products, and asked for them: losses and queries."
    )
    return made


def folds(run: Run, name: str) -> dg.MaterializeResult:
    """Trains an extractor fold by fold and asks it for what it has not seen."""
    settings, lens, stored = run.preset.extractors.wanted()[name], run.preset.lens, extractor_folds(name)
    assert lens is not None
    crops, texts, photos = run.read_all(SKU_CROPS), run.read_all(IMAGE_TEXT), run.read_all(SYNTHETIC_PHOTOS)
    run.inputs.add(weight_inputs(settings.weight_files()))

    def build(directory: Path) -> dict[str, Any]:
        from skufp_pipeline.encoders.dataset import text_shards
        from skufp_pipeline.evaluation.lens import LensData, judge_folds

        data = LensData.of(text_shards(texts, crops), [(shard.table(), shard.path) for shard in photos])
        device = run.models.torch_device()
        found = judge_folds(data, settings, lens, run.preset.seed, run.scratch, device, run.log)
        ExtractorFolds.write(directory, *found)
        return {"products": len(data.products), "folds": found.products["fold"].n_unique()}

    result = run.produce_or_off(stored, build)
    if result.off is not None:
        return run.done(result, {}, *(not_measured(spec, result.off) for spec in run.step.check_specs))
    checks = folds_disjoint(stored.name, result), held_out_loss_falls(stored.name, result)
    return run.done(result, {"losses": markdown_table(result.losses())}, *checks)


def lens_report(run: Run) -> dg.MaterializeResult:
    """The extractors compared: Recall@K and Precision@K of held-out products with intervals, losses of
    training and test, milliseconds a query, bytes of model and index."""
    from skufp_pipeline.evaluation.lens_report import lens_tables

    every = {name: run.read(extractor_folds(name)) for name in compared(run.preset)}
    judged = {name: found for name, found in every.items() if found.off is None}
    photos, engines = run.read_all(SYNTHETIC_PHOTOS), _engines(run, list(judged))

    def build(directory: Path) -> dict[str, Any]:
        report, pictures = _compared(run, judged, every, photos, engines())
        LensReport.write(directory, report, pictures)
        return {"extractors": len(judged)}

    result = run.produce(LENS_REPORT, build)
    shown = {name: picture(png) for name, png in result.pictures().items()}
    tables = dg.MetadataValue.md(lens_tables(result.json("lens_report")))
    return run.done(result, {"tables": tables, **shown}, beats_chance(LENS_REPORT.name, result.rows()))


def _engines(run: Run, names: Sequence[str]) -> Callable[[], dict[str, "QueryEngine"]]:
    """Reads the indexes of some extractors; returns a function that opens them, on the CPU."""
    for name in names:
        for stored in (image_index(name), *query_encoders_of(run.preset, name)):
            run.read(stored)

    def opened() -> dict[str, "QueryEngine"]:
        import torch

        from skufp_pipeline.query.engine import QueryEngine

        return {name: QueryEngine.open(run.store, torch.device("cpu"), name=name) for name in names}

    return opened


def _compared(
    run: Run,
    judged: dict[str, ExtractorFolds],
    every: dict[str, ExtractorFolds],
    photos: list[SyntheticPhotos],
    engines: dict[str, "QueryEngine"],
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The report and its pictures."""
    from skufp_pipeline.evaluation import lens_report as science

    lens = run.preset.lens
    assert lens is not None
    asked = [
        (shard.path / path, sku_id)
        for shard in photos
        for path, sku_id in shard.table().filter(role=EVALUATION).select("image_path", "sku_id").iter_rows()
    ]
    rows = []
    for name, found in judged.items():
        size = image_index(name).read(run.store).artifact.manifest.num_bytes
        costs = science.costs_of(engines[name], size, [path for path, _ in asked], lens.latency_queries)
        tables = found.losses(), found.queries()
        rows += science.lens_rows(name, *tables, costs, lens.resamples, run.preset.seed)
    counts = next(({**found.summary} for found in judged.values()), {"products": 0, "folds": 0})
    left_out = {name: found.off for name, found in every.items() if found.off is not None}
    report = science.lens_report(rows, lens.folds, counts["folds"], counts["products"], left_out)
    return report, science.lens_pictures(report, engines, asked)
