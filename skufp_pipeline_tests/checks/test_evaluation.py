"""Every check of a whole result passes on the small graph and fails on a spoilt copy of it."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from skufp_pipeline.definitions import build_defs
from skufp_pipeline.resources.store import ArtifactStoreResource

from ..graphs import Graph, copy_graph

IN_SMALL_GRAPH = [
    "clip_checkpoint",
    "reid_checkpoint",
    "autoencoder_checkpoint",
    "best_shot_teachers",
    "fingerprint_checkpoint",
    "fingerprints",
    "image_encoder_onnx",
]


def evaluate(graph: Graph, name: str, **thresholds: Any) -> dg.AssetCheckResult:
    """What the check `asset:name` says of a graph, under these thresholds."""
    preset = graph.preset
    changed = preset.evaluation.thresholds.model_copy(update=thresholds)
    evaluation = preset.evaluation.model_copy(update={"thresholds": changed})
    preset = preset.model_copy(update={"evaluation": evaluation})
    for check in build_defs(preset).asset_checks or []:
        if f"{check.check_key.asset_key.to_user_string()}:{check.check_key.name}" == name:
            result = check(ArtifactStoreResource(root=preset.data_root))
            assert isinstance(result, dg.AssetCheckResult)
            return result
    raise AssertionError(f"there is no check {name}")


def rewrite(path: Path, frame: pl.DataFrame) -> None:
    path.unlink()
    frame.write_parquet(path)


def evaluation_queries(graph: Graph) -> pl.DataFrame:
    shards = range(graph.preset.shards)
    folders = [graph.store.read(f"tables/clip_embeddings/shard_{shard:04d}").path for shard in shards]
    images = pl.concat([pl.read_parquet(folder / "images.parquet") for folder in folders])
    return images.filter(pl.col("role") == "evaluation")


def test_splits_without_a_common_sku_pass(small_graph: Graph) -> None:
    assert evaluate(small_graph, "annotations:splits_disjoint").passed


def test_a_sku_in_two_splits_fails_by_name(spoilt: Graph) -> None:
    path = spoilt.store.read("tables/annotations").path / "items" / "shard_0000.parquet"
    items = pl.read_parquet(path)
    sku_id = items.filter(pl.col("split") == "train")["sku_id"][0]
    stray = items.filter(pl.col("sku_id") == sku_id).head(1).with_columns(split=pl.lit("validation"))
    rewrite(path, pl.concat([items, stray]))
    result = evaluate(spoilt, "annotations:splits_disjoint")
    assert not result.passed
    assert result.metadata["skus_in_two_splits"].value == [sku_id]


@pytest.mark.parametrize("asset", IN_SMALL_GRAPH)
def test_what_was_trained_leak_free_passes(small_graph: Graph, asset: str) -> None:
    result = evaluate(small_graph, f"{asset}:no_evaluation_query_used")
    assert result.passed
    assert result.metadata["evaluation"].value > 0
    assert result.metadata["used"].value > 0


def test_the_query_policy_is_held_to_it_too(graph: Graph, tmp_path: Path) -> None:
    check = "vla_checkpoint:no_evaluation_query_used"
    assert evaluate(graph, check).passed
    copy = copy_graph(graph, tmp_path)
    path = copy.store.read(copy.steps["vla_checkpoint"].stored.key).path / "used_queries.parquet"
    used = pl.read_parquet(path)
    held = evaluation_queries(copy)["item_id"][0]
    rewrite(path, pl.concat([used, used.head(1).with_columns(query_id=pl.lit(held))]))
    result = evaluate(copy, check)
    assert not result.passed
    assert result.metadata["leaked"].value == [held]


@pytest.mark.parametrize("asset", IN_SMALL_GRAPH)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_one_evaluation_query_among_the_used_ones_fails_by_name(
    spoilt: Graph, asset: str, split: str
) -> None:
    held = evaluation_queries(spoilt).filter(pl.col("split") == split)["item_id"][0]
    path = spoilt.store.read(spoilt.steps[asset].stored.key).path / "used_queries.parquet"
    used = pl.read_parquet(path)
    rewrite(path, pl.concat([used, used.head(1).with_columns(query_id=pl.lit(held))]))
    result = evaluate(spoilt, f"{asset}:no_evaluation_query_used")
    assert not result.passed
    assert result.metadata["leaked"].value == [held]


@pytest.mark.parametrize("asset", IN_SMALL_GRAPH)
def test_a_result_that_recorded_no_query_fails(spoilt: Graph, asset: str) -> None:
    path = spoilt.store.read(spoilt.steps[asset].stored.key).path / "used_queries.parquet"
    rewrite(path, pl.read_parquet(path).clear())
    assert not evaluate(spoilt, f"{asset}:no_evaluation_query_used").passed


def report(graph: Graph) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (graph.store.read("reports/retrieval").path / "report.json").read_text()
    )
    return found


def test_the_encoders_recall_must_lie_in_the_presets_range(small_graph: Graph) -> None:
    recall = report(small_graph)["settings"]["seen+zero"]["image"]["models"]["mean_sku"]["recall@1"]
    name = "retrieval_report:encoder_recall_in_range"
    assert evaluate(small_graph, name, encoder_recall_low=recall, encoder_recall_high=recall).passed
    assert not evaluate(small_graph, name, encoder_recall_low=recall + 0.001).passed
    assert not evaluate(small_graph, name, encoder_recall_high=recall - 0.001).passed
    assert evaluate(small_graph, name).metadata["recall@1"].value == recall


def test_the_fingerprints_gain_must_reach_the_presets(small_graph: Graph) -> None:
    settings = report(small_graph)["settings"]
    seen, zero = (
        settings[name]["image"]["differences"]["fingerprint-mean_sku"]["recall@1"]
        for name in ("seen", "zero")
    )
    name = "retrieval_report:fingerprint_beats_mean_sku"
    assert evaluate(small_graph, name, fingerprint_gain_seen=seen["delta"]).passed
    assert not evaluate(small_graph, name, fingerprint_gain_seen=seen["delta"] + 0.001).passed
    assert evaluate(small_graph, name, fingerprint_gain_zero_low=zero["low"] - 0.001).passed
    assert not evaluate(small_graph, name, fingerprint_gain_zero_low=zero["low"]).passed


def test_the_search_must_be_quick_enough(small_graph: Graph) -> None:
    p95 = report(small_graph)["latency"]["stages"]["search"]["p95_ms"]
    name = "retrieval_report:search_latency_within_budget"
    assert evaluate(small_graph, name, search_p95_ms=p95).passed
    assert not evaluate(small_graph, name, search_p95_ms=p95 * 0.99).passed
