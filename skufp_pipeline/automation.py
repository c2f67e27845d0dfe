"""Jobs: the stages of the graph, each of one partitioning, in the order they run."""

from dataclasses import dataclass
from typing import Any

import dagster as dg

from skufp_pipeline.assets.declare import Step


@dataclass(frozen=True)
class Stage:
    """A run of assets that can be materialized together: all sharded, or none."""

    name: str
    assets: tuple[str, ...]
    sharded: bool


def stages(steps: dict[str, Step]) -> list[Stage]:
    """The whole graph, in order; `skufp materialize` runs one after the other."""
    exported = [name for name in ("image_encoder_onnx",) if name in steps]
    checkpoints = [name for name in ("clip_checkpoint", "reid_checkpoint") if name in steps]
    encoded = ("clip_embeddings", "frozen_clip_embeddings", "reid_embeddings")
    embeddings = [name for name in encoded if name in steps]
    trained = [name for name in ("sd_base", "view_filters", "sd_lora") if name in steps]
    policy = [name for name in ("vla_checkpoint", "policy_report") if name in steps]
    label = [Stage("label_policy", ("vla_labels",), sharded=True)] if policy else []
    learn = [Stage("train_policy", tuple(policy), sharded=False)] if policy else []
    generated = [name for name in ("generated_views", "generated_view_embeddings") if name in steps]
    views = [Stage("train_views", tuple(trained), sharded=False)] if trained else []
    views += [Stage("generate_views", tuple(generated), sharded=True)] if generated else []
    return [
        Stage("read_catalog", ("raw_dataset", "annotations"), sharded=False),
        Stage("build_catalog_shards", ("sku_crops", "image_text"), sharded=True),
        Stage("train_encoder", tuple(checkpoints), sharded=False),
        Stage("embed_shards", tuple(embeddings), sharded=True),
        *views,
        Stage(
            "train_fingerprints",
            ("best_shot_teachers", "fingerprint_checkpoint", "fingerprints"),
            sharded=False,
        ),
        *label,
        *learn,
        Stage("build_index", ("search_index", *exported, "retrieval_report"), sharded=False),
    ]


def jobs(steps: dict[str, Step]) -> list[Any]:
    """One job a stage."""
    return [
        dg.define_asset_job(stage.name, selection=dg.AssetSelection.assets(*stage.assets))
        for stage in stages(steps)
    ]
