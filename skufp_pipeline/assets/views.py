"""Group `views`: a diffusion model, its adapter, filters, and the views they make of the catalogue's."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.assets.catalog import read_shards
from skufp_pipeline.assets.show import (
    counts_table,
    frame_metadata,
    markdown_table,
    picture,
    progress,
    result,
)
from skufp_pipeline.checks.encoder import EMBEDDINGS_SOUND, embeddings_sound
from skufp_pipeline.checks.views import (
    ACCEPTANCE_IN_RANGE,
    DRIFT_IS_LOWER,
    FILTERS_TELL,
    VIEWS_DECODABLE,
    acceptance_in_range,
    filters_tell_views_apart,
    identity_drift_is_lower,
    views_decodable,
)
from skufp_pipeline.compute import Needs
from skufp_pipeline.evaluation.figures import loss_curves
from skufp_pipeline.photos import open_photo
from skufp_pipeline.presets import Preset
from skufp_pipeline.resources.models import ModelProvider
from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.steps import Step, asset, shard_number
from skufp_pipeline.store import Artifact, ArtifactStore
from skufp_pipeline.training.weights import weight_inputs
from skufp_pipeline.views.selection import catalog_views
from skufp_pipeline.views.settings import ViewsSettings

VIEWS = "skufp_pipeline.views."
DATASETS = "skufp_pipeline.datasets."
ENCODERS = "skufp_pipeline.encoders."
GROUP = "views"
SHEET = "sheet.jpg"

_WORDS = (
    "skufp_pipeline.photos",
    *(DATASETS + name for name in ("prompts", "attributes", "reading", "splits")),
)
_CROPS = (VIEWS + "selection", VIEWS + "prompts", "skufp_pipeline.training.pixels", *_WORDS)
_EMBEDDING = ("skufp_pipeline.photos", *(ENCODERS + name for name in ("clip", "embed", "tables")))
_DRIFT = (VIEWS + "drift", "skufp_pipeline.measures.bootstrap")
_DIFFUSION = (
    VIEWS + "noise",
    VIEWS + "pipeline",
    VIEWS + "diffusion_train",
    "skufp_pipeline.training.schedule",
)
_SCORING = tuple(VIEWS + name for name in ("filters", "generate", "tables", "pipeline"))
_DRAWING = (VIEWS + "sheet", DATASETS + "contact_sheet")


def view_steps(preset: Preset) -> dict[str, Step]:
    """The steps of this group: none where the preset has no `views`, `sd_base` where it trains one."""
    views = preset.views
    if views is None:
        return {}
    light = Needs(preset.compute.cores, preset.compute.memory_gib, threads=preset.compute.threads)
    heavy = preset.compute.network_needs
    common = {
        "image_size": views.image_size,
        "prompts": views.prompts.model_dump(mode="json"),
        "seed": preset.seed,
    }
    resumed = {"checkpoint_every"}  # decides where a killed run goes on from, not what it ends in
    base = ("sd_base",) if views.base is not None else ()
    steps = [
        Step(
            "view_filters",
            "views/filters",
            GROUP,
            {"numpy", "opencv"},
            "Thresholds of the filters, calibrated on real views of training SKUs, with the curve and what "
            "they make of planted candidates.",
            (VIEWS + "calibration", *_SCORING, *_CROPS, *_EMBEDDING),
            {"filters": views.filters.model_dump(mode="json"), "seed": preset.seed},
            light,
            ("sku_crops", "clip_checkpoint", "clip_embeddings"),
            trained=True,
        ),
        Step(
            "sd_lora",
            "checkpoints/sd_lora",
            GROUP,
            {"pytorch", "diffusers", "peft", "safetensors"},
            "LoRA on the attention of the diffusion model, trained on some of the training SKUs, in "
            "diffusers' format, with the identity drift on held-out SKUs before and after.",
            (VIEWS + "lora", *_DRIFT, *_DIFFUSION, *_CROPS, *_SCORING, *_EMBEDDING, *_DRAWING),
            {
                **common,
                "model": views.model,
                "lora": views.lora.model_dump(mode="json", exclude=resumed),
                "generation": views.generation.model_dump(mode="json", exclude={"max_skus", "views_per_sku"}),
                "filters": views.filters.model_dump(mode="json"),
            },
            heavy,
            ("sku_crops", "image_text", "clip_checkpoint", *base),
            trained=True,
        ),
        Step(
            "generated_views",
            "views/generated",
            GROUP,
            {"pytorch", "diffusers", "jpeg", "parquet"},
            "Candidates of the shard's views by img2img at low noise, each with its scores and verdict; the "
            "accepted images.",
            (*_SCORING, *_CROPS, *_EMBEDDING, *_DRAWING),
            {
                **common,
                "model": views.model,
                "generation": views.generation.model_dump(mode="json"),
                "side": views.filters.side,
                "zero_shot": preset.encoder.is_pretrained,
            },
            heavy,
            ("sku_crops", "image_text", "clip_checkpoint", "view_filters", "sd_lora", *base),
            preset.shards,
        ),
        Step(
            "generated_view_embeddings",
            "tables/generated_view_embeddings",
            GROUP,
            {"pytorch", "parquet"},
            "Unit embeddings of the shard's accepted views.",
            (*_SCORING, *_EMBEDDING, "skufp_pipeline.training.pixels"),
            {},
            heavy,
            ("image_text", "clip_checkpoint", "generated_views"),
            preset.shards,
        ),
    ]
    if views.base is not None:
        steps.insert(
            0,
            Step(
                "sd_base",
                "checkpoints/sd_base",
                GROUP,
                {"pytorch", "diffusers", "safetensors"},
                "A small Stable Diffusion trained on catalogue crops of training SKUs, saved as a stock "
                "diffusers pipeline.",
                (VIEWS + "base", *_DIFFUSION, *_CROPS),
                {**common, "base": views.base.model_dump(mode="json", exclude=resumed)},
                heavy,
                ("sku_crops", "image_text"),
                trained=True,
                priority=1,
            ),
        )
    return {step.name: step for step in steps}


def view_assets(preset: Preset, graph: dict[str, Step]) -> list[dg.AssetsDefinition]:
    """The assets of this group, given the steps of the whole graph."""
    steps = view_steps(preset)
    settings = preset.views
    if settings is None:
        return []

    def catalog(store: ArtifactStore) -> tuple[pl.DataFrame, dict[str, str]]:
        """Every catalogue view with its crop's `path`, and the digests of the shards they came from."""
        crops = read_shards(store, graph["sku_crops"], preset.shards)
        texts = read_shards(store, graph["image_text"], preset.shards)
        views = pl.concat(
            [shard_views(text, crop, settings) for text, crop in zip(texts, crops, strict=True)]
        )
        return views, {artifact.manifest.artifact: artifact.digest for artifact in [*crops, *texts]}

    def base_pipeline(store: ArtifactStore) -> tuple[str, dict[str, str]]:
        """Where the base is, and what a result made with it records."""
        if settings.base is None:
            assert settings.model is not None
            return settings.model, weight_inputs(settings.weight_files())
        base = store.read(steps["sd_base"].key)
        return str(base.path / "pipeline"), {"sd_base": base.digest}

    @asset(steps["view_filters"], [FILTERS_TELL])
    def view_filters(
        context: dg.AssetExecutionContext, artifacts: ArtifactStoreResource, models: ModelProvider
    ) -> dg.MaterializeResult:
        from skufp_pipeline.views.calibration import calibrate_and_measure

        store, step = artifacts.get(), steps["view_filters"]
        checkpoint = store.read(graph["clip_checkpoint"].key)
        crops = read_shards(store, graph["sku_crops"], preset.shards)
        embeddings = read_shards(store, graph["clip_embeddings"], preset.shards)
        for shard in embeddings:
            shard.require_input("clip_checkpoint", checkpoint.digest)
        recipe = step.recipe(
            {artifact.manifest.artifact: artifact.digest for artifact in [*crops, *embeddings, checkpoint]}
        )

        def build(directory: Path) -> dict[str, Any]:
            tables = [
                with_paths(pl.read_parquet(shard.path / "images.parquet"), crop.path)
                for shard, crop in zip(embeddings, crops, strict=True)
            ]
            encoder = models.load_encoder(checkpoint.path / "encoder")
            found = calibrate_and_measure(
                pl.concat(tables), encoder, preset.encoder.batch_size, settings.filters, preset.seed
            )
            (directory / "filters.json").write_text(json.dumps(found, indent=1) + "\n")
            return {
                f"{name}_{kind}_accepted": figure["accepted"] for name, kind, figure in each_figure(found)
            }

        artifact = store.produce(step.key, recipe, build)
        found = json.loads((artifact.path / "filters.json").read_text())
        rows = [{"skus": name, "planted": kind, **figure} for name, kind, figure in each_figure(found)]
        return result(
            artifact,
            {
                "thresholds": dg.MetadataValue.json(found["thresholds"]),
                "calibration": markdown_table(pl.DataFrame(found["curve"])),
                "figures": markdown_table(pl.DataFrame(rows)),
            },
            [filters_tell_views_apart(found["figures"], settings.thresholds)],
        )

    @asset(steps["sd_lora"], [DRIFT_IS_LOWER])
    def sd_lora(
        context: dg.AssetExecutionContext, artifacts: ArtifactStoreResource, models: ModelProvider
    ) -> dg.MaterializeResult:
        from skufp_pipeline.views.drift import drift_figures
        from skufp_pipeline.views.lora import adapt

        store, step = artifacts.get(), steps["sd_lora"]
        views, inputs = catalog(store)
        name, base = base_pipeline(store)
        checkpoint = store.read(graph["clip_checkpoint"].key)
        recipe = step.recipe({**inputs, **base, "clip_checkpoint": checkpoint.digest})

        def build(directory: Path) -> dict[str, Any]:
            return adapt(
                models.diffusion(name),
                views,
                models.load_encoder(checkpoint.path / "encoder"),
                settings,
                preset.seed,
                store.scratch(step.key, recipe),
                directory,
                context.log.info,
            )

        artifact = store.produce(step.key, recipe, build)
        history = json.loads((artifact.path / "history.json").read_text())
        figures = drift_figures(pl.read_parquet(artifact.path / "drift.parquet"))
        return result(
            artifact,
            {
                "curve": picture(loss_curves({"lora": history})),
                "samples": picture_file(artifact.path / SHEET),
                "drift": markdown_table(pl.DataFrame([figures])),
            },
            [identity_drift_is_lower(figures, settings.thresholds)],
        )

    @asset(steps["generated_views"], [VIEWS_DECODABLE, ACCEPTANCE_IN_RANGE])
    def generated_views(
        context: dg.AssetExecutionContext, artifacts: ArtifactStoreResource, models: ModelProvider
    ) -> dg.MaterializeResult:
        from skufp_pipeline.views.shard import generate_shard, shard_budget

        store, step = artifacts.get(), steps["generated_views"]
        shard = shard_number(context.partition_key)
        crops = store.read(graph["sku_crops"].shard_key(shard))
        texts = store.read(graph["image_text"].shard_key(shard))
        adapter, filters = store.read(steps["sd_lora"].key), store.read(steps["view_filters"].key)
        checkpoint = store.read(graph["clip_checkpoint"].key)
        name, base = base_pipeline(store)
        for key, digest in base.items():
            adapter.require_input(key, digest)
        filters.require_input(checkpoint.manifest.artifact, checkpoint.digest)
        thresholds = json.loads((filters.path / "filters.json").read_text())["thresholds"]
        recipe = step.recipe(
            {
                **base,
                "sku_crops": crops.digest,
                "image_text": texts.digest,
                "sd_lora": adapter.digest,
                "clip_checkpoint": checkpoint.digest,
                "thresholds": json.dumps(thresholds, sort_keys=True),
            }
        )

        def build(directory: Path) -> dict[str, Any]:
            views = shard_views(texts, crops, settings)
            limit = shard_budget(settings.generation.max_skus, preset.shards, shard)
            return generate_shard(
                lambda: models.diffusion(name, settings.generation.precision, adapter.path),
                views,
                limit,
                models.load_encoder(checkpoint.path / "encoder"),
                settings,
                thresholds,
                preset.encoder.is_pretrained,
                store.scratch(step.shard_key(shard), recipe),
                directory,
                progress(context, f"candidates of {context.partition_key}"),
            )

        artifact = store.produce(step.shard_key(shard), recipe, build)
        table = pl.read_parquet(artifact.path / "candidates.parquet")
        accepted = table.filter(pl.col("verdict") == "accepted")
        return result(
            artifact,
            {
                **frame_metadata(table),
                "verdicts": counts_table(table, ["strength", "verdict"]),
                "contact_sheet": picture_file(artifact.path / SHEET),
            },
            [
                views_decodable(artifact, accepted),
                acceptance_in_range(accepted.height, table.height, settings.thresholds),
            ],
        )

    @asset(steps["generated_view_embeddings"], [EMBEDDINGS_SOUND["generated_view_embeddings"]])
    def generated_view_embeddings(
        context: dg.AssetExecutionContext, artifacts: ArtifactStoreResource, models: ModelProvider
    ) -> dg.MaterializeResult:
        store, step = artifacts.get(), steps["generated_view_embeddings"]
        shard = shard_number(context.partition_key)
        views = store.read(steps["generated_views"].shard_key(shard))
        texts = store.read(graph["image_text"].shard_key(shard))
        checkpoint = store.read(graph["clip_checkpoint"].key)
        views.require_input("image_text", texts.digest)

        def build(directory: Path) -> dict[str, Any]:
            from skufp_pipeline.views.tables import embed_generated

            images = embed_generated(
                pl.read_parquet(views.path / "candidates.parquet"),
                pl.read_parquet(texts.path / "image_text.parquet"),
                views.path / "images",
                models.load_encoder(checkpoint.path / "encoder"),
                preset.encoder.batch_size,
            )
            images.write_parquet(directory / "images.parquet", compression="zstd")
            return {"images": images.height}

        recipe = step.recipe({"clip_checkpoint": checkpoint.digest, "generated_views": views.digest})
        artifact = store.produce(step.shard_key(shard), recipe, build)
        images = pl.read_parquet(artifact.path / "images.parquet")
        return result(artifact, frame_metadata(images), [embeddings_sound(step.name, images, images.clear())])

    assets = [view_filters, sd_lora, generated_views, generated_view_embeddings]
    if settings.base is not None:
        assets.insert(0, _base_asset(preset, settings, steps["sd_base"], catalog))
    return assets


def _base_asset(
    preset: Preset,
    settings: ViewsSettings,
    step: Step,
    catalog: Callable[[ArtifactStore], tuple[pl.DataFrame, dict[str, str]]],
) -> dg.AssetsDefinition:
    @asset(step)
    def sd_base(
        context: dg.AssetExecutionContext, artifacts: ArtifactStoreResource, models: ModelProvider
    ) -> dg.MaterializeResult:
        from skufp_pipeline.views.base import train_base
        from skufp_pipeline.views.noise import prompted_crops
        from skufp_pipeline.views.pipeline import save_pipeline

        assert settings.base is not None
        base, store = settings.base, artifacts.get()
        views, inputs = catalog(store)
        recipe = step.recipe({**inputs, **weight_inputs(settings.weight_files())})

        def build(directory: Path) -> dict[str, Any]:
            scratch = store.scratch(step.key, recipe)
            training = views.filter(pl.col("split") == "train")
            told = progress(context, "crops decoded")
            crops = prompted_crops(training, settings.image_size, scratch / "crops.npy", told)
            pipeline = models.new_diffusion(base.config, preset.seed)
            history = train_base(pipeline, crops, base, preset.seed, scratch, context.log.info)
            save_pipeline(pipeline, directory / "pipeline")
            (directory / "history.json").write_text(json.dumps(history, indent=1) + "\n")
            last = {f"{part}_loss": rows[-1]["loss"] for part, rows in history.items()}
            return {"crops": training.height, **last}

        artifact = store.produce(step.key, recipe, build)
        history = json.loads((artifact.path / "history.json").read_text())
        return result(artifact, {"curves": picture(loss_curves(history))})

    return sd_base


def shard_views(texts: Artifact, crops: Artifact, settings: ViewsSettings) -> pl.DataFrame:
    """The catalogue views of one shard with their prompts and the `path` of each crop."""
    table = pl.read_parquet(texts.path / "image_text.parquet")
    return with_paths(catalog_views(table, settings.prompts.prompt), crops.path)


def with_paths(table: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """`table` with the `path` of each `image_path` on this machine."""
    return table.with_columns(path=pl.format("{}/{}", pl.lit(str(folder)), "image_path"))


def each_figure(found: Mapping[str, Any]) -> list[tuple[str, str, dict[str, float]]]:
    """(set of SKUs, kind of candidate, figure) of what measuring the filters found."""
    return [
        (name, kind, figure) for name, kinds in found["figures"].items() for kind, figure in kinds.items()
    ]


def picture_file(path: Path) -> dg.MarkdownMetadataValue:
    """A sheet that an artifact holds."""
    return picture(open_photo(path))
