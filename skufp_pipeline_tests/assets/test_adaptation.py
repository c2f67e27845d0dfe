"""A shop with pictures and words and no photo: a first index at once, then one by the adapted tower."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from skufp_pipeline.artifacts.places import FIRST_INDEX, FROZEN_CLIP_CHECKPOINT
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.orchestration.schedules import DAILY, refreshed, stages
from skufp_pipeline.query.engine import QueryEngine
from skufp_pipeline.search.versions import Versions

from ..encoders.examples import write_text_model
from ..graphs import Graph, checks, copy_graph, materialize_here, metadata, run_asset, write_preset
from ..test_shapes import TINY, Some, write_catalogue

CPU = torch.device("cpu")
ADAPTATION = {"steps": 4, "most_steps": 4, "batch_size": 6, "frozen_stages": 0, "alphas": [0, 1], "alpha": 1}


def a_preset(folder: Path, photos: int, **adaptation: Any) -> dict[str, Any]:
    """A preset of 8 SKUs whose towers have weights of their own."""
    torch.manual_seed(0)
    tower = timm.create_model("test_resnet", num_classes=0)
    save_file(tower.state_dict(), folder / "tower.safetensors")
    manifest = write_catalogue(folder / "catalogue", [Some(8, "train", 2, photos)], ["Boot", "Bag"])
    return {
        "name": "shop",
        "seed": 5,
        "shards": 2,
        "dataset": {"source": "manifest", "read": {"path": str(manifest)}},
        "encoder": {
            "model": "skufp-tiny",
            "image_tower_weights": str(folder / "tower.safetensors"),
            "text_tower_weights": str(write_text_model(folder / "text")),
            "adaptation": {**ADAPTATION, **adaptation},
        },
        "fingerprint": {"training": {"epochs": 1}},
        "query_encoder": {"engine": "onnx", "parity_photos": 8},
        "evaluation": TINY["evaluation"],
    }


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    folder = tmp_path_factory.mktemp("shop")
    return materialize_here(write_preset(folder, a_preset(folder, photos=0)))


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def images(graph: Graph, key: str) -> pl.DataFrame:
    shards = [graph.store.read(f"tables/{key}/shard_{shard:04d}").path for shard in range(2)]
    return pl.concat([pl.read_parquet(path / "images.parquet") for path in shards]).sort("item_id")


def test_a_first_index_comes_before_any_training(shop: Graph) -> None:
    names = [stage.name for stage in stages(shop.steps)]
    assert names.index("build_first_index") < names.index("train_models")
    assert shop.log.index("build_first_index took") < shop.log.index("] train_models: clip_checkpoint")
    assert "check not passed" not in shop.log


def test_the_first_index_answers_photos_and_words_by_the_frozen_encoder(shop: Graph, tmp_path: Path) -> None:
    graph = copy_graph(shop, tmp_path)
    (Path(graph.preset.data_root) / "index/fingerprints/CURRENT").unlink()
    made = run_asset(graph.preset, "first_index")
    assert metadata(made)["published"] == 1
    engine = QueryEngine.open(graph.store, CPU, graph.preset.query_encoder)
    assert engine.image_encoder is engine.encoder  # a first index has no export
    photo = np.asarray(Image.new("RGB", (40, 48), (40, 180, 90)))
    embedding = engine.encoder.embed_images([Image.fromarray(photo)])
    (hit,) = engine.search_image(png(photo), 1).hits
    assert hit.score == pytest.approx(float((engine.index.fingerprints @ embedding[0]).max()), abs=1e-5)
    assert len(engine.search_text("a red skirt", 3).hits) == 3
    frozen = FROZEN_CLIP_CHECKPOINT.read(graph.store)
    recipe = Versions(graph.store).read().manifest.recipe
    assert recipe.inputs["clip_checkpoint"] == frozen.digest
    again = run_asset(graph.preset, "first_index")
    assert metadata(again)["published"] == 0


def test_the_index_in_use_is_the_adapted_encoders(shop: Graph) -> None:
    recipe = Versions(shop.store).read().manifest.recipe
    assert recipe.inputs["clip_checkpoint"] == shop.store.read("checkpoints/clip").digest
    assert recipe.inputs["clip_checkpoint"] != FROZEN_CLIP_CHECKPOINT.read(shop.store).digest
    assert len(QueryEngine.open(shop.store, CPU, shop.preset.query_encoder).index) == 8
    assert FIRST_INDEX.read(shop.store).summary["skus"] == 8


def test_a_catalog_view_is_the_mean_of_both_towers(shop: Graph) -> None:
    frozen, mixed = images(shop, "frozen_clip_embeddings"), images(shop, "clip_embeddings")
    ours, theirs = embedding_rows(mixed), embedding_rows(frozen)
    assert mixed["item_id"].equals(frozen["item_id"])
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)
    assert not np.allclose(ours, theirs)
    adapted = 2 * (ours * theirs).sum(axis=1, keepdims=True) * ours - theirs  # theirs mirrored at the mean
    assert np.allclose(np.linalg.norm(adapted, axis=1), 1, atol=1e-5)


def test_how_each_alpha_was_judged_is_shown_and_no_score_is_missing(shop: Graph) -> None:
    told = metadata(run_asset(shop.preset, "clip_checkpoint"))
    assert told["synthetic_photos"].startswith("![")
    assert told["curve"].startswith("![")
    assert "| alpha" in told["judged"].replace("|   alpha", "| alpha")
    summary = shop.store.read("checkpoints/clip").summary
    assert (summary["alpha"], summary["steps"], summary["photos"], summary["skus"]) == (1.0, 4, 0, 8)
    assert "no training photos: adapted on synthetic photos alone" in summary["left_out"]
    assert "nan" not in shop.log.lower().replace("nan_", "")


def test_photos_take_part_and_are_listed(tmp_path: Path) -> None:
    graph = materialize_here(write_preset(tmp_path, a_preset(tmp_path, photos=4)))
    assert "check not passed" not in graph.log
    folder = graph.store.read("checkpoints/clip").path
    used = pl.read_parquet(folder / "used_queries.parquet")
    assert used.height == graph.store.read("checkpoints/clip").summary["photos"] > 0
    assert set(used["role"]) == {"train"}


def test_a_new_product_is_embedded_daily_by_both_towers(shop: Graph) -> None:
    assert {"frozen_clip_embeddings", "clip_embeddings"} <= refreshed(shop.steps, DAILY)
    assert "clip_checkpoint" not in refreshed(shop.steps, DAILY)


def test_an_adaptation_that_is_not_worth_it_leaves_the_frozen_tower(shop: Graph, tmp_path: Path) -> None:
    graph = copy_graph(shop, tmp_path)
    adaptation = graph.preset.encoder.adaptation
    assert adaptation is not None
    taken_back = adaptation.model_copy(update={"alpha": 0.0})
    encoder = graph.preset.encoder.model_copy(update={"adaptation": taken_back})
    preset = graph.preset.model_copy(update={"encoder": encoder})
    assert checks(run_asset(preset, "clip_checkpoint"))["no_evaluation_query_used"]
    run_asset(preset, "clip_embeddings", 0)
    key = "shard_0000/images.parquet"
    root = Path(preset.data_root) / "tables"
    both = [pl.read_parquet(root / name / key) for name in ("clip_embeddings", "frozen_clip_embeddings")]
    assert np.allclose(*(embedding_rows(table.sort("item_id")) for table in both), atol=1e-6)
