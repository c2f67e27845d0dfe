"""Group `baselines`: the re-identification network (Baseline 1), and its row of every crop."""

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.assets.catalog import read_shards
from skufp_pipeline.assets.encoder import (
    ENCODERS,
    LOOP_MODULES,
    PROMPT_MODULES,
    text_shards,
    training_metadata,
    write_history,
)
from skufp_pipeline.assets.show import frame_metadata, progress, result
from skufp_pipeline.checks.encoder import EMBEDDINGS_SOUND, embeddings_sound
from skufp_pipeline.presets import Preset
from skufp_pipeline.resources.models import ModelProvider
from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.steps import Step, asset, shard_number
from skufp_pipeline.training.weights import weight_inputs, weights_summary

GROUP = "baselines"


def baseline_steps(preset: Preset) -> dict[str, Step]:
    """The steps of this group: none where the preset has no `baselines.reid`."""
    settings = preset.baselines.reid
    if settings is None:
        return {}
    needs = preset.compute.network_needs
    model = (ENCODERS + "reid", ENCODERS + "clip", ENCODERS + "tables")
    steps = [
        Step(
            "reid_checkpoint",
            "checkpoints/reid",
            GROUP,
            {"pytorch", "timm", "safetensors"},
            "Baseline 1: an image-only ResNet with BNNeck, trained by cross-entropy and batch-hard triplets, "
            "with the training curve and the ids of every query used.",
            (*model, ENCODERS + "reid_train", *LOOP_MODULES, *PROMPT_MODULES),
            {"reid": settings.model_dump(mode="json", exclude={"batch_size"}), "seed": preset.seed},
            needs,
            ("sku_crops", "image_text"),
            trained=True,
        ),
        Step(
            "reid_embeddings",
            "tables/reid_embeddings",
            GROUP,
            {"pytorch", "parquet"},
            "Unit embeddings of the shard's crops by Baseline 1: its catalogue rows are the image-level "
            "gallery.",
            (*model, ENCODERS + "embed", "skufp_pipeline.photos"),
            {},
            needs,
            ("sku_crops", "image_text", "reid_checkpoint"),
            preset.shards,
        ),
    ]
    return {step.name: step for step in steps}


def baseline_assets(preset: Preset, others: dict[str, Step]) -> list[dg.AssetsDefinition]:
    """The assets of this group, given the catalogue's steps."""
    steps, settings = baseline_steps(preset), preset.baselines.reid
    if settings is None:
        return []

    @asset(steps["reid_checkpoint"])
    def reid_checkpoint(
        context: dg.AssetExecutionContext, artifacts: ArtifactStoreResource, models: ModelProvider
    ) -> dg.MaterializeResult:
        from skufp_pipeline.encoders.dataset import gather_training_images
        from skufp_pipeline.encoders.reid_train import train_reid

        store, step = artifacts.get(), steps["reid_checkpoint"]
        crops = read_shards(store, others["sku_crops"], preset.shards)
        texts = read_shards(store, others["image_text"], preset.shards)
        inputs = {artifact.manifest.artifact: artifact.digest for artifact in [*crops, *texts]}
        recipe = step.recipe(inputs | weight_inputs(settings.weight_files()))

        def build(directory: Path) -> dict[str, Any]:
            scratch = store.scratch(step.key, recipe)
            told = progress(context, "crops decoded")
            data, used = gather_training_images(
                text_shards(texts, crops), settings.training.cache_side, scratch, told
            )
            encoder = models.new_reid(settings, preset.seed)
            history = train_reid(encoder, data, settings.training, preset.seed, scratch, context.log.info)
            encoder.save(directory / "encoder")
            used.write_parquet(directory / "used_queries.parquet", compression="zstd")
            weights = weights_summary(settings.weight_files())
            return write_history(directory, data, history) | {"weights": weights}

        artifact = store.produce(step.key, recipe, build)
        return result(artifact, training_metadata(artifact))

    @asset(steps["reid_embeddings"], [EMBEDDINGS_SOUND["reid_embeddings"]])
    def reid_embeddings(
        context: dg.AssetExecutionContext, artifacts: ArtifactStoreResource, models: ModelProvider
    ) -> dg.MaterializeResult:
        store, step = artifacts.get(), steps["reid_embeddings"]
        shard = shard_number(context.partition_key)
        crops = store.read(others["sku_crops"].shard_key(shard))
        texts = store.read(others["image_text"].shard_key(shard))
        checkpoint = store.read(steps["reid_checkpoint"].key)

        def build(directory: Path) -> dict[str, Any]:
            from skufp_pipeline.encoders.embed import embed_images

            encoder = models.load_reid(checkpoint.path / "encoder")
            table = pl.read_parquet(texts.path / "image_text.parquet")
            told = progress(context, f"{step.name} {context.partition_key}")
            images = embed_images(encoder, table, crops.path, settings.batch_size, told)
            images.write_parquet(directory / "images.parquet", compression="zstd")
            return {"images": images.height}

        inputs = {"reid_checkpoint": checkpoint.digest, "sku_crops": crops.digest, "image_text": texts.digest}
        artifact = store.produce(step.shard_key(shard), step.recipe(inputs), build)
        images = pl.read_parquet(artifact.path / "images.parquet")
        return result(artifact, frame_metadata(images), [embeddings_sound(step.name, images)])

    return [reid_checkpoint, reid_embeddings]
