"""The assets of generated views: one shard again, alone; what does not fit together is refused."""

import shutil
from pathlib import Path

import polars as pl
import pytest
from diffusers import StableDiffusionImg2ImgPipeline

from ..graphs import Graph, checks, copy_graph, digests, failure, metadata, run_asset, times_of_change

SHARD = "views/generated/shard_0001"


@pytest.fixture
def mine(graph: Graph, tmp_path: Path) -> Graph:
    """A copy of the ci graph that a test may damage."""
    return copy_graph(graph, tmp_path)


def test_a_shard_made_again_is_the_same_and_the_only_one_written(mine: Graph) -> None:
    root = Path(mine.preset.data_root)
    before, times = digests(mine.store), times_of_change(root)
    shutil.rmtree(root / SHARD)
    result = run_asset(mine.preset, "generated_views", 1)
    assert metadata(result)["computed"] == 1
    assert set(checks(result)) == {"views_decodable", "acceptance_in_range"}
    assert checks(result)["views_decodable"]
    assert digests(mine.store) == before
    after = times_of_change(root)
    assert {file for file in times if after[file] != times[file]} == {
        file for file in times if file.startswith(SHARD)
    }


def test_an_unchanged_shard_is_skipped(graph: Graph) -> None:
    told = metadata(run_asset(graph.preset, "generated_views", 0))
    assert (told["computed"], told["skipped_as_unchanged"]) == (0, 1)


def test_the_budget_is_shared_by_the_shards(graph: Graph) -> None:
    tables = [
        pl.read_parquet(graph.store.read(f"views/generated/shard_{shard:04d}").path / "candidates.parquet")
        for shard in range(graph.preset.shards)
    ]
    assert graph.preset.views is not None
    assert sum(table["sku_id"].n_unique() for table in tables) == graph.preset.views.generation.max_skus
    assert pl.concat(tables)["candidate_id"].n_unique() == sum(table.height for table in tables)


def test_embeddings_are_those_of_the_accepted_views(graph: Graph) -> None:
    for shard in range(graph.preset.shards):
        views = graph.store.read(f"views/generated/shard_{shard:04d}").path
        accepted = pl.read_parquet(views / "candidates.parquet").filter(pl.col("verdict") == "accepted")
        folder = graph.store.read(f"tables/generated_view_embeddings/shard_{shard:04d}").path
        images = pl.read_parquet(folder / "images.parquet")
        assert images["item_id"].to_list() == accepted["candidate_id"].to_list()


def test_the_base_and_the_adapter_load_into_stock_diffusers(graph: Graph) -> None:
    base = graph.store.read("checkpoints/sd_base").path / "pipeline"
    stock = StableDiffusionImg2ImgPipeline.from_pretrained(base, local_files_only=True)
    stock.load_lora_weights(
        str(graph.store.read("checkpoints/sd_lora").path), weight_name="pytorch_lora_weights.safetensors"
    )
    assert stock.get_active_adapters() != []


def test_a_shard_refuses_an_adapter_of_another_base(mine: Graph) -> None:
    shutil.rmtree(mine.store.read("checkpoints/sd_base").path)
    shutil.rmtree(mine.store.read(SHARD).path)
    told = failure(run_asset(mine.preset, "generated_views", 1))
    assert told.startswith("no complete checkpoints/sd_base under ")
    changed = mine.preset.model_copy(update={"seed": 18})
    run_asset(changed, "sd_base")
    told = failure(run_asset(mine.preset, "generated_views", 1))
    assert "checkpoints/sd_lora was made with sd_base " in told


def test_the_adapter_learnt_from_training_skus_and_is_judged_on_others(graph: Graph) -> None:
    split = {}
    for path in graph.store.read("tables/annotations").path.glob("items/*.parquet"):
        split |= dict(pl.read_parquet(path).select("sku_id", "split").unique().iter_rows())
    drift = pl.read_parquet(graph.store.read("checkpoints/sd_lora").path / "drift.parquet")
    assert {split[sku_id] for sku_id in drift["sku_id"]} == {"validation"}
