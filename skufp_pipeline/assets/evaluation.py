"""Group `evaluation`: the report that says how good it is, and whether each part helped."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from skufp_pipeline.assets.catalog import count_by, crop_path, read_shards
from skufp_pipeline.assets.fingerprints import (
    embedding_inputs,
    embedding_tables,
    image_table,
    read_embedding_shards,
    require_inputs,
)
from skufp_pipeline.assets.index import INDEX_MODULES
from skufp_pipeline.assets.show import picture, result
from skufp_pipeline.compute import Needs
from skufp_pipeline.fingerprint.tables import EmbeddingTables
from skufp_pipeline.presets import Preset
from skufp_pipeline.resources.models import ModelProvider
from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.search.bundle import current_version
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.steps import Step, asset
from skufp_pipeline.store import Artifact, ArtifactStore

if TYPE_CHECKING:
    from skufp_pipeline.encoders.clip import Encoder
    from skufp_pipeline.evaluation.retrieval import ReportInputs


def evaluation_steps(preset: Preset) -> dict[str, Step]:
    """The one step of this group."""
    deps = ["image_text", "clip_embeddings", "best_shot_teachers", "fingerprints", "search_index"]
    if preset.views:
        deps += ["generated_view_embeddings", "fingerprint_checkpoint"]
    if preset.encoder.is_pretrained:
        deps.append("frozen_clip_embeddings")
    if preset.baselines.reid is not None:
        deps.append("reid_embeddings")
    if preset.query_encoder.engine == "onnx":
        deps.append("image_encoder_onnx")
    evaluation = preset.evaluation.model_dump(mode="json", exclude={"thresholds"})
    step = Step(
        "retrieval_report",
        "reports/retrieval",
        "evaluation",
        {"numpy", "html"},
        "Recall@K, MRR and NDCG of every model on seen, zero and seen+zero, with paired intervals, latency "
        "by stage, and a page with curves and a grid of results.",
        (*("skufp_pipeline." + name for name in _MODULES), *INDEX_MODULES),
        {
            "evaluation": evaluation,
            "seed": preset.seed,
            "fingerprint": preset.fingerprint.model_dump(mode="json"),
            "query_encoder": preset.query_encoder.model_dump(mode="json"),
        },
        Needs(preset.compute.cores, preset.compute.memory_gib),
        tuple(deps),
    )
    return {step.name: step}


_MODULES = (
    "evaluation.retrieval", "evaluation.protocol", "measures.bootstrap", "measures.metrics", "measures.ranks",
    "evaluation.report", "evaluation.tables", "evaluation.page", "evaluation.figures", "evaluation.latency",
    "evaluation.labels", "evaluation.paper", "evaluation.controls", "datasets.contact_sheet",
    "datasets.prompts", "datasets.attributes", "datasets.reading", "datasets.splits",
    "encoders.clip", "encoders.embed", "encoders.onnx", "encoders.parity", "encoders.tables",
    "fingerprint.tables", "fingerprint.teachers", "fingerprint.views", "fingerprint.make",
    "fingerprint.aggregator", "fingerprint.gaussian", "fingerprint.hubness", "fingerprint.losses",
    "fingerprint.aggregator_train", "training.schedule",
    "policy.actions", "policy.enhance", "policy.network", "policy.quality",
    "search.bundle", "search.engine", "photos",
)  # fmt: skip


def evaluation_assets(preset: Preset, others: dict[str, Step]) -> list[dg.AssetsDefinition]:
    """The one asset of this group, given the steps before it."""
    step = evaluation_steps(preset)["retrieval_report"]

    @asset(step)
    def retrieval_report(
        context: dg.AssetExecutionContext, artifacts: ArtifactStoreResource, models: ModelProvider
    ) -> dg.MaterializeResult:
        import torch

        from skufp_pipeline.evaluation import retrieval
        from skufp_pipeline.evaluation.controls import judge_controls
        from skufp_pipeline.evaluation.page import headline
        from skufp_pipeline.evaluation.paper import judge_paper, paper_models, paper_teachers
        from skufp_pipeline.evaluation.report import REPORT_FILE, Report, results, source_results
        from skufp_pipeline.evaluation.tables import markdown_tables
        from skufp_pipeline.search.engine import QueryEngine

        store = artifacts.get()
        parts = report_parts(store, preset, others)
        recipe = step.recipe({part.manifest.artifact: part.digest for part in parts.artifacts()})

        def build(directory: Path) -> dict[str, Any]:
            settings = preset.evaluation
            engine = QueryEngine.open(store, torch.device("cpu"), preset.query_encoder, use_policy="off")
            inputs = report_inputs(parts, preset, engine.encoder)
            tables = inputs.tables
            judged = retrieval.build_models(inputs)
            draws = (settings.resamples, preset.seed)
            evaluation = retrieval.judge(judged, *draws, inputs.labels)
            sources = retrieval.judge_sources(judged, inputs, *draws)
            teachers = paper_teachers(tables, preset.fingerprint.max_views)
            paper = judge_paper(paper_models(judged, teachers), *draws)
            controls = None
            if parts.generated:
                made = control_fingerprints(parts, tables, preset, models)
                ours = next(model for model in judged if model.name == "fingerprint")
                controls = results(judge_controls(ours, made, *draws))
            context.log.info("all models judged; measuring latency")
            queries = retrieval.sample_evaluation_queries(tables.images, settings.latency_queries)
            photos = [
                store.local_path(crop_path(row, others["sku_crops"], preset))
                for row in queries.iter_rows(named=True)
            ]
            texts = tables.texts.filter(pl.col("role") == "evaluation")["text"]
            latency, samples = retrieval.measure_latency(
                engine,
                photos,
                texts.head(settings.latency_queries).to_list(),
                settings.batch,
                torch.get_num_threads(),
            )
            shown = queries.head(settings.grid_queries)
            grid = retrieval.grid_rows(shown, photos[: shown.height], engine, store.local_path)
            catalogue = pl.read_parquet(store.read(others["annotations"].key).path / "skipped_items.parquet")
            report = Report(
                preset=preset.name,
                settings=results(evaluation),
                latency=latency,
                text_sources=source_results(sources),
                paper_protocol=results(paper),
                view_controls=controls,
                skipped_items=count_by(catalogue, "reason"),
                query_encoder=parts.exported[0].summary if parts.exported else {"precision": "PyTorch"},
            )
            provenance = {"inputs": recipe.inputs, "preset": preset.model_dump(mode="json")}
            retrieval.write_report(directory, report, evaluation, samples, grid, provenance)
            return {"headline": headline(report)}

        artifact = store.produce(step.key, recipe, build)
        report = Report.read(artifact.path / REPORT_FILE)
        figures = {
            name: picture((artifact.path / f"{name}.png").read_bytes())
            for name in ("recall", "latency", "grid")
        }
        page = dg.MetadataValue.path(str(artifact.path / "report.html"))
        return result(
            artifact, {"tables": dg.MetadataValue.md(markdown_tables(report)), "page": page, **figures}
        )

    return [retrieval_report]


@dataclass(frozen=True)
class ReportParts:
    """The artifacts that a report is made from, and what they are of the same encoder."""

    shards: list[Artifact]  # of embeddings
    frozen: list[Artifact]  # the same by the frozen encoder; empty without one
    reid: list[Artifact]  # crops by Baseline 1; empty without one
    words: list[Artifact]  # image-text tables
    teachers: Artifact
    fingerprints: Artifact
    index: Artifact
    exported: list[Artifact]  # the image tower for ONNX Runtime; empty without one
    generated: list[Artifact]  # embeddings of generated views; empty without them
    aggregator: list[Artifact]  # what fingerprints without those are made with; empty without them

    def artifacts(self) -> list[Artifact]:
        alone = [self.teachers, self.fingerprints, self.index]
        views = [*self.generated, *self.aggregator]
        return [*self.shards, *self.frozen, *self.reid, *self.words, *alone, *self.exported, *views]


def report_parts(store: ArtifactStore, preset: Preset, others: dict[str, Step]) -> ReportParts:
    """Reads them.

    Raises:
        UserError: one is missing, or was made with another version of an input.
    """
    shards = read_embedding_shards(store, others["clip_embeddings"], others["clip_checkpoint"], preset)
    frozen = []
    if "frozen_clip_embeddings" in others:
        frozen = read_shards(store, others["frozen_clip_embeddings"], preset.shards)
    reid = []
    if "reid_embeddings" in others:
        reid = read_embedding_shards(store, others["reid_embeddings"], others["reid_checkpoint"], preset)
    teachers = store.read(others["best_shot_teachers"].key)
    fingerprints = store.read(others["fingerprints"].key)
    for table in (teachers, fingerprints):
        require_inputs(table, embedding_inputs(shards))
    index = current_version(store)
    index.require_input(fingerprints.manifest.artifact, fingerprints.digest)
    exported = [store.read(others[name].key) for name in ("image_encoder_onnx",) if name in others]
    words = read_shards(store, others["image_text"], preset.shards)
    generated, aggregator = [], []
    if "generated_view_embeddings" in others:
        step = others["generated_view_embeddings"]
        generated = read_embedding_shards(store, step, others["clip_checkpoint"], preset)
        aggregator = [store.read(others["fingerprint_checkpoint"].key)]
        fingerprints.require_input("fingerprint_checkpoint", aggregator[0].digest)
    return ReportParts(
        shards, frozen, reid, words, teachers, fingerprints, index, exported, generated, aggregator
    )


def report_inputs(parts: ReportParts, preset: Preset, encoder: "Encoder") -> "ReportInputs":
    """The tables of the parts; `encoder` embeds the text queries that have no embedding yet."""
    from skufp_pipeline.evaluation.labels import make_labels
    from skufp_pipeline.evaluation.retrieval import ReportInputs, embed_sources

    tables = embedding_tables(parts.shards)
    image_text = pl.concat([pl.read_parquet(part.path / "image_text.parquet") for part in parts.words])
    return ReportInputs(
        tables,
        embedding_tables(parts.frozen) if parts.frozen else None,
        pl.read_parquet(parts.teachers.path / "teachers.parquet"),
        pl.read_parquet(parts.fingerprints.path / "fingerprints.parquet"),
        preset.fingerprint.max_views,
        make_labels(FingerprintIndex.load(parts.index.path).skus, image_text, tables.texts),
        embed_sources(image_text, encoder, preset.encoder.batch_size),
        image_table(parts.reid) if parts.reid else None,
    )


def control_fingerprints(
    parts: ReportParts, tables: EmbeddingTables, preset: Preset, models: ModelProvider
) -> dict[str, pl.DataFrame]:
    """By control of generated views, what the published fingerprint model makes of it."""
    from skufp_pipeline.evaluation.controls import control_tables
    from skufp_pipeline.fingerprint.aggregator import load_aggregator
    from skufp_pipeline.fingerprint.gaussian import load_gaussian
    from skufp_pipeline.fingerprint.make import make_fingerprints

    checkpoint, settings, device = parts.aggregator[0].path, preset.fingerprint, models.torch_device()
    known = load_gaussian(checkpoint) if settings.gaussian else None
    aggregator = load_aggregator(checkpoint, device)
    given = control_tables(replace(tables, generated=image_table(parts.generated)))
    return {
        name: make_fingerprints(aggregator, known, control, settings, device)[0]
        for name, control in given.items()
    }
