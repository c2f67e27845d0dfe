"""Stages of a query, judged on three SKUs of one colour each."""

from pathlib import Path

import polars as pl
import pytest

from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.evaluation.stages import (
    AskedPhoto,
    EmbeddedPhotos,
    embed_photos,
    judge_stages,
    region_stages,
)
from skufp_pipeline.query.engine import QueryEngine
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline_tests.encoders.examples import picture
from skufp_pipeline_tests.search.conftest import SKUS, encoder, index

__all__ = ["encoder", "index"]  # fixtures


@pytest.fixture
def engine(encoder: Encoder, index: FingerprintIndex) -> QueryEngine:
    return QueryEngine(index, encoder)


@pytest.fixture
def asked(engine: QueryEngine, tmp_path: Path) -> EmbeddedPhotos:
    """A photo of each SKU, but that of the plum is red."""
    photos = []
    for sku_id, colour in (SKUS | {"plum": "red"}).items():
        picture(colour).save(tmp_path / f"{sku_id}.png")
        photos.append(AskedPhoto(tmp_path / f"{sku_id}.png", sku_id, "train"))
    return embed_photos(engine, photos)


def test_every_setting_that_has_photos_is_judged_over_its_skus(
    engine: QueryEngine, asked: EmbeddedPhotos
) -> None:
    rows = judge_stages(engine, asked, seed=0, resamples=100)
    assert [(row.stage, row.setting) for row in rows] == [
        ("fingerprint", "seen"),
        ("fingerprint", "seen+zero"),
    ]
    assert [row.recall_at_1 for row in rows] == pytest.approx([2 / 3, 2 / 3])
    assert {row.delta for row in rows} == {None}


def test_the_time_of_one_setting_is_no_part_of_the_next(engine: QueryEngine, asked: EmbeddedPhotos) -> None:
    before = [dict(clock.milliseconds) for clock in asked.clocks]
    judge_stages(engine, asked, seed=0, resamples=100)
    assert [clock.milliseconds for clock in asked.clocks] == before
    assert set(before[0]) == {"decode", "preprocess", "encode"}


def test_regions_are_rows_beside_the_stages_with_what_they_lose() -> None:
    of_each = {"setting": "zero", "photos": 10, "recall@5": 0.9}
    table = pl.DataFrame(
        [
            {**of_each, "region": "annotated", "recall@1": 0.5, "delta": 0.0, "low": 0.0, "high": 0.0},
            {**of_each, "region": "detected", "recall@1": 0.4, "delta": -0.1, "low": -0.2, "high": 0.0},
            {**of_each, "region": "whole", "recall@1": 0.1, "delta": -0.4, "low": -0.5, "high": -0.3},
        ]
    )
    rows = region_stages(table, {"p50_ms": 3.0, "p95_ms": 5.0, "mean_ms": 3.5})
    assert [(row.stage, row.setting, row.queries, row.recall_at_1) for row in rows] == [
        ("region: annotated", "zero", 10, 0.5),
        ("region: detected", "zero", 10, 0.4),
        ("region: whole", "zero", 10, 0.1),
    ]
    assert [row.delta for row in rows] == [None, (-0.1, -0.2, 0.0), (-0.4, -0.5, -0.3)]
    assert [(row.p50_ms, row.p95_ms) for row in rows] == [(0, 0), (3, 5), (0, 0)]
