"""Group `evaluation`: the report on retrieval quality and on the effect of each part."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

from skufp_pipeline.artifacts.places import (
    ANNOTATIONS,
    BEST_SHOT_TEACHERS,
    CLIP_CHECKPOINT,
    CLIP_EMBEDDINGS,
    DETECTION_REPORT,
    DETECTOR_CHECKPOINT,
    FINGERPRINT_CHECKPOINT,
    FINGERPRINTS,
    FROZEN_CLIP_EMBEDDINGS,
    FROZEN_SYNTHETIC_EMBEDDINGS,
    GENERATED_VIEW_EMBEDDINGS,
    IMAGE_TEXT,
    RAW_DATASET,
    RETRIEVAL_REPORT,
    SEARCH_INDEX,
    SKU_CROPS,
    SYNTHETIC_EMBEDDINGS,
    extractor_checkpoint,
    extractor_embeddings,
    image_index,
)
from skufp_pipeline.artifacts.stored import Stored
from skufp_pipeline.assets.image_index import query_encoders_of
from skufp_pipeline.assets.index import query_encoders
from skufp_pipeline.checks.evaluation import report_checks
from skufp_pipeline.compute import Needs
from skufp_pipeline.presets import Preset
from skufp_pipeline.show import picture
from skufp_pipeline.steps import Group, Run, Step


def group(preset: Preset) -> Group:
    """The one step of this group."""
    optional: dict[tuple[Stored[Any], ...], bool] = {
        (GENERATED_VIEW_EMBEDDINGS,): preset.views is not None,
        (FROZEN_CLIP_EMBEDDINGS,): preset.encoder.is_pretrained,
        (DETECTION_REPORT,): preset.detector is not None,
        (extractor_checkpoint("reid"), extractor_embeddings("reid")): preset.extractors.reid is not None,
        (SYNTHETIC_EMBEDDINGS,): preset.synthetic.photos is not None,
        _of_chain(preset): preset.multi_stage is not None,
        (RAW_DATASET,): preset.multi_stage is not None and preset.detector is not None,
        (FROZEN_SYNTHETIC_EMBEDDINGS,): preset.synthetic.photos is not None and preset.encoder.is_pretrained,
    }
    asked = [stored for stored in query_encoders(preset) if stored is not CLIP_CHECKPOINT]
    report = Step(
        stored=RETRIEVAL_REPORT,
        make=retrieval_report,
        stage="build_index",
        apart=True,
        weekly=True,
        kinds={"numpy", "html"},
        code=("skufp_pipeline.evaluation.assemble",),
        config={
            "evaluation": preset.evaluation.model_dump(mode="json", exclude={"thresholds"}),
            "seed": preset.seed,
            "fingerprint": preset.fingerprint.model_dump(mode="json"),
            "query_encoder": preset.query_encoder.model_dump(mode="json"),
        },
        needs=Needs(preset.compute.cores, preset.compute.memory_gib),
        deps=tuple(dict.fromkeys((
            ANNOTATIONS, SKU_CROPS, IMAGE_TEXT, CLIP_CHECKPOINT, CLIP_EMBEDDINGS, BEST_SHOT_TEACHERS,
            FINGERPRINT_CHECKPOINT, FINGERPRINTS, SEARCH_INDEX,
            *(stored for results, enabled in optional.items() if enabled for stored in results), *asked,
        ))),
    )  # fmt: skip
    return Group.of("evaluation", preset, [report], lambda steps: report_checks(preset))


def retrieval_report(run: Run) -> dg.MaterializeResult:
    """Recall@K, MRR and NDCG of every model on seen, zero and seen+zero, with paired intervals, latency by
    stage, and a page with curves and a grid of results."""
    from skufp_pipeline.evaluation.assemble import ReportParts, ReportPlan, make_report
    from skufp_pipeline.evaluation.page import headline
    from skufp_pipeline.evaluation.report import Report
    from skufp_pipeline.evaluation.tables import markdown_tables
    from skufp_pipeline.query.engine import QueryEngine
    from skufp_pipeline.training.device import pick_device

    preset, device = run.preset, run.models.torch_device()
    parts, crop_of = ReportParts.read(run.inputs, run.step.upstream), run.inputs.crop_files()
    for stored in query_encoders(preset):  # what the query engine opens
        run.read(stored)
    chain = _chain(run)

    def build(directory: Path) -> dict[str, Any]:
        given = run.store, pick_device("cpu"), preset.query_encoder
        engine = QueryEngine.open(*given, use_policy="off", use_look_twice=False)
        whole = QueryEngine.open(*given)
        provenance = {"inputs": run.recipe.inputs, "preset": preset.model_dump(mode="json")}
        settings = preset.evaluation, preset.fingerprint, preset.encoder.batch_size, preset.seed
        plan = ReportPlan(preset.name, *settings, provenance)
        report = make_report(parts, plan, engine, whole, crop_of, device, directory, run.log, chain())
        return {"headline": headline(report)}

    result = run.produce(RETRIEVAL_REPORT, build)
    tables = dg.MetadataValue.md(markdown_tables(Report.read(result.report)))
    figures = {name: picture(png) for name, png in result.figures().items()}
    return run.done(result, {"tables": tables, "page": dg.MetadataValue.path(str(result.page)), **figures})


def _of_chain(preset: Preset) -> tuple[Stored[Any], ...]:
    """The index of pictures that has stages after its search, and what turns photos into its vectors."""
    stages = preset.multi_stage
    if stages is None:
        return ()
    asked = [
        stored for stored in query_encoders_of(preset, stages.index) if stored is not DETECTOR_CHECKPOINT
    ]
    return (image_index(stages.index), *asked)


def _chain(run: Run) -> Callable[[], Any]:
    """Reads what the chain is made of; returns a function that opens it, or gives None without one."""
    preset, stages = run.preset, run.preset.multi_stage
    if stages is None:
        return lambda: None
    for stored in _of_chain(preset):
        run.read(stored)
    raw, items = (run.read(RAW_DATASET), run.read(ANNOTATIONS)) if preset.detector else (None, None)

    def opened() -> Any:
        from skufp_pipeline.evaluation.chain import Chain
        from skufp_pipeline.evaluation.regions import sampled_photos
        from skufp_pipeline.evaluation.stages import AskedPhoto
        from skufp_pipeline.query.engine import QueryEngine

        engine = QueryEngine.open(run.store, run.models.torch_device(), name=stages.index, all_stages=True)
        if engine.detector is None or raw is None or items is None:
            return Chain(engine)
        find, most = preset.dataset.find(raw.path), preset.evaluation.stage_queries
        rows = sampled_photos(items.items(), engine.index.skus["sku_id"], most).iter_rows(named=True)
        photos = [AskedPhoto(find(row["orig_image_path"]), row["sku_id"], row["split"]) for row in rows]
        return Chain(engine, photos)

    return opened
