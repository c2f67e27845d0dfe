"""A shard's table, images and sheet; its budget; and the embeddings of what was accepted."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from skufp_pipeline.encoders.clip import Encoder, create_encoder
from skufp_pipeline.encoders.settings import EncoderSettings
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.hashing import shard_part
from skufp_pipeline.views.pipeline import Pipeline
from skufp_pipeline.views.shard import generate_shard
from skufp_pipeline.views.tables import CANDIDATE_SCHEMA, GENERATED, embed_generated

from .examples import CPU, SETTINGS

ALL = {"clip_cosine": -2, "hsv_distance": 2, "sharpness_low": -99, "sharpness_high": 99, "nsfw": 0}
NONE = {**ALL, "clip_cosine": 2}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return create_encoder(EncoderSettings(model="skufp-tiny"), CPU, 0)


def run(
    pipeline: Pipeline, views: pl.DataFrame, encoder: Encoder, folder: Path, **changes: Any
) -> dict[str, Any]:
    options = {"limit": None, "thresholds": ALL, **changes}
    for name in ("scratch", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return generate_shard(
        lambda: pipeline,
        views,
        options["limit"],
        encoder,
        SETTINGS,
        options["thresholds"],
        False,
        folder / "scratch",
        folder / "out",
    )


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(("limit", "shards"), [(10, 3), (2, 3), (0, 2), (7, 7)])
def test_the_shards_budgets_add_up(limit: int, shards: int) -> None:
    parts = [shard_part(limit, shards, shard) for shard in range(shards)]
    assert sum(part or 0 for part in parts) == limit
    assert max(part or 0 for part in parts) - min(part or 0 for part in parts) <= 1
    assert shard_part(None, shards, 0) is None


def test_every_candidate_is_in_the_table_and_accepted_images_are_on_disk(
    pipeline: Pipeline, views: pl.DataFrame, encoder: Encoder, tmp_path: Path
) -> None:
    assert run(pipeline, views, encoder, tmp_path) == {"skus": 3, "candidates": 12, "accepted": 12}
    table = pl.read_parquet(tmp_path / "out" / "candidates.parquet")
    assert table.schema == CANDIDATE_SCHEMA
    assert table["nsfw"].null_count() == 12  # nothing can tell
    assert set(table["verdict"]) == {"accepted"}
    for path in table["image_path"]:
        with Image.open(tmp_path / "out" / "images" / path) as image:
            image.load()
    with Image.open(tmp_path / "out" / "sheet.jpg") as sheet:
        sheet.load()


def test_a_rejected_candidate_has_its_scores_and_reason_but_no_image(
    pipeline: Pipeline, views: pl.DataFrame, encoder: Encoder, tmp_path: Path
) -> None:
    assert run(pipeline, views, encoder, tmp_path, thresholds=NONE)["accepted"] == 0
    table = pl.read_parquet(tmp_path / "out" / "candidates.parquet")
    assert set(table["verdict"]) == {"clip_cosine"}
    assert table.select("clip_cosine", "hsv_distance", "sharpness").null_count().row(0) == (0, 0, 0)
    assert not (tmp_path / "out" / "images").exists()


def test_a_shard_made_again_has_the_same_bytes(
    pipeline: Pipeline, views: pl.DataFrame, encoder: Encoder, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        run(pipeline, views, encoder, tmp_path / name)
    assert files(tmp_path / "a" / "out") == files(tmp_path / "b" / "out")


def test_a_budget_takes_whole_skus(
    pipeline: Pipeline, views: pl.DataFrame, encoder: Encoder, tmp_path: Path
) -> None:
    assert run(pipeline, views, encoder, tmp_path, limit=2) == {"skus": 2, "candidates": 8, "accepted": 8}


def test_a_shard_without_skus_is_an_empty_table(
    views: pl.DataFrame, encoder: Encoder, tmp_path: Path
) -> None:
    def no_pipeline() -> Any:
        raise AssertionError("nothing is to be generated")

    (tmp_path / "out").mkdir()
    made = generate_shard(
        no_pipeline, views.clear(), None, encoder, SETTINGS, ALL, False, tmp_path, tmp_path / "out"
    )
    assert made == {"skus": 0, "candidates": 0, "accepted": 0}
    assert pl.read_parquet(tmp_path / "out" / "candidates.parquet").schema == CANDIDATE_SCHEMA


def test_embeddings_are_of_accepted_views_alone_and_know_their_source(
    pipeline: Pipeline, views: pl.DataFrame, encoder: Encoder, tmp_path: Path
) -> None:
    run(pipeline, views, encoder, tmp_path)
    table = pl.read_parquet(tmp_path / "out" / "candidates.parquet")
    some = table.with_columns(
        verdict=pl.when(pl.col("candidate") == 0).then(pl.lit("accepted")).otherwise(pl.lit("sharpness"))
    )
    texts = views.select(
        "split",
        image_id=pl.col("item_id").str.extract(r"/(\w+)_item"),
        item_idx=pl.lit(1, pl.Int32),
        category_name=pl.lit("shirt"),
    )
    found = embed_generated(some, texts, tmp_path / "out" / "images", encoder, 4)
    assert found["item_id"].to_list() == some.filter(pl.col("candidate") == 0)["candidate_id"].to_list()
    assert found["source_item_id"].to_list() == views["item_id"].to_list()
    assert set(found["domain"]) == {GENERATED}
    assert set(found["category_name"]) == {"shirt"}
    assert np.allclose(np.linalg.norm(embedding_rows(found), axis=1), 1)
    none = embed_generated(some.clear(), texts, tmp_path, encoder, 4)
    assert none.schema == found.schema
