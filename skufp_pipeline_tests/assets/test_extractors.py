"""The extractors' assets: one row a crop, one shard at a time, nothing made by another network."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.definitions import graph_steps
from skufp_pipeline.extractors.extractor import load_extractor
from skufp_pipeline.provenance import import_closure

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


def test_an_autoencoder_is_shown_by_what_it_redraws_and_compared_with_the_mean_picture(
    small_graph: Graph,
) -> None:
    result = run_asset(small_graph.preset, "autoencoder_checkpoint")
    told = metadata(result)
    assert told["computed"] == 0
    assert told["samples"].startswith("![sheet](data:image/jpeg;base64,")
    assert told["quality"] == "development_score"
    assert told["reconstruction_error"] < told["mean_picture_error"]
    assert checks(result) == {
        "loss_falls": True,
        "beats_mean_picture": True,
        "no_evaluation_query_used": True,
    }


def test_an_extractor_is_exported_where_its_settings_say_so(small_graph: Graph) -> None:
    import torch

    from skufp_pipeline.encoders.onnx import load_image_encoder

    exported = small_graph.store.read("checkpoints/autoencoder_onnx")
    assert exported.summary["cosine_least"] > 0.999
    folder = small_graph.store.read("checkpoints/autoencoder").path / "encoder"
    extractor = load_extractor(folder, torch.device("cpu"))
    pixels = torch.rand(3, 3, 16, 16)
    rows = load_image_encoder(exported.path, extractor.preprocess, 1).embed_pixels(pixels)
    np.testing.assert_allclose(rows, extractor.embed_pixels(pixels), atol=1e-4)
    assert not (small_graph.store.find("checkpoints/reid_onnx"))


def test_its_own_settings_and_code_are_an_extractors_recipe(small_graph: Graph) -> None:
    preset = small_graph.preset
    wanted = preset.extractors
    assert wanted.reid is not None
    more = wanted.model_copy(update={"reid": wanted.reid.model_copy(update={"dimension": 32, "onnx": True})})
    before, after = small_graph.steps, graph_steps(preset.model_copy(update={"extractors": more}))
    changed = {name for name, step in before.items() if step.code_version != after[name].code_version}
    assert changed == {"reid_checkpoint"}
    assert set(after) - set(before) == {"reid_onnx"}
    assert "skufp_pipeline.extractors.reid" in before["reid_checkpoint"].code
    assert "skufp_pipeline.extractors.reid" not in import_closure(before["autoencoder_checkpoint"].code)
