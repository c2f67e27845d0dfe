"""Pairs of real views, what is planted, and what the filters make of both."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from skufp_pipeline.encoders.clip import create_encoder
from skufp_pipeline.encoders.embed import embed_crops
from skufp_pipeline.encoders.settings import EncoderSettings
from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.errors import UserError
from skufp_pipeline.views.calibration import (
    RealViews,
    calibrate_and_measure,
    fit_filters,
    is_coloured,
    other_sku_pairs,
    planted_figures,
    same_sku_pairs,
    turn_hue,
)
from skufp_pipeline.views.filters import Thresholds
from skufp_pipeline.views.settings import FilterSettings

from .examples import CPU, catalogue

SKUS = np.array(["a", "a", "b", "b", "b", "c"])


def test_pairs_of_one_sku_are_all_ordered_pairs_of_its_views() -> None:
    found = {tuple(pair) for pair in same_sku_pairs(SKUS, 100, 0).tolist()}
    assert found == {(0, 1), (1, 0), (2, 3), (2, 4), (3, 2), (3, 4), (4, 2), (4, 3)}
    few = same_sku_pairs(SKUS, 3, 0)
    assert len(few) == 3
    assert np.array_equal(few, same_sku_pairs(SKUS, 3, 0))


def test_pairs_of_others_are_never_of_one_sku() -> None:
    pairs = other_sku_pairs(SKUS, 50, 0)
    assert len(pairs) == 50
    assert (SKUS[pairs[:, 0]] != SKUS[pairs[:, 1]]).all()
    assert len(other_sku_pairs(SKUS[:0], 50, 0)) == 0


def test_a_turned_hue_is_90_degrees_further_and_grey_stays() -> None:
    square = np.array([[[255, 0, 0], [128, 128, 128]]], dtype=np.uint8)
    assert turn_hue(square).tolist() == [[[127, 255, 0], [128, 128, 128]]]
    assert is_coloured(square)
    assert not is_coloured(square[:, 1:])


def coloured_views(skus: int = 24, views: int = 3) -> RealViews:
    """Views of one SKU are alike to a little noise; SKUs differ in colour and pattern."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (skus, 4, 4, 3))
    garments = np.kron(patterns, np.ones((1, 4, 4, 1), dtype=int)).repeat(views, axis=0)
    squares = np.clip(garments + rng.normal(0, 4, garments.shape), 0, 255).astype(np.uint8)
    return RealViews(np.repeat([f"s{n}" for n in range(skus)], views), embed(squares), squares)


def embed(squares: np.ndarray) -> np.ndarray:
    rows = squares.reshape(len(squares), -1).astype(np.float32)
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-6)


def test_fitted_filters_reject_what_is_planted_and_pass_second_views() -> None:
    settings = FilterSettings(pass_rate=0.95)
    limits, curve = fit_filters(coloured_views(), settings, 0)
    assert len(curve) == 7
    figures = planted_figures(coloured_views(), embed, limits, 1000, 1)
    assert figures["second_view"]["accepted"] >= 0.9
    for kind in ("other_sku", "hue_turned", "blank", "noise", "bad"):
        assert figures[kind]["count"] > 0
        assert figures[kind]["accepted"] <= 0.01, kind


def test_filters_that_let_all_pass_are_found_out() -> None:
    everything = Thresholds(-2, 2, -99, 99, 0)
    figures = planted_figures(coloured_views(), embed, everything, 100, 1)
    assert {figure["accepted"] for figure in figures.values()} == {1.0}


def test_too_few_pairs_are_a_users_mistake() -> None:
    lonely = coloured_views(skus=12, views=1)
    with pytest.raises(UserError, match="0 of one training SKU"):
        fit_filters(lonely, FilterSettings(), 0)


def test_thresholds_come_from_training_skus_and_figures_from_others(tmp_path: Path) -> None:
    rows = catalogue(tmp_path, skus=40, views=3, splits=("train", "train", "train", "validation"))
    encoder = create_encoder(EncoderSettings(model="skufp-tiny"), CPU, 0)
    table = rows.with_columns(
        embedding_column(embed_crops(encoder, [Path(path) for path in rows["path"]], 32)),
        domain=pl.lit("catalog"),
    )
    found = calibrate_and_measure(table, encoder, 32, FilterSettings(side=16), 0)
    assert set(found) == {"thresholds", "curve", "figures"}
    counts = {name: kinds["blank"]["count"] for name, kinds in found["figures"].items()}
    assert counts["unseen"] == 30
    assert 0 < counts["training"] < 90

    for path in rows.filter(pl.col("split") == "validation")["path"]:  # what they show decides nothing
        Image.effect_noise((20, 30), 90).convert("RGB").save(path)
    again = calibrate_and_measure(table, encoder, 32, FilterSettings(side=16), 0)
    assert again["thresholds"] == found["thresholds"]
    assert again["figures"]["unseen"] != found["figures"]["unseen"]
