"""Stages of a query, judged on three SKUs of one colour each."""

from pathlib import Path

import pytest

from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.evaluation.stages import AskedPhoto, EmbeddedPhotos, embed_photos, judge_stages
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
