"""Group `index`: the bundle that a search loads, published under its version."""

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.assets.catalog import read_shards
from skufp_pipeline.assets.declare import Step, asset
from skufp_pipeline.assets.fingerprints import embedding_inputs, read_embedding_shards, require_inputs
from skufp_pipeline.assets.show import counts_table, frame_metadata, result
from skufp_pipeline.compute import Needs
from skufp_pipeline.presets import Preset
from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.search.bundle import CURRENT, INDEX, build_index, prune
from skufp_pipeline.store import shard_key


def index_steps(preset: Preset) -> dict[str, Step]:
    """The one step of this group."""
    step = Step(
        "search_index",
        INDEX,
        "index",
        {"numpy", "parquet"},
        "The bundle a search loads: fingerprints, SKU table, references to the encoder and aggregator. "
        "`index/CURRENT` names the version in use.",
        ("skufp_pipeline.search.bundle", "skufp_pipeline.search.index", "skufp_pipeline.encoders.tables"),
        {},
        Needs(preset.compute.cores, preset.compute.memory_gib),
        ("image_text", "best_shot_teachers", "fingerprints"),
    )
    return {step.name: step}


def index_assets(preset: Preset, others: dict[str, Step]) -> list[dg.AssetsDefinition]:
    """The one asset of this group, given the steps before it."""
    step = index_steps(preset)["search_index"]

    @asset(step)
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
        references = {
            "clip_checkpoint": store.read(others["clip_checkpoint"].key).digest,
            "fingerprint_checkpoint": aggregator.digest,
        }
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
                pl.read_parquet(fingerprints.path / "fingerprints.parquet"),
                pl.read_parquet(teachers.path / "teachers.parquet"),
                tables,
                references,
            )
            index.save(directory)
            return {"skus": len(index), "dimension": index.dimension}

        artifact = store.produce(f"{INDEX}/{recipe.digest}", recipe, build)
        store.write_pointer(CURRENT, recipe.digest)
        pruned = prune(store, recipe.digest, preset.kept_index_versions)
        skus = pl.read_parquet(artifact.path / "skus.parquet")
        return result(
            artifact,
            {
                **frame_metadata(skus),
                "version": recipe.digest,
                "pruned_versions": pruned,
                "skus_by_category": counts_table(skus, ["split", "category_name"]),
            },
        )

    return [search_index]
