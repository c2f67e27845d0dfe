"""The check of the embeddings passes on finite unit rows under unique ids, and on nothing else."""

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.checks.encoder import embeddings_sound, embeddings_sound_spec
from skufp_pipeline.encoders.tables import embedding_column

GOOD = np.array([[0.6, 0.8], [1, 0], [0, -1]], dtype=np.float32)


def images(rows: np.ndarray = GOOD, ids: tuple[str, ...] = ("a", "b", "c")) -> pl.DataFrame:
    return pl.DataFrame({"item_id": ids[: len(rows)]}).with_columns(embedding_column(rows))


def texts(rows: np.ndarray = GOOD, ids: tuple[str, ...] = ("a", "b", "c")) -> pl.DataFrame:
    return images(rows, ids).rename({"item_id": "text_id"}).with_columns(role=pl.lit("train"))


def with_value(value: float) -> np.ndarray:
    rows = GOOD.copy()
    rows[1, 0] = value
    return rows


def passed(images: pl.DataFrame, texts: pl.DataFrame) -> bool:
    return embeddings_sound("clip_embeddings", images, texts).passed


def test_unit_rows_pass() -> None:
    assert passed(images(), texts())


def test_no_rows_pass() -> None:
    assert passed(images(GOOD[:0]), texts(GOOD[:0]))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1.001])
def test_a_row_that_is_not_a_finite_unit_vector_fails(value: float) -> None:
    assert not passed(images(with_value(value)), texts())
    assert not passed(images(), texts(with_value(value)))


@pytest.mark.parametrize(
    ("of_images", "of_texts"),
    [(images(ids=("a", "b", "a")), texts()), (images(), texts(ids=("c", "b", "c")))],
    ids=["crop", "text"],
)
def test_an_id_that_occurs_twice_fails(of_images: pl.DataFrame, of_texts: pl.DataFrame) -> None:
    result = embeddings_sound("clip_embeddings", of_images, of_texts)
    assert not result.passed
    assert result.metadata["repeated_ids"].value == 2


def test_a_sentence_that_describes_and_trains_occurs_once_in_each_role() -> None:
    both = pl.concat([texts(), texts().with_columns(role=pl.lit("gallery"))])
    assert passed(images(), both)
    assert not passed(images(), pl.concat([both, texts()[:1]]))


def test_the_result_belongs_to_the_asset_it_looked_at() -> None:
    result = embeddings_sound("reid_embeddings", images())
    assert result.asset_key is not None
    assert result.asset_key == embeddings_sound_spec("reid_embeddings").asset_key
