"""The miniature goes through the graph's own assets, to crops and to the report by Street2Shop's rule."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.artifacts import kinds
from skufp_pipeline.artifacts.places import (
    ANNOTATIONS,
    CLIP_EMBEDDINGS,
    FINGERPRINTS,
    SKU_CROPS,
    STREET2SHOP_REPORT,
)
from skufp_pipeline.datasets.table import GALLERY, item_id
from skufp_pipeline.definitions import graph_steps
from skufp_pipeline.encoders.tables import embedding_column, no_queries
from skufp_pipeline.evaluation.street2shop import ALL_QUERIES
from skufp_pipeline.presets import Preset, load_preset
from skufp_pipeline.store import ArtifactStore, Recipe

from ..graphs import checks, metadata, run_asset

RENDER = {
    "num_skus": 50,
    "image_size": 32,
    "workers": 1,
    "mean_shop_views": 1.2,
    "mean_user_views": 1.2,
    "fraction_without_query": 0.3,
    "two_item_fraction": 0.4,
    "train_fraction": 0.5,
}


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Preset:
    """The miniature in one shard, made up to its crops."""
    preset = Preset.model_validate(
        {
            "name": "mini",
            "data_root": str(tmp_path_factory.mktemp("street2shop") / "data"),
            "shards": 1,
            "dataset": {"source": "street2shop", "render": RENDER},
            "encoder": {"model": "skufp-tiny"},
            "evaluation": {"resamples": 100},
        }
    )
    for name in ("raw_dataset", "annotations"):
        assert metadata(run_asset(preset, name))["computed"] == 1
    assert checks(run_asset(preset, "sku_crops", 0)) == {"crops_complete": True}
    return preset


def items_of(preset: Preset) -> pl.DataFrame:
    return ANNOTATIONS.read(ArtifactStore(preset.data_root)).items()


def put(preset: Preset, key: str, write: Any) -> None:
    """Keeps an artifact that nothing is said to be made from."""
    recipe = Recipe(code_version="test", libraries={}, config={}, inputs={})
    ArtifactStore(preset.data_root).produce(key, recipe, lambda folder: write(folder) or {})


@pytest.fixture(scope="module")
def judged(preset: Preset) -> Preset:
    """The same with embeddings that are right about every product, and fingerprints that are wrong."""
    items = items_of(preset)
    skus = items["sku_id"].unique().sort()
    place = {sku_id: number for number, sku_id in enumerate(skus)}
    rows = np.eye(len(skus), dtype=np.float32)
    images = items.select(item_id(), "sku_id", "split", "role", "domain").with_columns(
        embedding_column(rows[[place[sku_id] for sku_id in items["sku_id"]]])
    )
    shifted = pl.DataFrame({"sku_id": skus, "bias": np.zeros(len(skus), np.float32)}).with_columns(
        split=pl.lit("validation"), fingerprint=embedding_column(np.roll(rows, 1, axis=0))
    )
    put(preset, "tables/clip_embeddings/shard_0000", lambda at: kinds.Embeddings.write(at, images))
    put(preset, FINGERPRINTS.key, lambda at: kinds.Fingerprints.write(at, shifted, no_queries()))
    return preset


def test_every_item_has_a_crop_and_street_photos_are_cut(preset: Preset) -> None:
    crops = SKU_CROPS.read(ArtifactStore(preset.data_root), 0).table()
    assert crops.height == items_of(preset).height
    views = crops.filter(pl.col("role") == GALLERY)
    assert set(views["width"]) == set(views["height"]) == {RENDER["image_size"]}
    photos = crops.filter(pl.col("role") != GALLERY)
    assert (photos["width"] * photos["height"] < RENDER["image_size"] ** 2).mean() > 0.5


def test_the_report_holds_every_model_and_the_test_pairs_first(judged: Preset) -> None:
    told = metadata(run_asset(judged, "street2shop_report"))
    accuracy = STREET2SHOP_REPORT.read(ArtifactStore(judged.data_root)).accuracy()
    pooled = accuracy.filter((pl.col("category") == ALL_QUERIES) & (pl.col("setting") == "zero"))
    assert pooled.filter(model="clip")["accuracy"].unique().to_list() == [1.0]
    assert pooled.filter(model="fingerprint", top=1)["accuracy"].to_list() == [0.0]
    assert "**zero**, top-20 by category" in told["tables"]
    assert metadata(run_asset(judged, "street2shop_report"))["computed"] == 0


def test_the_annotations_are_checked_for_street_photos_in_two_places(preset: Preset) -> None:
    assert checks(run_asset(preset, "annotations"))["street_photos_disjoint"]


def test_the_report_is_in_the_graph_of_street2shop_alone() -> None:
    for name, is_there in (("street2shop", True), ("street2shop-mini", True), ("demo", False)):
        assert (STREET2SHOP_REPORT.name in graph_steps(load_preset(name))) == is_there


def test_embeddings_of_every_tower_are_read(judged: Preset) -> None:
    assert CLIP_EMBEDDINGS.name in graph_steps(judged)[STREET2SHOP_REPORT.name].upstream
    full = graph_steps(load_preset("street2shop"))[STREET2SHOP_REPORT.name].upstream
    assert {"frozen_clip_embeddings", "reid_embeddings"} <= set(full)
