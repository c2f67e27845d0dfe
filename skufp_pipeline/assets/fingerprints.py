"""Group `fingerprints`: best-shot teachers, the aggregator, and one vector per SKU."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.assets.catalog import read_shards
from skufp_pipeline.assets.show import counts_table, frame_metadata, markdown_table, picture, result
from skufp_pipeline.compute import Needs
from skufp_pipeline.evaluation.figures import training_curves
from skufp_pipeline.fingerprint.tables import (
    EmbeddingTables,
    fingerprint_data,
    teacher_table,
    used_by_fingerprints,
)
from skufp_pipeline.presets import Preset
from skufp_pipeline.resources.models import ModelProvider
from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.steps import Step, asset
from skufp_pipeline.store import Artifact, ArtifactStore

FINGERPRINT = "skufp_pipeline.fingerprint."
GROUP = "fingerprints"


def fingerprint_steps(preset: Preset) -> dict[str, Step]:
    """The steps of this group, by asset name."""
    light = Needs(preset.compute.cores, preset.compute.memory_gib)
    heavy = Needs(preset.compute.cores, preset.compute.memory_gib, preset.compute.gpus)
    settings = preset.fingerprint.model_dump(mode="json")
    # What is joined after training trains nothing again.
    trained = preset.fingerprint.model_dump(mode="json", exclude={"catalog_text_weight", "hubness"})
    if preset.fingerprint.gaussian:
        trained["gaussian"].pop("aggregator_weight")
    measures = ("skufp_pipeline.measures.metrics", "skufp_pipeline.measures.ranks")
    tables = (FINGERPRINT + "tables", "skufp_pipeline.encoders.tables", *measures)
    model = tuple(
        FINGERPRINT + name
        for name in ("aggregator_train", "losses", "aggregator", "views", "teachers", "gaussian")
    )
    model += (*tables, "skufp_pipeline.training.schedule")
    views = ("clip_embeddings", "generated_view_embeddings") if preset.views else ("clip_embeddings",)
    steps = [
        Step(
            "best_shot_teachers",
            "tables/best_shot_teachers",
            GROUP,
            {"numpy", "parquet"},
            "For each SKU the one view, and the one text, that alone retrieves its training queries best.",
            (FINGERPRINT + "teachers", FINGERPRINT + "views", *tables),
            {"max_views": preset.fingerprint.max_views},
            light,
            ("clip_embeddings",),
        ),
        Step(
            "fingerprint_checkpoint",
            "checkpoints/fingerprint",
            GROUP,
            {"pytorch", "safetensors"},
            "The Q-Former-style aggregator trained by regression, rank distillation and classification, and "
            "what training SKUs tell about the noise of views and photos.",
            model,
            {"fingerprint": trained, "seed": preset.seed},
            heavy,
            (*views, "best_shot_teachers"),
            trained=True,
        ),
        Step(
            "fingerprints",
            "tables/fingerprints",
            GROUP,
            {"pytorch", "parquet"},
            "One unit vector and one bias per SKU, from its catalog views and texts, and from the training "
            "photos of those that have some: a new SKU needs no training.",
            (*model, FINGERPRINT + "hubness", FINGERPRINT + "make"),
            {name: settings[name] for name in ("max_views", "gaussian", "catalog_text_weight", "hubness")},
            light,
            (*views, "fingerprint_checkpoint"),
        ),
    ]
    return {step.name: step for step in steps}


def fingerprint_assets(preset: Preset, others: dict[str, Step]) -> list[dg.AssetsDefinition]:
    """The three assets of this group, given the steps before it."""
    steps = fingerprint_steps(preset)

    def embeddings(store: ArtifactStore) -> tuple[EmbeddingTables, dict[str, str]]:
        shards = read_embedding_shards(store, others["clip_embeddings"], others["clip_checkpoint"], preset)
        return embedding_tables(shards), embedding_inputs(shards)

    def with_generated(
        store: ArtifactStore, tables: EmbeddingTables, inputs: dict[str, str]
    ) -> tuple[EmbeddingTables, dict[str, str]]:
        if not preset.views:
            return tables, inputs
        step = others["generated_view_embeddings"]
        shards = read_embedding_shards(store, step, others["clip_checkpoint"], preset)
        found = [pl.read_parquet(shard.path / "images.parquet") for shard in shards]
        digests = {shard.manifest.artifact: shard.digest for shard in shards}
        return replace(tables, generated=pl.concat(found)), inputs | digests

    @asset(steps["best_shot_teachers"])
    def best_shot_teachers(artifacts: ArtifactStoreResource) -> dg.MaterializeResult:
        store, step = artifacts.get(), steps["best_shot_teachers"]
        tables, inputs = embeddings(store)

        def build(directory: Path) -> dict[str, Any]:
            teachers, used = teacher_table(tables, preset.fingerprint.max_views)
            teachers.write_parquet(directory / "teachers.parquet", compression="zstd")
            used.write_parquet(directory / "used_queries.parquet", compression="zstd")
            return {"skus": teachers.height, "queries": used.height}

        artifact = store.produce(step.key, step.recipe(inputs), build)
        teachers = pl.read_parquet(artifact.path / "teachers.parquet")
        return result(
            artifact,
            {**frame_metadata(teachers), "chosen_by": counts_table(teachers, ["split", "chosen_by"])},
        )

    @asset(steps["fingerprint_checkpoint"])
    def fingerprint_checkpoint(
        context: dg.AssetExecutionContext, artifacts: ArtifactStoreResource, models: ModelProvider
    ) -> dg.MaterializeResult:
        from skufp_pipeline.fingerprint.aggregator import save_aggregator
        from skufp_pipeline.fingerprint.aggregator_train import train_aggregator
        from skufp_pipeline.fingerprint.gaussian import fit_gaussian, save_gaussian

        store, step = artifacts.get(), steps["fingerprint_checkpoint"]
        tables, inputs = embeddings(store)
        teachers = store.read(steps["best_shot_teachers"].key)
        require_inputs(teachers, inputs)
        tables, inputs = with_generated(store, tables, inputs)

        def build(directory: Path) -> dict[str, Any]:
            data = fingerprint_data(
                tables, pl.read_parquet(teachers.path / "teachers.parquet"), preset.fingerprint.max_views
            )
            device, scratch = models.torch_device(), store.scratch(step.key, recipe)
            model, history = train_aggregator(
                data, preset.fingerprint, preset.seed, device, scratch, context.log.info
            )
            save_aggregator(model, data.views.views.shape[2], preset.fingerprint.aggregator, directory)
            gaussian = preset.fingerprint.gaussian
            if gaussian:
                save_gaussian(fit_gaussian(data.views, data.image_queries, gaussian), directory)
            (directory / "history.json").write_text(json.dumps(history, indent=1) + "\n")
            used_by_fingerprints(tables).write_parquet(directory / "used_queries.parquet", compression="zstd")
            best = max(history, key=lambda row: row["development_mrr"])
            return {"skus": len(data.views.sku_ids), "best_epoch": best["epoch"], **_last(best)}

        recipe = step.recipe({**inputs, "best_shot_teachers": teachers.digest})
        artifact = store.produce(step.key, recipe, build)
        history = json.loads((artifact.path / "history.json").read_text())
        losses = tuple(name for name in history[0] if name not in ("epoch", "development_mrr"))
        return result(
            artifact,
            {
                "curve": picture(training_curves(history, losses, "development_mrr")),
                "history": markdown_table(pl.DataFrame(history).tail(5)),
            },
        )

    @asset(steps["fingerprints"])
    def fingerprints(artifacts: ArtifactStoreResource, models: ModelProvider) -> dg.MaterializeResult:
        from skufp_pipeline.fingerprint.aggregator import load_aggregator
        from skufp_pipeline.fingerprint.gaussian import load_gaussian
        from skufp_pipeline.fingerprint.make import make_fingerprints

        store, step = artifacts.get(), steps["fingerprints"]
        tables, inputs = with_generated(store, *embeddings(store))
        checkpoint = store.read(steps["fingerprint_checkpoint"].key)
        # Of the same encoder, but not of the same SKUs: a new one gets its fingerprint without training.
        checkpoint.require_input("clip_checkpoint", inputs["clip_checkpoint"])

        def build(directory: Path) -> dict[str, Any]:
            device, settings = models.torch_device(), preset.fingerprint
            known = load_gaussian(checkpoint.path) if settings.gaussian else None
            aggregator = load_aggregator(checkpoint.path, device)
            table, used = make_fingerprints(aggregator, known, tables, settings, device)
            used.write_parquet(directory / "used_queries.parquet", compression="zstd")
            table.write_parquet(directory / "fingerprints.parquet", compression="zstd")
            return {"skus": table.height, "dimension": len(table["fingerprint"][0])}

        recipe = step.recipe({**inputs, "fingerprint_checkpoint": checkpoint.digest})
        artifact = store.produce(step.key, recipe, build)
        table = pl.read_parquet(artifact.path / "fingerprints.parquet")
        return result(artifact, {**frame_metadata(table), "views_by_split": counts_table(table, ["split"])})

    return [best_shot_teachers, fingerprint_checkpoint, fingerprints]


def read_embedding_shards(
    store: ArtifactStore, step: Step, checkpoint: Step, preset: Preset
) -> list[Artifact]:
    """Every embedding shard, all made by the encoder that is there now; refused by name otherwise."""
    shards = read_shards(store, step, preset.shards)
    digest = store.read(checkpoint.key).digest
    for shard in shards:
        shard.require_input(checkpoint.name, digest)
    return shards


def embedding_tables(shards: list[Artifact]) -> EmbeddingTables:
    """The image and text tables of all shards together, by SKU."""

    return EmbeddingTables(image_table(shards), _gathered(shards, "texts"))


def image_table(shards: list[Artifact]) -> pl.DataFrame:
    """The image tables of all shards together, by SKU."""
    return _gathered(shards, "images")


def _gathered(shards: list[Artifact], name: str) -> pl.DataFrame:
    tables = [pl.read_parquet(shard.path / f"{name}.parquet") for shard in shards]
    return pl.concat(tables).sort("sku_id", maintain_order=True)


def embedding_inputs(shards: list[Artifact]) -> dict[str, str]:
    """What a result made from these shards records: their digests and their encoder's."""
    encoder = shards[0].manifest.recipe.inputs["clip_checkpoint"]
    return {shard.manifest.artifact: shard.digest for shard in shards} | {"clip_checkpoint": encoder}


def require_inputs(artifact: Artifact, inputs: dict[str, str]) -> None:
    """Refuses an artifact that was made from another version of any of these."""
    for name, digest in inputs.items():
        artifact.require_input(name, digest)


def _last(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name.startswith("development")}
