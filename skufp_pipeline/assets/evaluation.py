"""Group `evaluation`: the report on retrieval quality and on the effect of each part."""

from pathlib import Path
from typing import Any

import dagster as dg

from skufp_pipeline.artifacts.places import (
    ANNOTATIONS,
    BEST_SHOT_TEACHERS,
    CLIP_CHECKPOINT,
    CLIP_EMBEDDINGS,
    DETECTION_REPORT,
    FINGERPRINT_CHECKPOINT,
    FINGERPRINTS,
    FROZEN_CLIP_EMBEDDINGS,
    FROZEN_SYNTHETIC_EMBEDDINGS,
    GENERATED_VIEW_EMBEDDINGS,
    IMAGE_TEXT,
    RETRIEVAL_REPORT,
    SEARCH_INDEX,
    SKU_CROPS,
    SYNTHETIC_EMBEDDINGS,
    extractor_checkpoint,
    extractor_embeddings,
)
from skufp_pipeline.artifacts.stored import Stored
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

    def build(directory: Path) -> dict[str, Any]:
        given = run.store, pick_device("cpu"), preset.query_encoder
        engine = QueryEngine.open(*given, use_policy="off", use_look_twice=False)
        whole = QueryEngine.open(*given)
        provenance = {"inputs": run.recipe.inputs, "preset": preset.model_dump(mode="json")}
        settings = preset.evaluation, preset.fingerprint, preset.encoder.batch_size, preset.seed
        plan = ReportPlan(preset.name, *settings, provenance)
        report = make_report(parts, plan, engine, whole, crop_of, device, directory, run.log)
        return {"headline": headline(report)}

    result = run.produce(RETRIEVAL_REPORT, build)
    tables = dg.MetadataValue.md(markdown_tables(Report.read(result.report)))
    figures = {name: picture(png) for name, png in result.figures().items()}
    return run.done(result, {"tables": tables, "page": dg.MetadataValue.path(str(result.page)), **figures})
