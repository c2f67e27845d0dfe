"""The fingerprints' assets take every shard of one encoder, or none."""

import shutil

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.definitions import graph_steps

from ..graphs import Graph, failure, metadata, pretend_made_with, run_asset

READERS = ["best_shot_teachers", "fingerprint_checkpoint", "fingerprints", "retrieval_report"]


@pytest.mark.parametrize("name", READERS)
def test_a_missing_shard_of_embeddings_is_refused_by_name(spoilt: Graph, name: str) -> None:
    shutil.rmtree(spoilt.store.read("tables/clip_embeddings/shard_0001").path)
    assert failure(run_asset(spoilt.preset, name)).startswith(
        "no complete tables/clip_embeddings/shard_0001 under "
    )


@pytest.mark.parametrize("name", READERS)
def test_embeddings_by_another_encoder_are_refused_by_name(spoilt: Graph, name: str) -> None:
    shard = spoilt.store.read("tables/clip_embeddings/shard_0001").path
    pretend_made_with(shard, "clip_checkpoint", "0123456789abcdef")
    told = failure(run_asset(spoilt.preset, name))
    used = spoilt.store.read("checkpoints/clip").digest
    assert told == (
        "tables/clip_embeddings/shard_0001 was made with clip_checkpoint 0123456789abcdef, but the "
        f"clip_checkpoint in use is {used}; materialize tables/clip_embeddings/shard_0001 again"
    )


def test_teachers_chosen_on_other_embeddings_are_refused_by_name(spoilt: Graph) -> None:
    teachers = spoilt.store.read("tables/best_shot_teachers").path
    pretend_made_with(teachers, "tables/clip_embeddings/shard_0000", "0123456789abcdef")
    told = failure(run_asset(spoilt.preset, "fingerprint_checkpoint"))
    assert told.startswith("tables/best_shot_teachers was made with tables/clip_embeddings/shard_0000 0123")


def test_every_sku_has_one_unit_fingerprint(small_graph: Graph) -> None:
    table = pl.read_parquet(small_graph.store.read("tables/fingerprints").path / "fingerprints.parquet")
    items = pl.read_parquet(small_graph.store.read("tables/annotations").path / "items" / "*.parquet")
    assert sorted(table["sku_id"]) == sorted(items["sku_id"].unique())
    norms = np.linalg.norm(table["fingerprint"].to_numpy().astype(np.float64), axis=1)
    assert np.abs(norms - 1).max() < 1e-6


def test_every_sku_has_a_teacher_among_its_own_catalog_views(small_graph: Graph) -> None:
    teachers = pl.read_parquet(small_graph.store.read("tables/best_shot_teachers").path / "teachers.parquet")
    for sku_id, path in teachers.select("sku_id", "image_path").iter_rows():
        assert f"/catalog/{sku_id}/" in path


def test_the_metadata_of_each_shows_what_it_holds(small_graph: Graph) -> None:
    teachers = metadata(run_asset(small_graph.preset, "best_shot_teachers"))
    assert teachers["chosen_by"].split()[1:6:2] == ["split", "chosen_by", "rows"]
    checkpoint = metadata(run_asset(small_graph.preset, "fingerprint_checkpoint"))
    assert checkpoint["curve"].startswith("![figure](data:image/png;base64,")
    fingerprints = metadata(run_asset(small_graph.preset, "fingerprints"))
    assert fingerprints["dagster/row_count"] == fingerprints["skus"]
    assert [told["computed"] for told in (teachers, checkpoint, fingerprints)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("part", "change", "trains"),
    [
        ("fingerprint", {"catalog_text_weight": 0.9}, False),
        ("gaussian", {"aggregator_weight": 0.9}, False),
        ("gaussian", {"photo_weight": 0.9}, True),
        ("training", {"epochs": 99}, True),
    ],
)
def test_what_is_joined_after_training_trains_nothing_again(
    small_graph: Graph, part: str, change: dict[str, float], trains: bool
) -> None:
    settings = small_graph.preset.fingerprint
    if part == "fingerprint":
        changed = settings.model_copy(update=change)
    else:
        changed = settings.model_copy(update={part: getattr(settings, part).model_copy(update=change)})
    steps = graph_steps(small_graph.preset.model_copy(update={"fingerprint": changed}))
    before = small_graph.steps
    assert (steps["fingerprint_checkpoint"].config != before["fingerprint_checkpoint"].config) == trains
    assert (steps["fingerprints"].config != before["fingerprints"].config) == (part != "training")


def test_the_papers_recipe_has_no_gaussian_part_to_train(small_graph: Graph) -> None:
    paper = small_graph.preset.fingerprint.model_copy(update={"gaussian": None})
    steps = graph_steps(small_graph.preset.model_copy(update={"fingerprint": paper}))
    assert steps["fingerprint_checkpoint"].config["fingerprint"]["gaussian"] is None
