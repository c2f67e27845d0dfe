"""The encoder's assets refuse what does not fit together, and redo one shard at a time."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.encoders.tables import embedding_column, embedding_rows

from ..graphs import Graph, checks, digests, failure, metadata, run_asset, times_of_change

SHARD = "tables/clip_embeddings/shard_0001"


def test_a_deleted_shard_of_embeddings_is_made_again_the_same_alone(spoilt: Graph) -> None:
    root = Path(spoilt.preset.data_root)
    before, times = digests(spoilt.store), times_of_change(root)
    shutil.rmtree(root / SHARD)
    result = run_asset(spoilt.preset, "clip_embeddings", 1)
    assert metadata(result)["computed"] == 1
    assert checks(result) == {"embeddings_sound": True}
    assert digests(spoilt.store) == before
    after = times_of_change(root)
    assert {file for file in times if after[file] != times[file]} == {
        file for file in times if file.startswith(SHARD)
    }


@pytest.mark.parametrize("lost", ["crops/shard_0001", "tables/image_text/shard_0000"])
def test_training_refuses_a_missing_shard_by_name(spoilt: Graph, lost: str) -> None:
    shutil.rmtree(spoilt.store.read(lost).path)
    assert failure(run_asset(spoilt.preset, "clip_checkpoint")).startswith(f"no complete {lost} under ")


def test_embedding_refuses_to_start_without_an_encoder(spoilt: Graph) -> None:
    shutil.rmtree(spoilt.store.read("checkpoints/clip").path)
    told = failure(run_asset(spoilt.preset, "clip_embeddings", 0))
    assert told.startswith("no complete checkpoints/clip under ")


def test_the_checkpoint_holds_only_what_the_seed_decides(small_graph: Graph) -> None:
    folder = small_graph.store.read("checkpoints/clip").path
    history = json.loads((folder / "history.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert "images_per_second" not in history[0]


def test_the_metadata_of_training_shows_its_curve(small_graph: Graph) -> None:
    told = metadata(run_asset(small_graph.preset, "clip_checkpoint"))
    assert told["curve"].startswith("![figure](data:image/png;base64,")
    assert "image_loss" in told["history"]
    assert told["computed"] == 0
    assert "skufp-" in told["weights"]


def test_there_is_one_unit_embedding_of_every_crop_and_every_text(small_graph: Graph) -> None:
    for shard in range(2):
        crops = pl.read_parquet(small_graph.store.read(f"crops/shard_{shard:04d}").path / "crops.parquet")
        folder = small_graph.store.read(f"tables/clip_embeddings/shard_{shard:04d}").path
        images = pl.read_parquet(folder / "images.parquet")
        texts = pl.read_parquet(folder / "texts.parquet")
        assert images.height == crops.height
        assert images.schema["embedding"] == pl.Array(pl.Float32, 128)
        for table in (images, texts):
            norms = np.linalg.norm(table["embedding"].to_numpy().astype(np.float64), axis=1)
            assert np.abs(norms - 1).max() < 1e-6


def test_embeddings_that_are_spoilt_fail_their_check_until_their_shard_is_deleted(spoilt: Graph) -> None:
    path = spoilt.store.read(SHARD).path / "images.parquet"
    before = digests(spoilt.store)
    images = pl.read_parquet(path)
    rows = embedding_rows(images)
    rows[0] = np.nan
    path.unlink()
    images.with_columns(embedding_column(rows)).write_parquet(path)
    result = run_asset(spoilt.preset, "clip_embeddings", 1)
    assert not result.success
    assert checks(result) == {"embeddings_sound": False}
    shutil.rmtree(path.parent)
    assert checks(run_asset(spoilt.preset, "clip_embeddings", 1)) == {"embeddings_sound": True}
    assert digests(spoilt.store) == before
