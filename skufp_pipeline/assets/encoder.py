"""Group `encoder`: CLIP fine-tuned on SKUs (Baseline 3), and the embeddings of crops and texts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from skufp_pipeline.assets.catalog import prompts_config, read_shards
from skufp_pipeline.assets.show import frame_metadata, markdown_table, picture, progress, result
from skufp_pipeline.checks.encoder import EMBEDDINGS_SOUND, embeddings_sound
from skufp_pipeline.evaluation.figures import training_curves
from skufp_pipeline.presets import Preset
from skufp_pipeline.resources.models import ModelProvider
from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.steps import Step, asset, shard_number
from skufp_pipeline.store import Artifact, ArtifactStore
from skufp_pipeline.training.weights import weight_inputs, weights_summary

if TYPE_CHECKING:
    from skufp_pipeline.encoders.dataset import TextShard
    from skufp_pipeline.training.loop import History, TrainingImages

DATASETS = "skufp_pipeline.datasets."
ENCODERS = "skufp_pipeline.encoders."
GROUP = "encoder"
PROMPT_MODULES = (
    "skufp_pipeline.photos",
    *(DATASETS + name for name in ("prompts", "attributes", "reading", "splits")),
)
_LOOP = ("loop", "prefetch", "sampling", "schedule", "augment", "device", "pixels")
LOOP_MODULES = tuple("skufp_pipeline.training." + name for name in _LOOP) + tuple(
    ENCODERS + name for name in ("losses", "dataset", "clip_train", "vocabulary")
)
TEXT_COLUMNS = ("text_id", "sku_id", "split", "role", "text")


def encoder_steps(preset: Preset) -> dict[str, Step]:
    """The steps of this group; the frozen encoder has a place only where it is pretrained."""
    needs = preset.compute.network_needs
    encoder = preset.encoder.model_dump(mode="json", exclude={"training", "batch_size"})
    embedding_modules = ("skufp_pipeline.photos", *(ENCODERS + name for name in ("clip", "embed", "tables")))
    steps = [
        Step(
            "clip_checkpoint",
            "checkpoints/clip",
            GROUP,
            {"pytorch", "openclip", "safetensors"},
            "Baseline 3: image and text towers fine-tuned with SKU cross-entropy, in open_clip's own "
            "format, with the training curve and the ids of every query used.",
            (ENCODERS + "clip", ENCODERS + "tables", *LOOP_MODULES, *PROMPT_MODULES),
            {
                "encoder": encoder,
                "training": preset.encoder.training.model_dump(mode="json"),
                "prompts": prompts_config(preset),
                "seed": preset.seed,
            },
            needs,
            ("sku_crops", "image_text"),
            trained=True,
            priority=1,
        ),
        Step(
            "clip_embeddings",
            "tables/clip_embeddings",
            GROUP,
            {"pytorch", "parquet"},
            "Unit embeddings of the shard's crops (catalog views and queries) and texts.",
            embedding_modules,
            {},
            needs,
            ("sku_crops", "image_text", "clip_checkpoint"),
            preset.shards,
        ),
    ]
    if preset.encoder.is_pretrained:
        steps.append(
            Step(
                "frozen_clip_embeddings",
                "tables/frozen_clip_embeddings",
                GROUP,
                {"pytorch", "parquet"},
                "The same embeddings by the encoder before fine-tuning: what training has to beat.",
                embedding_modules,
                {"encoder": encoder, "seed": preset.seed},
                needs,
                ("sku_crops", "image_text"),
                preset.shards,
            )
        )
    return {step.name: step for step in steps}


def encoder_assets(preset: Preset, catalog: dict[str, Step]) -> list[dg.AssetsDefinition]:
    """The assets of this group, given the catalogue's steps."""
    steps = encoder_steps(preset)

    @asset(steps["clip_checkpoint"])
    def clip_checkpoint(
        context: dg.AssetExecutionContext, artifacts: ArtifactStoreResource, models: ModelProvider
    ) -> dg.MaterializeResult:
        from skufp_pipeline.encoders.clip_train import fine_tune
        from skufp_pipeline.encoders.dataset import gather_training_data

        store, step = artifacts.get(), steps["clip_checkpoint"]
        crops = read_shards(store, catalog["sku_crops"], preset.shards)
        texts = read_shards(store, catalog["image_text"], preset.shards)
        recipe = step.recipe(
            {artifact.manifest.artifact: artifact.digest for artifact in [*crops, *texts]}
            | weight_inputs(preset.encoder.weight_files())
        )

        def build(directory: Path) -> dict[str, Any]:
            shards = text_shards(texts, crops)
            scratch = store.scratch(step.key, recipe)
            training = preset.encoder.training
            told = progress(context, "crops decoded")
            data, used = gather_training_data(shards, preset.prompts, training.cache_side, scratch, told)
            encoder = models.new_encoder(preset.encoder, preset.seed)
            history = fine_tune(encoder, data, training, preset.seed, scratch, context.log.info)
            encoder.save(directory / "encoder")
            used.write_parquet(directory / "used_queries.parquet", compression="zstd")
            weights = weights_summary(preset.encoder.weight_files())
            return write_history(directory, data, history) | {"weights": weights}

        artifact = store.produce(step.key, recipe, build)
        return result(artifact, training_metadata(artifact))

    @asset(steps["clip_embeddings"], [EMBEDDINGS_SOUND["clip_embeddings"]])
    def clip_embeddings(
        context: dg.AssetExecutionContext, artifacts: ArtifactStoreResource, models: ModelProvider
    ) -> dg.MaterializeResult:
        store = artifacts.get()
        checkpoint = store.read(steps["clip_checkpoint"].key)
        return _embed_shard(
            context,
            store,
            steps["clip_embeddings"],
            {"clip_checkpoint": checkpoint.digest},
            lambda: models.load_encoder(checkpoint.path / "encoder"),
        )

    def _embed_shard(
        context: dg.AssetExecutionContext,
        store: ArtifactStore,
        step: Step,
        inputs: dict[str, str],
        encoder: Any,
    ) -> dg.MaterializeResult:
        shard = shard_number(context.partition_key)
        crops = store.read(catalog["sku_crops"].shard_key(shard))
        texts = store.read(catalog["image_text"].shard_key(shard))

        def build(directory: Path) -> dict[str, Any]:
            from skufp_pipeline.encoders.embed import embed_images, embed_text_table

            model, batch = encoder(), preset.encoder.batch_size
            told = progress(context, f"{step.name} {context.partition_key}")
            images = embed_images(model, _table(texts, "image_text"), crops.path, batch, told)
            every_text = pl.concat(
                [_table(texts, name).select(TEXT_COLUMNS) for name in ("catalog_texts", "text_queries")]
            )
            sentences = embed_text_table(model, every_text, batch)
            images.write_parquet(directory / "images.parquet", compression="zstd")
            sentences.write_parquet(directory / "texts.parquet", compression="zstd")
            return {"images": images.height, "texts": sentences.height}

        recipe = step.recipe({**inputs, "sku_crops": crops.digest, "image_text": texts.digest})
        artifact = store.produce(step.shard_key(shard), recipe, build)
        images = pl.read_parquet(artifact.path / "images.parquet")
        check = embeddings_sound(step.name, images, pl.read_parquet(artifact.path / "texts.parquet"))
        return result(artifact, frame_metadata(images), [check])

    assets = [clip_checkpoint, clip_embeddings]
    if "frozen_clip_embeddings" in steps:
        frozen_step = steps["frozen_clip_embeddings"]

        @asset(frozen_step, [EMBEDDINGS_SOUND["frozen_clip_embeddings"]])
        def frozen_clip_embeddings(
            context: dg.AssetExecutionContext, artifacts: ArtifactStoreResource, models: ModelProvider
        ) -> dg.MaterializeResult:
            new_encoder = lambda: models.new_encoder(preset.encoder, preset.seed)  # noqa: E731
            files = weight_inputs(preset.encoder.weight_files())
            return _embed_shard(context, artifacts.get(), frozen_step, files, new_encoder)

        assets.append(frozen_clip_embeddings)
    return assets


def text_shards(texts: list[Artifact], crops: list[Artifact]) -> list["TextShard"]:
    """What the trainers read, from the shards of `image_text` and `sku_crops`."""
    from skufp_pipeline.encoders.dataset import TextShard

    return [
        TextShard(_table(text, "image_text"), _table(text, "text_queries"), crop.path)
        for text, crop in zip(texts, crops, strict=True)
    ]


def write_history(directory: Path, data: "TrainingImages", history: "History") -> dict[str, Any]:
    """Writes `history.json`, of what the seed decides; returns the summary, which holds the speed too."""
    from skufp_pipeline.training.loop import best_epoch, learning_curve, speed

    (directory / "history.json").write_text(json.dumps(learning_curve(history), indent=1) + "\n")
    best = best_epoch(history)
    return {
        "skus": data.num_skus,
        "images": len(data.images.labels),
        "development_queries": len(data.development.labels),
        "best_epoch": best["epoch"],
        "development_accuracy": best["development_accuracy"],
        **speed(history),
    }


def training_metadata(checkpoint: Artifact) -> dict[str, Any]:
    """Curve and table of a checkpoint's history."""
    history = json.loads((checkpoint.path / "history.json").read_text())
    losses = tuple(name for name in history[0] if name.endswith("loss"))
    return {
        "curve": picture(training_curves(history, losses, "development_accuracy")),
        "history": markdown_table(pl.DataFrame(history)),
    }


def _table(shard: Artifact, name: str) -> pl.DataFrame:
    return pl.read_parquet(shard.path / f"{name}.parquet")
