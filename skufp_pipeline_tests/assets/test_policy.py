"""The assets of the query policy: one shard again, alone; stale labels and policies are refused; no leak."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.encoders.tables import embedding_column, embedding_rows
from skufp_pipeline.evaluation.policy import degradations_of
from skufp_pipeline.hashing import shard_part
from skufp_pipeline.policy.actions import ACTIONS

from ..graphs import Graph, checks, copy_graph, digests, failure, metadata, run_asset, times_of_change

SHARD = "tables/vla_labels/shard_0001"


@pytest.fixture
def mine(graph: Graph, tmp_path: Path) -> Graph:
    """A copy of the ci graph that a test may damage."""
    return copy_graph(graph, tmp_path)


def labels(graph: Graph) -> pl.DataFrame:
    shards = [graph.store.read(f"tables/vla_labels/shard_{n:04d}") for n in range(graph.preset.shards)]
    return pl.concat([pl.read_parquet(shard.path / "labels.parquet") for shard in shards])


def test_a_shard_made_again_is_the_same_and_the_only_one_written(mine: Graph) -> None:
    root = Path(mine.preset.data_root)
    before, times = digests(mine.store), times_of_change(root)
    shutil.rmtree(root / SHARD)
    assert metadata(run_asset(mine.preset, "vla_labels", 1))["computed"] == 1
    assert digests(mine.store) == before, "bit for bit"
    after = times_of_change(root)
    assert {file for file in times if after[file] != times[file]} == {
        file for file in times if file.startswith(SHARD)
    }


def test_an_unchanged_shard_is_skipped(graph: Graph) -> None:
    told = metadata(run_asset(graph.preset, "vla_labels", 0))
    assert (told["computed"], told["skipped_as_unchanged"]) == (0, 1)


def test_all_development_photos_and_the_limit_of_train_photos_are_labelled(graph: Graph) -> None:
    table = labels(graph)
    assert graph.preset.policy is not None
    assert (table["role"] == "train").sum() == graph.preset.policy.labels.train_queries
    assert table["query_id"].n_unique() == table.height
    assert set(table["role"]) == {"train", "development"}
    assert set(table["winner"]) <= set(ACTIONS)


def test_the_limit_is_shared_by_the_shards() -> None:
    assert [shard_part(10, 4, shard) for shard in range(4)] == [3, 3, 2, 2]
    assert shard_part(None, 4, 0) is None


def test_labels_of_other_fingerprints_are_refused_by_name(mine: Graph) -> None:
    shutil.rmtree(mine.store.read("tables/fingerprints").path)
    (aggregator,) = Path(mine.preset.data_root).glob("checkpoints/fingerprint/manifest.json")
    changed = mine.preset.model_copy(update={"seed": 18})
    shutil.rmtree(aggregator.parent)
    for name in ("fingerprint_checkpoint", "fingerprints"):
        assert run_asset(changed, name).success
    told = failure(run_asset(mine.preset, "vla_checkpoint"))
    assert "tables/vla_labels/shard_0000 was made with fingerprints " in told
    assert told.endswith("materialize tables/vla_labels/shard_0000 again")
    assert metadata(run_asset(mine.preset, "vla_labels", 0))["computed"] == 1, "stale, so made again"


def test_the_index_refuses_a_policy_of_another_encoder_and_names_its_own(mine: Graph) -> None:
    index = mine.store.read(f"index/fingerprints/{mine.store.read_pointer('index/fingerprints/CURRENT')}")
    policy = mine.store.read("checkpoints/vla")
    index.require_input("vla_checkpoint", policy.digest)
    manifest = policy.path / "manifest.json"
    digest = mine.store.read("checkpoints/clip").digest
    manifest.write_text(manifest.read_text().replace(digest, "of-yesterday"))
    assert "checkpoints/vla was made with clip_checkpoint of-yesterday" in failure(
        run_asset(mine.preset, "search_index")
    )


def test_embeddings_of_scored_photos_may_be_anything_for_the_policy(mine: Graph) -> None:
    """Made again with noise in the place of every evaluation query, it is the same policy."""
    before = digests(mine.store)
    rng = np.random.default_rng(0)
    for shard in range(mine.preset.shards):
        folder = mine.store.read(f"tables/clip_embeddings/shard_{shard:04d}").path
        rows = pl.read_parquet(folder / "images.parquet")
        embeddings = embedding_rows(rows)
        held = (rows["role"] == "evaluation").to_numpy()
        noise = rng.standard_normal(embeddings.shape).astype(np.float32)
        embeddings[held] = (noise / np.linalg.norm(noise, axis=1, keepdims=True))[held]
        (folder / "images.parquet").unlink()
        rows.with_columns(embedding_column(embeddings)).write_parquet(folder / "images.parquet")
        shutil.rmtree(mine.store.read(f"tables/vla_labels/shard_{shard:04d}").path)
        assert metadata(run_asset(mine.preset, "vla_labels", shard))["computed"] == 1
    shutil.rmtree(mine.store.read("checkpoints/vla").path)
    assert metadata(run_asset(mine.preset, "vla_checkpoint"))["computed"] == 1
    assert digests(mine.store) == before


def test_the_report_judges_every_arm_on_evaluation_photos_alone(graph: Graph) -> None:
    report = graph.store.read("reports/policy").path
    table = pl.read_parquet(report / "policy.parquet")
    assert {"off", "random", "average", "mirror", "likeliest", "gated", "constant", "oracle"} < set(
        table["arm"]
    )
    assert {"all", "degraded", "cast", "noise"} < set(table["part"])
    oracle, off = (
        table.filter((pl.col("arm") == arm) & (pl.col("part") == "all"))["recall@1"]
        for arm in ("oracle", "off")
    )
    assert (oracle >= off).all()
    asked = set(pl.read_parquet(report / "queries.parquet")["query_id"])
    assert graph.preset.policy is not None
    assert len(asked) == graph.preset.policy.report_queries
    assert asked.isdisjoint(labels(graph)["query_id"])


def test_the_report_compares_the_gate_with_the_constant_that_development_photos_chose(graph: Graph) -> None:
    checkpoint, report = (graph.store.read(key) for key in ("checkpoints/vla", "reports/policy"))
    held = labels(graph).filter(pl.col("role") == "development")
    mrr = (1 / held["ranks"].to_numpy()).mean(axis=0)
    chosen = ACTIONS[mrr.round(9).argmax()]
    assert checkpoint.summary["constant"] == report.summary["constant"] == chosen
    assert checkpoint.summary["constant_mrr"] == pytest.approx(mrr.max())
    assert chosen in checkpoint.summary["verdict"] or "doing nothing" in checkpoint.summary["verdict"]
    table = pl.read_parquet(report.path / "policy.parquet")
    arms = {row["arm"]: row for row in table.filter(part="all", setting="seen+zero").to_dicts()}
    same = arms["off" if chosen == "identity" else f"always_{chosen}"]
    assert arms["constant"] == {**same, "arm": "constant"}
    assert report.summary["constant_encoded_twice"] == float(chosen != "identity")
    gain = arms["gated"]["recall@1"] - arms["constant"]["recall@1"]
    assert report.summary["gated_over_constant"] == pytest.approx(gain)


def test_the_report_says_whether_the_policy_does_harm(graph: Graph) -> None:
    result = run_asset(graph.preset, "policy_report")
    assert metadata(result)["computed"] == 0
    assert set(checks(result)) == {"policy_does_no_harm", "policy_helps_degraded_photos"}


def test_degradations_are_joined_to_the_photos_of_their_split(graph: Graph, tmp_path: Path) -> None:
    folder = tmp_path / "degradations"
    folder.mkdir()
    pl.DataFrame(
        {"split": ["train", "validation"], "image_id": ["000001"] * 2, "noise": [1.0, 9.0]}
    ).write_parquet(folder / "pair_000001.parquet")
    photos = pl.DataFrame(
        {"query_id": ["a", "b"], "split": ["validation", "train"], "image_id": ["000001", "000002"]}
    )
    table = degradations_of(graph.preset.dataset.degradations(tmp_path), photos)
    assert table is not None
    assert dict(table.select("query_id", "noise").iter_rows()) == {"a": 9.0, "b": None}
