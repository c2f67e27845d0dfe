"""The extractors' assets: one row a crop, one shard at a time, nothing made by another network."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.extractors.extractor import load_extractor

from ..graphs import Graph, checks, digests, failure, metadata, pretend_made_with, run_asset

SHARD = "tables/reid_embeddings/shard_0001"


def test_every_crop_has_a_row_in_the_order_of_the_other_embeddings(small_graph: Graph) -> None:
    for shard in range(2):
        keys = [f"tables/{name}/shard_{shard:04d}" for name in ("reid_embeddings", "clip_embeddings")]
        tables = [pl.read_parquet(small_graph.store.read(key).path / "images.parquet") for key in keys]
        assert tables[0]["item_id"].to_list() == tables[1]["item_id"].to_list()
        assert tables[0].schema["embedding"] == pl.Array(pl.Float32, 16)


def test_the_checkpoint_is_a_network_with_its_history_and_its_queries(small_graph: Graph) -> None:
    import torch

    checkpoint = small_graph.store.read("checkpoints/reid")
    assert load_extractor(checkpoint.path / "encoder", torch.device("cpu")).dimension == 16
    (row,) = json.loads((checkpoint.path / "history.json").read_text())
    assert {"identity_loss", "triplet_loss", "learning_rate", "gradient_norm"} <= set(row)
    assert "images_per_second" not in row
    assert {"images_per_second", "waiting_for_data", "peak_memory_gib"} <= set(checkpoint.summary)
    used = pl.read_parquet(checkpoint.path / "used_queries.parquet")
    assert set(used["role"]) == {"train", "development"}


def test_the_metadata_shows_curve_speed_and_memory(small_graph: Graph) -> None:
    told = metadata(run_asset(small_graph.preset, "reid_checkpoint"))
    assert told["computed"] == 0
    assert told["curve"].startswith("![figure](data:image/png;base64,")
    assert told["images_per_second"] > 0
    assert 0 <= told["waiting_for_data"] <= 1
    assert told["peak_memory_gib"] > 0


def test_a_deleted_shard_is_made_again_the_same_alone(spoilt: Graph) -> None:
    before = digests(spoilt.store)
    shutil.rmtree(Path(spoilt.preset.data_root) / SHARD)
    result = run_asset(spoilt.preset, "reid_embeddings", 1)
    assert metadata(result)["computed"] == 1
    assert checks(result) == {"embeddings_sound": True}
    assert digests(spoilt.store) == before


def test_training_again_gives_the_same_bytes(spoilt: Graph) -> None:
    before = digests(spoilt.store)
    shutil.rmtree(spoilt.store.read("checkpoints/reid").path)
    assert metadata(run_asset(spoilt.preset, "reid_checkpoint"))["computed"] == 1
    assert digests(spoilt.store) == before


def test_the_report_refuses_rows_of_another_network(spoilt: Graph) -> None:
    pretend_made_with(spoilt.store.read(SHARD).path, "reid_checkpoint", "another")
    told = failure(run_asset(spoilt.preset, "retrieval_report"))
    assert "tables/reid_embeddings/shard_0001 was made with reid_checkpoint another" in told


@pytest.mark.parametrize("setting", ["seen", "zero", "seen+zero"])
def test_the_report_scores_it_on_images_over_the_same_skus(small_graph: Graph, setting: str) -> None:
    report = json.loads((small_graph.store.read("reports/retrieval").path / "report.json").read_text())
    image, text = (report["settings"][setting][modality] for modality in ("image", "text"))
    assert set(image["models"]) - set(text["models"]) == {"reid"}
    assert np.isfinite(list(image["models"]["reid"].values())).all()
    assert "fingerprint-reid" in image["differences"]
