"""Group `evaluation`: the report that says how good it is, and whether each part helped."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.assets.catalog import count_by, crop_path
from skufp_pipeline.assets.declare import Step, asset
from skufp_pipeline.assets.fingerprints import (
    embedding_inputs,
    embedding_tables,
    read_embedding_shards,
    require_inputs,
)
from skufp_pipeline.assets.index import INDEX_MODULES
from skufp_pipeline.assets.show import picture, result
from skufp_pipeline.compute import Needs
from skufp_pipeline.presets import Preset
from skufp_pipeline.resources.models import ModelProvider
from skufp_pipeline.resources.store import ArtifactStoreResource


def evaluation_steps(preset: Preset) -> dict[str, Step]:
    """The one step of this group."""
    deps = ["clip_embeddings", "best_shot_teachers", "fingerprints", "search_index"]
    if preset.encoder.is_pretrained:
        deps.append("frozen_clip_embeddings")
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
            "max_views": preset.fingerprint.max_views,
            "query_encoder": preset.query_encoder.model_dump(mode="json"),
        },
        Needs(preset.compute.cores, preset.compute.memory_gib),
        tuple(deps),
    )
    return {step.name: step}


_MODULES = (
    "evaluation.retrieval", "evaluation.metrics", "evaluation.protocol", "evaluation.statistics",
    "evaluation.report", "evaluation.page", "evaluation.figures", "evaluation.latency",
    "encoders.clip", "encoders.embed", "encoders.onnx", "encoders.parity", "encoders.tables",
    "fingerprint.tables", "fingerprint.teachers", "fingerprint.views",
    "policy.actions", "policy.enhance", "policy.network", "policy.quality",
    "search.bundle", "search.engine",
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
        from skufp_pipeline.evaluation.report import markdown_tables
        from skufp_pipeline.search.bundle import current_index
        from skufp_pipeline.search.engine import QueryEngine

        store = artifacts.get()
        shards = read_embedding_shards(store, others["clip_embeddings"], others["clip_checkpoint"], preset)
        frozen = []
        if "frozen_clip_embeddings" in others:
            step_frozen = others["frozen_clip_embeddings"]
            frozen = [store.read(step_frozen.shard_key(shard)) for shard in range(preset.shards)]
        teachers = store.read(others["best_shot_teachers"].key)
        fingerprints = store.read(others["fingerprints"].key)
        for table in (teachers, fingerprints):
            require_inputs(table, embedding_inputs(shards))
        index, _ = current_index(store)
        index.require_input(fingerprints.manifest.artifact, fingerprints.digest)
        exported = [store.read(others[name].key) for name in ("image_encoder_onnx",) if name in others]
        parts = [*shards, *frozen, teachers, fingerprints, index, *exported]
        recipe = step.recipe({part.manifest.artifact: part.digest for part in parts})

        def build(directory: Path) -> dict[str, Any]:
            settings = preset.evaluation
            tables = embedding_tables(shards)
            inputs = retrieval.ReportInputs(
                tables,
                embedding_tables(frozen) if frozen else None,
                pl.read_parquet(teachers.path / "teachers.parquet"),
                pl.read_parquet(fingerprints.path / "fingerprints.parquet"),
                preset.fingerprint.max_views,
            )
            evaluation = retrieval.judge(inputs, settings.resamples, preset.seed)
            context.log.info("all models judged; measuring latency")
            engine = QueryEngine.open(store, torch.device("cpu"), preset.query_encoder, use_policy="off")
            queries = retrieval.sample_evaluation_queries(tables.images, settings.latency_queries)
            photos = [
                store.local_path(crop_path(row, others["sku_crops"], preset))
                for row in queries.iter_rows(named=True)
            ]
            texts = tables.texts.filter(pl.col("role") == "evaluation")["text"]
            latency = retrieval.measure_latency(
                engine,
                photos,
                texts.head(settings.latency_queries).to_list(),
                settings.batch,
                torch.get_num_threads(),
            )
            shown = queries.head(settings.grid_queries)
            grid = retrieval.grid_rows(shown, photos[: shown.height], engine, store.local_path)
            catalogue = pl.read_parquet(store.read(others["annotations"].key).path / "skipped_items.parquet")
            report = retrieval.write_report(
                directory,
                preset.name,
                evaluation,
                {
                    "protocol": "leak-free",
                    "skipped_items": count_by(catalogue, "reason"),
                    "query_encoder": exported[0].summary if exported else {"precision": "PyTorch"},
                },
                latency,
                grid,
                count_by(catalogue, "reason"),
                {"inputs": recipe.inputs, "preset": preset.model_dump(mode="json")},
            )
            return {"headline": _headline(report)}

        artifact = store.produce(step.key, recipe, build)
        report = json.loads((artifact.path / "report.json").read_text())
        figures = {
            name: picture((artifact.path / f"{name}.png").read_bytes())
            for name in ("recall", "latency", "grid")
        }
        page = dg.MetadataValue.path(str(artifact.path / "report.html"))
        return result(
            artifact, {"tables": dg.MetadataValue.md(markdown_tables(report)), "page": page, **figures}
        )

    return [retrieval_report]


def _headline(report: dict[str, Any]) -> str:
    from skufp_pipeline.evaluation.page import headline

    return headline(report)
