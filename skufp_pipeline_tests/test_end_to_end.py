"""The whole graph: complete, recorded, free of leaks, the same every time, and safe to kill."""

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

from skufp_pipeline.artifacts.kinds import UsesQueries
from skufp_pipeline.datasets.table import item_id
from skufp_pipeline.definitions import graph_steps
from skufp_pipeline.encoders.tables import embedding_column, embedding_rows
from skufp_pipeline.evaluation.protocol import MODALITIES, SETTING_SPLITS, SETTINGS
from skufp_pipeline.measures.metrics import METRICS
from skufp_pipeline.presets import load_preset

from .graphs import (
    SMALL,
    Graph,
    command,
    copy_graph,
    digests,
    environment,
    materialize_here,
    metadata,
    run_asset,
    write_preset,
)
from .test_definitions import CI_ASSETS, CI_CHECKS, SHARDS

TRAINED = [
    name
    for name, step in graph_steps(load_preset("ci")).items()
    if issubclass(step.stored.reader, UsesQueries)
]

MODELS = {"mean_sku", "trimmed_mean", "medoid", "best_shot", "fingerprint"}
IMAGE_MODELS = {*MODELS, "reid"}
STAGES = {"decode", "preprocess", "encode_image", "encode_image_pytorch", "encode_text", "search"}


@pytest.fixture
def instance(graph: Graph) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(graph.home)) as opened:
        yield opened


def report(graph: Graph) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (graph.store.read("reports/retrieval").path / "report.json").read_text()
    )
    return found


def table(graph: Graph, name: str) -> pl.DataFrame:
    """The images or texts of every embedding shard."""
    shards = range(graph.preset.shards)
    folders = [graph.store.read(f"tables/clip_embeddings/shard_{shard:04d}").path for shard in shards]
    return pl.concat([pl.read_parquet(folder / f"{name}.parquet") for folder in folders])


def used_queries(graph: Graph, asset: str) -> pl.DataFrame:
    return pl.read_parquet(graph.store.read(graph.steps[asset].stored.key).path / "used_queries.parquet")


def test_every_asset_is_materialized_in_every_partition(graph: Graph, instance: dg.DagsterInstance) -> None:
    keys = {f"shard_{shard:04d}" for shard in range(graph.preset.shards)}
    for name, (_, partitions, _) in CI_ASSETS.items():
        records = instance.fetch_materializations(dg.AssetKey(name), limit=100).records
        assert {record.partition_key for record in records} == (keys if partitions == SHARDS else {None})
        assert len(records) == (len(keys) if partitions == SHARDS else 1), name


def test_every_check_ran_and_is_recorded_and_those_that_block_passed(
    graph: Graph, instance: dg.DagsterInstance
) -> None:
    found: dict[str, set[bool]] = {}
    for run in instance.get_runs():
        assert run.status == dg.DagsterRunStatus.SUCCESS
        for event in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
            check = event.get_dagster_event().event_specific_data
            assert isinstance(check, dg.AssetCheckEvaluation)
            found.setdefault(f"{check.asset_key.to_user_string()}:{check.check_name}", set()).add(
                check.passed
            )
    assert set(found) == set(CI_CHECKS)
    assert all(found[name] == {True} for name, blocks in CI_CHECKS.items() if blocks)


def test_metadata_holds_counts_schemas_pictures_and_tables(instance: dg.DagsterInstance) -> None:
    def told(name: str) -> dict[str, Any]:
        (record, *_) = instance.fetch_materializations(dg.AssetKey(name), limit=1).records
        assert record.asset_materialization is not None
        return {key: value.value for key, value in record.asset_materialization.metadata.items()}

    for name in CI_ASSETS:
        assert told(name)["computed"] == 1
        assert Path(str(told(name)["path"])).is_dir()
    for name in ("annotations", "sku_crops", "image_text", "clip_embeddings", "fingerprints", "search_index"):
        assert told(name)["dagster/row_count"] > 0
        assert told(name)["dagster/column_schema"].columns
    for name, shown in (
        ("sku_crops", "contact_sheet"),
        ("clip_checkpoint", "curve"),
        ("reid_checkpoint", "curve"),
        ("fingerprint_checkpoint", "curve"),
        ("retrieval_report", "recall"),
        ("retrieval_report", "latency"),
        ("retrieval_report", "grid"),
        ("sd_base", "curves"),
        ("sd_lora", "curve"),
        ("sd_lora", "samples"),
        ("generated_views", "contact_sheet"),
        ("vla_checkpoint", "curve"),
        ("policy_report", "before_and_after"),
        ("policy_report", "gains"),
        ("look_twice_checkpoint", "curve"),
        ("detector_checkpoint", "curve"),
        ("detection_report", "boxes"),
    ):
        assert ";base64," in told(name)[shown]
    assert told("annotations")["items_by_role"].split()[1:8:2] == ["split", "domain", "role", "rows"]
    assert "style_zero" in told("annotations")["skipped_by_reason"]
    assert " R@1 |" in told("retrieval_report")["tables"]


def test_what_a_person_reads_is_progress_and_nothing_else(graph: Graph) -> None:
    lines = graph.log.splitlines()
    assert lines[0] == "[1/12] read_catalog: raw_dataset, annotations"
    done = next(number for number, line in enumerate(lines) if "is materialized" in line)
    assert re.fullmatch(r"the graph of preset ci is materialized: \d+ s", lines[done])
    *checks, counts, listed = lines[done + 1 :]
    assert all(line.startswith("check not passed: ") for line in checks)
    assert re.match(r"catalogue: [\d,]+ rows read, [\d,]+ kept, [\d,]+ left out \(style_zero \d+", counts)
    assert listed.startswith("left out rows: ")
    for word in ("WARNING", "Telemetry", "dagster.yaml", "Traceback", "No pretrained weights"):
        assert word not in graph.log


def test_the_report_has_the_documented_form(graph: Graph) -> None:
    found = report(graph)
    assert (found["preset"], found["protocol"]) == ("ci", "leak-free")
    assert tuple(found["settings"]) == SETTINGS
    for setting in SETTINGS:
        assert tuple(found["settings"][setting]) == MODALITIES
        for modality in MODALITIES:
            result = found["settings"][setting][modality]
            assert set(result["models"]) == (IMAGE_MODELS if modality == "image" else MODELS)
            assert result["queries"] > 0
            assert result["gallery"] > 0
            for values in result["models"].values():
                assert tuple(values)[: len(METRICS)] == METRICS
                assert all(name.startswith("precision@10 ") for name in tuple(values)[len(METRICS) :])
                assert all(0 <= value <= 1 for value in values.values())
                recalls = [values[f"recall@{k}"] for k in (1, 5, 10, 20)]
                assert recalls == sorted(recalls)
            compared = {"fingerprint-mean_sku", "fingerprint-best_shot"}
            assert set(result["differences"]) == compared | image_only(modality)
            for difference in result["differences"].values():
                assert all(d["low"] <= d["delta"] <= d["high"] for d in difference.values())
    assert set(found["latency"]["stages"]) == STAGES
    for stage in [*found["latency"]["stages"].values(), found["latency"]["search_batched"]]:
        assert 0 < stage["p50_ms"] <= stage["p95_ms"]
    assert found["latency"]["threads"] >= 1


def image_only(modality: str) -> set[str]:
    """Baseline 1 knows no text."""
    return {"fingerprint-reid"} if modality == "image" else set()


def test_metrics_have_the_names_of_the_paper() -> None:
    assert METRICS == ("recall@1", "recall@5", "recall@10", "recall@20", "mrr", "ndcg@10")


def test_every_setting_counts_its_own_queries_and_skus(graph: Graph) -> None:
    held = table(graph, "images").filter(pl.col("role") == "evaluation")
    skus = pl.read_parquet(graph.store.read("tables/fingerprints").path / "fingerprints.parquet")
    for setting, splits in SETTING_SPLITS.items():
        result = report(graph)["settings"][setting]["image"]
        assert result["queries"] == held.filter(pl.col("split").is_in(splits)).height
        assert result["gallery"] == skus.filter(pl.col("split").is_in(splits)).height


def test_the_encoder_and_the_fingerprints_have_learnt_something(graph: Graph) -> None:
    for modality, factor in (("image", 2.0), ("text", 1.2)):  # a few epochs teach little of words
        result = report(graph)["settings"]["seen+zero"][modality]
        chance = 10 / result["gallery"]
        for name in ("mean_sku", "fingerprint"):
            assert result["models"][name]["recall@10"] > factor * chance, (modality, name)


def test_the_page_shows_both_tables_and_needs_no_network(graph: Graph) -> None:
    page = (graph.store.read("reports/retrieval").path / "report.html").read_text()
    assert "Table 1: Image-to-SKU retrieval" in page
    assert "Table 2: Text-to-SKU retrieval" in page
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r"<script|<link|(src|href)=.https?:", page)


@pytest.mark.parametrize("asset", TRAINED)
def test_no_scored_query_was_used_by(graph: Graph, asset: str) -> None:
    used = used_queries(graph, asset)
    scored = set()
    for name, key in (("images", "item_id"), ("texts", "text_id")):
        held = table(graph, name).filter(pl.col("role") == "evaluation")
        scored |= set(held[key])
    result = report(graph)["settings"]["seen+zero"]
    assert len(scored) >= max(result[modality]["queries"] for modality in MODALITIES)
    assert used.height > 0
    assert set(used["query_id"]) & scored == set()
    assert set(used["role"]) == set(used["use"]) <= {"train", "development"}


@pytest.mark.parametrize("asset", TRAINED)
def test_no_sku_of_another_split_than_training_was_used_by(graph: Graph, asset: str) -> None:
    items = pl.read_parquet(graph.store.read("tables/annotations").path / "items" / "*.parquet")
    split_of = dict(items.select("sku_id", "split").unique().iter_rows())
    assert {"train", "validation"} <= set(split_of.values())
    assert {split_of[sku_id] for sku_id in used_queries(graph, asset)["sku_id"]} == {"train"}


def test_what_training_lists_as_used_is_all_it_may_use(graph: Graph) -> None:
    items = pl.read_parquet(graph.store.read("tables/annotations").path / "items" / "*.parquet")
    mine = items.filter(
        (pl.col("split") == "train") & pl.col("role").is_in(["train", "development"])
    ).with_columns(item_id())
    images = set(mine["item_id"]) & set(table(graph, "images")["item_id"])
    assert images <= set(used_queries(graph, "clip_checkpoint")["query_id"])


def test_no_photo_is_both_scored_and_trained_on(graph: Graph) -> None:
    items = pl.read_parquet(graph.store.read("tables/annotations").path / "items" / "*.parquet")
    roles = (
        items.filter(pl.col("domain") == "query").group_by("split", "image_id").agg(pl.col("role").n_unique())
    )
    assert roles["role"].max() == 1


def test_scored_photos_and_texts_may_be_anything_for_the_encoder(small_graph: Graph, tmp_path: Path) -> None:
    """Trained again with noise in the place of every evaluation query, it is the same encoder."""
    copy = copy_graph(small_graph, tmp_path)
    spoilt = 0
    for shard in range(copy.preset.shards):
        crops = copy.store.read(f"crops/shard_{shard:04d}").path
        texts = copy.store.read(f"tables/image_text/shard_{shard:04d}").path
        for name in ("image_text", "text_queries"):
            rows = pl.read_parquet(texts / f"{name}.parquet")
            held = pl.col("role") == "evaluation"
            nonsense = pl.when(held).then(pl.lit("nonsense")).otherwise("text").alias("text")
            (texts / f"{name}.parquet").unlink()
            rows.with_columns(nonsense).write_parquet(texts / f"{name}.parquet")
            if name == "image_text":
                for path in rows.filter(held)["image_path"]:
                    Image.effect_noise((50, 50), 90).convert("RGB").save(crops / path)
                    spoilt += 1
    assert spoilt == report(copy)["settings"]["seen+zero"]["image"]["queries"]
    shutil.rmtree(copy.store.read("checkpoints/clip").path)
    assert metadata(run_asset(copy.preset, "clip_checkpoint"))["computed"] == 1
    assert digests(copy.store)["checkpoints/clip"] == digests(small_graph.store)["checkpoints/clip"]


def test_embeddings_of_scored_queries_may_be_anything_for_the_fingerprints(spoilt: Graph) -> None:
    """Made again with noise in the place of every evaluation query, they are the same fingerprints."""
    before = digests(spoilt.store)
    rng = np.random.default_rng(0)
    for shard in range(spoilt.preset.shards):
        folder = spoilt.store.read(f"tables/clip_embeddings/shard_{shard:04d}").path
        for name in ("images", "texts"):
            rows = pl.read_parquet(folder / f"{name}.parquet")
            embeddings = embedding_rows(rows)
            held = (rows["role"] == "evaluation").to_numpy()
            assert held.any()
            noise = rng.standard_normal(embeddings.shape).astype(np.float32)
            embeddings[held] = (noise / np.linalg.norm(noise, axis=1, keepdims=True))[held]
            (folder / f"{name}.parquet").unlink()
            rows.with_columns(embedding_column(embeddings)).write_parquet(folder / f"{name}.parquet")
    for name in ("best_shot_teachers", "fingerprint_checkpoint", "fingerprints"):
        shutil.rmtree(spoilt.store.read(spoilt.steps[name].stored.key).path)
        assert metadata(run_asset(spoilt.preset, name))["computed"] == 1
    assert digests(spoilt.store) == before


def test_the_same_seed_gives_the_same_bytes_in_another_place(small_graph: Graph, tmp_path: Path) -> None:
    again = materialize_here(write_preset(tmp_path, SMALL))
    first, second = digests(small_graph.store), digests(again.store)
    timed = {"reports/retrieval"}
    assert set(first) == set(second)
    assert {key for key in first if first[key] != second[key]} <= timed

    def without_times(graph: Graph) -> dict[str, Any]:
        found = {key: value for key, value in report(graph).items() if key != "latency"}
        times = ("p50_ms", "p95_ms")
        judged = [{k: v for k, v in stage.items() if k not in times} for stage in found.pop("stages")]
        return {**found, "stages": judged}

    assert without_times(small_graph) == without_times(again)
    for name in ("metrics.parquet", "recall.png", "grid.png"):
        files = [graph.store.read("reports/retrieval").files()[name].sha256 for graph in (small_graph, again)]
        assert files[0] == files[1], name


def test_another_seed_gives_another_encoder(small_graph: Graph, tmp_path: Path) -> None:
    copy = copy_graph(small_graph, tmp_path)
    any_recall = {
        **SMALL["evaluation"],
        "thresholds": {**SMALL["evaluation"]["thresholds"], "index_recall_drop": 1},
    }
    changed = {**yaml.safe_load(copy.preset_file.read_text()), "seed": 6, "evaluation": any_recall}
    other = materialize_here(write_preset(tmp_path, changed))
    first, second = digests(small_graph.store), digests(other.store)
    assert first["raw/dataset"] == second["raw/dataset"]
    for key in ("checkpoints/clip", "tables/clip_embeddings/shard_0000", "tables/fingerprints"):
        assert first[key] != second[key]


def test_a_graph_of_one_shard_works_and_finds_the_same_skus(small_graph: Graph, tmp_path: Path) -> None:
    one = {**SMALL, "shards": 1, "encoder": {**SMALL["encoder"], "training": {"epochs": 1, "cache_side": 72}}}
    alone = materialize_here(write_preset(tmp_path, one))
    for modality in MODALITIES:
        first, second = (report(graph)["settings"]["seen+zero"][modality] for graph in (small_graph, alone))
        assert (first["queries"], first["gallery"]) == (second["queries"], second["gallery"])


def test_a_run_killed_in_training_goes_on_and_ends_in_the_same_encoder(
    small_graph: Graph, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = copy_graph(small_graph, tmp_path)
    whole = copy.store.read("checkpoints/clip").digest
    shutil.rmtree(copy.store.read("checkpoints/clip").path)
    scratch = Path(copy.preset.data_root) / ".scratch"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command("materialize", "--preset", copy.preset_file),
            cwd=tmp_path,
            env=environment(DAGSTER_HOME=str(tmp_path / "home")),
            stdout=log,
            stderr=log,
        )
        deadline = time.monotonic() + 300
        while not list(scratch.glob("*/*/clip.pt")):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert copy.store.find("checkpoints/clip") is None

    assert metadata(run_asset(copy.preset, "clip_checkpoint"))["computed"] == 1
    assert re.search(r"resuming after epoch [12] of 3", capfd.readouterr().err)
    assert copy.store.read("checkpoints/clip").digest == whole
    assert list(scratch.rglob("*.pt")) == []
