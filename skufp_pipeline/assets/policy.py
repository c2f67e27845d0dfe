"""Group `policy`: what each action would do to training photos, the policy learnt from it, and its worth."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.assets.catalog import crop_path, read_shards
from skufp_pipeline.assets.fingerprints import (
    embedding_inputs,
    embedding_tables,
    read_embedding_shards,
    require_inputs,
)
from skufp_pipeline.assets.show import (
    counts_table,
    frame_metadata,
    markdown_table,
    picture,
    progress,
    result,
)
from skufp_pipeline.assets.views import picture_file, with_paths
from skufp_pipeline.checks.policy import (
    DOES_NO_HARM,
    HELPS_DEGRADED,
    policy_does_no_harm,
    policy_helps_degraded,
)
from skufp_pipeline.compute import Needs
from skufp_pipeline.evaluation.figures import training_curves
from skufp_pipeline.presets import Preset
from skufp_pipeline.resources.models import ModelProvider
from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.search.bundle import POLICY
from skufp_pipeline.steps import Step, asset, shard_number
from skufp_pipeline.store import Artifact, ArtifactStore

PACKAGE = "skufp_pipeline."
GROUP = "policy"
SHEET, SHOWN = "sheet.jpg", 12

_PHOTO = tuple(PACKAGE + "policy." + name for name in ("actions", "enhance", "quality"))
_LABELS = (
    PACKAGE + "policy.labels",
    *_PHOTO,
    *(PACKAGE + name for name in ("encoders.embed", "encoders.clip", "photos")),
)
_TABLES = (
    PACKAGE + "encoders.tables",
    *(PACKAGE + "fingerprint." + name for name in ("tables", "teachers", "views")),
    *(PACKAGE + "measures." + name for name in ("metrics", "ranks")),
)
_TRAINING = ("policy.policy_train", "policy.network", "measures.bootstrap")
_REPORT = (
    "evaluation.policy", "evaluation.policy_sheet", "evaluation.labels",
    "evaluation.protocol", "measures.bootstrap", "policy.network", "datasets.contact_sheet",
)  # fmt: skip


def policy_steps(preset: Preset) -> dict[str, Step]:
    """The steps of this group: none where the preset has no `policy`."""
    policy = preset.policy
    if policy is None:
        return {}
    light = Needs(preset.compute.cores, preset.compute.memory_gib)
    heavy = Needs(preset.compute.cores, preset.compute.memory_gib, preset.compute.gpus)
    actions = policy.actions.model_dump(mode="json")
    fingerprinted = ("sku_crops", "clip_checkpoint", "clip_embeddings", "fingerprints")
    steps = [
        Step(
            "vla_labels",
            "tables/vla_labels",
            GROUP,
            {"pytorch", "opencv", "parquet"},
            "What each of the seven actions would do to the shard's training and development photos: margin "
            "and rank of the right SKU, and the winner.",
            (*_LABELS, *_TABLES),
            {"actions": actions, "labels": policy.labels.model_dump(mode="json")},
            preset.compute.network_needs,
            fingerprinted,
            preset.shards,
        ),
        Step(
            "vla_checkpoint",
            POLICY,
            GROUP,
            {"pytorch", "safetensors"},
            "The query policy: which action a photo needs, calibrated, with a gate that keeps it from harm.",
            (*(PACKAGE + name for name in _TRAINING), *_PHOTO[::2], *_TABLES),
            {"training": policy.training.model_dump(mode="json"), "actions": actions, "seed": preset.seed},
            light,
            ("clip_checkpoint", "fingerprints", "vla_labels"),
            trained=True,
        ),
        Step(
            "policy_report",
            "reports/policy",
            GROUP,
            {"pytorch", "parquet"},
            "The policy judged on evaluation photos beside doing nothing, each action, chance, the average "
            "and the oracle.",
            (*(PACKAGE + name for name in _REPORT), *_LABELS, *_TABLES),
            {
                "queries": policy.report_queries,
                "resamples": preset.evaluation.resamples,
                "max_views": preset.fingerprint.max_views,
                "seed": preset.seed,
            },
            heavy,
            ("raw_dataset", *fingerprinted, "vla_checkpoint"),
        ),
    ]
    return {step.name: step for step in steps}


def policy_assets(preset: Preset, graph: dict[str, Step]) -> list[dg.AssetsDefinition]:
    """The assets of this group, given the steps of the whole graph."""
    steps = policy_steps(preset)
    settings = preset.policy
    if settings is None:
        return []

    @asset(steps["vla_labels"])
    def vla_labels(
        context: dg.AssetExecutionContext, artifacts: ArtifactStoreResource, models: ModelProvider
    ) -> dg.MaterializeResult:
        from skufp_pipeline.policy.labels import label_queries, labelled_queries

        store, step = artifacts.get(), steps["vla_labels"]
        shard = shard_number(context.partition_key)
        crops = store.read(graph["sku_crops"].shard_key(shard))
        embeddings = store.read(graph["clip_embeddings"].shard_key(shard))
        checkpoint, fingerprints = (store.read(graph[n].key) for n in ("clip_checkpoint", "fingerprints"))
        embeddings.require_input("clip_checkpoint", checkpoint.digest)
        fingerprints.require_input("clip_checkpoint", checkpoint.digest)
        recipe = step.recipe(
            {
                "sku_crops": crops.digest,
                "clip_embeddings": embeddings.digest,
                "clip_checkpoint": checkpoint.digest,
                "fingerprints": fingerprints.digest,
            }
        )

        def build(directory: Path) -> dict[str, Any]:
            images = with_paths(pl.read_parquet(embeddings.path / "images.parquet"), crops.path)
            labels = label_queries(
                labelled_queries(images, shard_part(settings.labels.train_queries, preset.shards, shard)),
                pl.read_parquet(fingerprints.path / "fingerprints.parquet"),
                models.load_encoder(checkpoint.path / "encoder"),
                settings.actions,
                settings.labels.batch_size,
                store.scratch(step.shard_key(shard), recipe),
                progress(context, f"photos of {context.partition_key}"),
            )
            labels.write_parquet(directory / "labels.parquet", compression="zstd")
            return {"queries": labels.height}

        artifact = store.produce(step.shard_key(shard), recipe, build)
        labels = pl.read_parquet(artifact.path / "labels.parquet")
        return result(
            artifact, {**frame_metadata(labels), "winners": counts_table(labels, ["role", "winner"])}
        )

    @asset(steps["vla_checkpoint"])
    def vla_checkpoint(
        context: dg.AssetExecutionContext, artifacts: ArtifactStoreResource
    ) -> dg.MaterializeResult:
        from skufp_pipeline.policy.policy_train import train_policy, used_by_policy

        store, step = artifacts.get(), steps["vla_checkpoint"]
        checkpoint, fingerprints = (store.read(graph[n].key) for n in ("clip_checkpoint", "fingerprints"))
        shards = read_shards(store, steps["vla_labels"], preset.shards)
        for shard in shards:
            shard.require_input("fingerprints", fingerprints.digest)
        recipe = step.recipe(
            {shard.manifest.artifact: shard.digest for shard in shards}
            | {"clip_checkpoint": checkpoint.digest, "fingerprints": fingerprints.digest}
        )

        def build(directory: Path) -> dict[str, Any]:
            labels = pl.concat([pl.read_parquet(shard.path / "labels.parquet") for shard in shards])
            scratch = store.scratch(step.key, recipe)
            policy, history, figures = train_policy(
                labels, settings.actions, settings.training, preset.seed, scratch, context.log.info
            )
            policy.save(directory)
            (directory / "history.json").write_text(json.dumps(history, indent=1) + "\n")
            used_by_policy(labels).write_parquet(directory / "used_queries.parquet", compression="zstd")
            return {"queries": labels.height, "gate": _gate(policy.calibration.is_open), **figures}

        artifact = store.produce(step.key, recipe, build)
        history = json.loads((artifact.path / "history.json").read_text())
        return result(artifact, {"curve": picture(training_curves(history, ("loss",), "development_loss"))})

    @asset(steps["policy_report"], [DOES_NO_HARM, HELPS_DEGRADED])
    def policy_report(
        context: dg.AssetExecutionContext, artifacts: ArtifactStoreResource, models: ModelProvider
    ) -> dg.MaterializeResult:
        from skufp_pipeline.evaluation.policy import confusion, evaluation_photos, judge_policy, try_actions
        from skufp_pipeline.evaluation.policy_sheet import before_and_after
        from skufp_pipeline.policy.network import load_policy

        store, step = artifacts.get(), steps["policy_report"]
        shards = read_embedding_shards(store, graph["clip_embeddings"], graph["clip_checkpoint"], preset)
        fingerprints = store.read(graph["fingerprints"].key)
        require_inputs(fingerprints, embedding_inputs(shards))
        checkpoint = store.read(steps["vla_checkpoint"].key)
        checkpoint.require_input("fingerprints", fingerprints.digest)
        raw = store.read(graph["raw_dataset"].key)
        recipe = step.recipe(
            {a.manifest.artifact: a.digest for a in [*shards, fingerprints, checkpoint, raw]}
        )

        def build(directory: Path) -> dict[str, Any]:
            table = pl.read_parquet(fingerprints.path / "fingerprints.parquet")
            photos = evaluation_photos(
                embedding_tables(shards).images, table["sku_id"], settings.report_queries
            )
            photos = photos.with_columns(path=crop_files(store, photos, graph["sku_crops"], preset))
            encoder = models.load_encoder(store.read(graph["clip_checkpoint"].key).path / "encoder")
            policy = load_policy(checkpoint.path)
            told = progress(context, "evaluation photos")
            queries = try_actions(photos, encoder, policy, told)
            judged, per_query = judge_policy(
                queries, table, degradations_of(preset, raw, photos), preset.evaluation.resamples, preset.seed
            )
            judged.write_parquet(directory / "policy.parquet", compression="zstd")
            per_query.write_parquet(directory / "queries.parquet", compression="zstd")
            confusion(queries, table).write_parquet(directory / "confusion.parquet", compression="zstd")
            sheet = before_and_after(per_query, photos, policy.actions, SHOWN)
            sheet.save(directory / SHEET, quality=85)
            return {"queries": photos.height}

        artifact = store.produce(step.key, recipe, build)
        judged = pl.read_parquet(artifact.path / "policy.parquet")
        shown = judged.filter(pl.col("setting") == "seen+zero").select(
            "part", "arm", "queries", "recall@1", "recall@5", "mrr", "recall@1_gain", "recall@1_low",
            "recall@1_high", "encoded_twice",
        )  # fmt: skip
        return result(
            artifact,
            {
                "arms": markdown_table(shown),
                "confusion": markdown_table(pl.read_parquet(artifact.path / "confusion.parquet")),
                "before_and_after": picture_file(artifact.path / SHEET),
            },
            [policy_does_no_harm(judged), policy_helps_degraded(judged, settings.thresholds)],
        )

    return [vla_labels, vla_checkpoint, policy_report]


def shard_part(limit: int | None, shards: int, shard: int) -> int | None:
    """This shard's part of a limit over all shards; parts differ by one at most."""
    return None if limit is None else (limit + shards - 1 - shard) // shards


def degradations_of(preset: Preset, raw: Artifact, photos: pl.DataFrame) -> pl.DataFrame | None:
    """What spoilt each photo, by `query_id`; None where the data set does not say."""
    table = preset.dataset.degradations(raw.path)
    if table is None:
        return None
    return photos.select("query_id", "split", "image_id").join(table, on=["split", "image_id"], how="left")


def crop_files(store: ArtifactStore, photos: pl.DataFrame, sku_crops: Step, preset: Preset) -> pl.Series:
    """Where the photos' crops stand on this machine."""
    rows: Sequence[dict[str, Any]] = photos.select("sku_id", "image_path").to_dicts()
    found = [str(store.local_path(crop_path(row, sku_crops, preset))) for row in rows]
    return pl.Series("path", found, dtype=pl.String)


def _gate(is_open: bool) -> str:
    return "open" if is_open else "closed"
