"""Group `index`: the bundle that a search loads, and the encoder that its queries' photos go through."""

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
from skufp_pipeline.assets.show import counts_table, frame_metadata, result
from skufp_pipeline.checks.release import (
    RECALL,
    RELEASE_CHECKS,
    index_is_exact,
    not_rolled_back,
    recall_holds,
    skus_are_covered,
)
from skufp_pipeline.compute import Needs
from skufp_pipeline.datasets.table import DEVELOPMENT, GALLERY
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.presets import Preset
from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.search.bundle import IMAGE_ENCODER, INDEX, POLICY_INPUT, build_index
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.judging import recall_at_1
from skufp_pipeline.search.parity import ParityPhotos, parity_photos
from skufp_pipeline.search.release import in_use, keep_encoders, publish, read_releases
from skufp_pipeline.steps import Step, asset
from skufp_pipeline.store import Artifact, ArtifactStore, shard_key

_KERNELS = (
    "addresses", "batch", "bounds", "compiled", "encode", "score", "shapes", "simd", "single", "threads",
)  # fmt: skip
_BUILDING = (
    "search.bundle", "search.judging", "encoders.tables",
    "fingerprint.tables", "fingerprint.teachers", "fingerprint.views", "measures.metrics", "measures.ranks",
)  # fmt: skip
INDEX_MODULES = (
    *(f"skufp_pipeline.search.{name}" for name in ("codes", "files", "index", "rows", "scan", "segment")),
    *(f"skufp_pipeline.search.kernels.{name}" for name in _KERNELS),
)


def index_steps(preset: Preset) -> dict[str, Step]:
    """The steps of this group; the exported encoder has a place only where a preset asks for it."""
    steps = [_index_step(preset)]
    if preset.query_encoder.engine == "onnx":
        steps.append(_image_encoder_step(preset))
    return {step.name: step for step in steps}


_TABLES = ("annotations", "image_text", "clip_embeddings", "best_shot_teachers", "fingerprints")


def _index_step(preset: Preset) -> Step:
    exported = ("image_encoder_onnx",) if preset.query_encoder.engine == "onnx" else ()
    policy = (POLICY_INPUT,) if preset.policy else ()
    return Step(
        "search_index",
        INDEX,
        "index",
        {"numpy", "parquet"},
        "The bundle a search loads: fingerprints, SKU table, references to encoders, aggregator and policy. "
        "A candidate that passes its checks is put in use: `index/CURRENT` names it.",
        (*(f"skufp_pipeline.{name}" for name in _BUILDING), *INDEX_MODULES),
        {"segment_rows": preset.index_segment_rows},
        Needs(preset.compute.cores, preset.compute.memory_gib),
        (*_TABLES, *exported, *policy),
    )


def _image_encoder_step(preset: Preset) -> Step:
    settings = preset.query_encoder.model_dump(include={"precision", "parity_photos"})
    return Step(
        "image_encoder_onnx",
        IMAGE_ENCODER,
        "index",
        {"onnx"},
        "The encoder's image tower for ONNX Runtime, which encodes the photos of queries: int8 where that "
        "stays near PyTorch, else float32. The gallery stays PyTorch's.",
        tuple("skufp_pipeline." + name for name in _IMAGE_ENCODER_MODULES),
        {"query_encoder": settings, "max_views": preset.fingerprint.max_views},
        Needs(preset.compute.cores, preset.compute.memory_gib),
        ("sku_crops", "clip_checkpoint", "clip_embeddings"),
        trained=True,
    )


_IMAGE_ENCODER_MODULES = (
    "encoders.export", "encoders.onnx", "encoders.parity", "encoders.clip", "encoders.embed",
    "encoders.tables", "search.parity", "fingerprint.views", "measures.metrics", "measures.ranks",
    "photos",
)  # fmt: skip


def index_assets(preset: Preset, others: dict[str, Step]) -> list[dg.AssetsDefinition]:
    """The assets of this group, given the steps before it."""
    step = index_steps(preset)["search_index"]

    @asset(step, RELEASE_CHECKS)
    def search_index(artifacts: ArtifactStoreResource) -> dg.MaterializeResult:
        store = artifacts.get()
        fingerprints = store.read(others["fingerprints"].key)
        teachers = store.read(others["best_shot_teachers"].key)
        texts = read_shards(store, others["image_text"], preset.shards)
        shards = read_embedding_shards(store, others["clip_embeddings"], others["clip_checkpoint"], preset)
        for table in (fingerprints, teachers):
            require_inputs(table, embedding_inputs(shards))
        aggregator = store.read(others["fingerprint_checkpoint"].key)
        fingerprints.require_input("fingerprint_checkpoint", aggregator.digest)
        encoders = _query_encoders(store, others)
        references = {name: encoder.digest for name, encoder in encoders.items()}
        references["fingerprint_checkpoint"] = aggregator.digest
        inputs = {a.manifest.artifact: a.digest for a in [fingerprints, teachers, *texts]} | references
        recipe = step.recipe(inputs)

        def build(directory: Path) -> dict[str, Any]:
            crops_of_shard = {
                shard: shard_key(others["sku_crops"].key, shard) for shard in range(preset.shards)
            }
            tables = {
                crops_of_shard[shard]: pl.read_parquet(text.path / "image_text.parquet")
                for shard, text in enumerate(texts)
            }
            index = build_index(
                directory,
                pl.scan_parquet(fingerprints.path / "fingerprints.parquet"),
                pl.read_parquet(teachers.path / "teachers.parquet"),
                tables,
                references,
                preset.index_segment_rows,
            )
            size = {"skus": len(index), "dimension": index.dimension, "segments": len(index.segments)}
            return {**size, RECALL: _development_recall(index, shards)}

        candidate = store.produce(f"{INDEX}/{recipe.digest}", recipe, build)
        keep_encoders(store, encoders.values())
        checks = judge(store, candidate, _catalogue_skus(store, others), preset)
        passed = all(check.passed for check in checks)
        pruned = publish(store, recipe.digest, preset.kept_index_versions) if passed else 0
        skus = FingerprintIndex.load(candidate.path).skus
        return result(
            candidate,
            {
                **frame_metadata(skus),
                "version": recipe.digest,
                "published": int(passed),
                "pruned_versions": pruned,
                "skus_by_category": counts_table(skus, ["split", "category_name"]),
            },
            checks,
        )

    if preset.query_encoder.engine == "onnx":
        return [search_index, _image_encoder_asset(preset, others)]
    return [search_index]


def judge(
    store: ArtifactStore, candidate: Artifact, catalogue: pl.Series, preset: Preset
) -> list[dg.AssetCheckResult]:
    """What each check says of a candidate; it is put in use where all of them pass."""
    thresholds = preset.evaluation.thresholds
    index = FingerprintIndex.load(candidate.path)
    return [
        index_is_exact(candidate, index, preset.seed),
        skus_are_covered(index, catalogue, thresholds),
        recall_holds(candidate, in_use(store), thresholds),
        not_rolled_back(candidate.path.name, read_releases(store).withdrawn),
    ]


def _query_encoders(store: ArtifactStore, others: dict[str, Step]) -> dict[str, Artifact]:
    """What turns the queries of an index into vectors, by asset name; all of one checkpoint."""
    checkpoint = store.read(others["clip_checkpoint"].key)
    encoders = {"clip_checkpoint": checkpoint}
    if "image_encoder_onnx" in others:
        exported = store.read(others["image_encoder_onnx"].key)
        exported.require_input("clip_checkpoint", checkpoint.digest)
        encoders["image_encoder_onnx"] = exported
    if POLICY_INPUT in others:
        # Of the same encoder, but not of the same fingerprints: they change from day to day.
        policy = store.read(others[POLICY_INPUT].key)
        policy.require_input("clip_checkpoint", checkpoint.digest)
        encoders[POLICY_INPUT] = policy
    return encoders


def _development_recall(index: FingerprintIndex, shards: list[Artifact]) -> float | None:
    mine = (pl.col("role") == DEVELOPMENT) & (pl.col("split") == "train")
    queries = embedding_tables(shards).images.filter(mine)
    return recall_at_1(index, embedding_rows(queries), queries["sku_id"])


def _catalogue_skus(store: ArtifactStore, others: dict[str, Step]) -> pl.Series:
    """The SKUs that have a catalog view."""
    items = pl.read_parquet(store.read(others["annotations"].key).path / "items" / "*.parquet")
    return items.filter(pl.col("role") == GALLERY)["sku_id"].unique()


def photos_of_training(
    store: ArtifactStore, shards: list[Artifact], sku_crops: Step, preset: Preset, count: int
) -> tuple[ParityPhotos, list[Path]]:
    """`count` photos to judge the exported encoder on, and their files."""
    photos = parity_photos(embedding_tables(shards).images, count, preset.fingerprint.max_views)
    rows = photos.rows.iter_rows(named=True)
    return photos, [store.local_path(crop_path(row, sku_crops, preset)) for row in rows]


def _image_encoder_asset(preset: Preset, others: dict[str, Step]) -> dg.AssetsDefinition:
    step, settings = _image_encoder_step(preset), preset.query_encoder

    @asset(step)
    def image_encoder_onnx(artifacts: ArtifactStoreResource) -> dg.MaterializeResult:
        import torch

        from skufp_pipeline.encoders.clip import load_encoder
        from skufp_pipeline.encoders.export import build_image_encoder

        store = artifacts.get()
        shards = read_embedding_shards(store, others["clip_embeddings"], others["clip_checkpoint"], preset)
        checkpoint = store.read(others["clip_checkpoint"].key)

        def build(directory: Path) -> dict[str, Any]:
            photos, files = photos_of_training(
                store, shards, others["sku_crops"], preset, settings.parity_photos
            )
            photos.used().write_parquet(directory / "used_queries.parquet", compression="zstd")
            encoder = load_encoder(checkpoint.path / "encoder", torch.device("cpu"))
            return build_image_encoder(encoder, files, photos.reference, photos.judge, settings, directory)

        artifact = store.produce(step.key, step.recipe(embedding_inputs(shards)), build)
        size = artifact.manifest.files["image_encoder.onnx"].bytes
        return result(artifact, {"model_megabytes": round(size / 1e6, 1)})

    image_encoder: dg.AssetsDefinition = image_encoder_onnx
    return image_encoder
