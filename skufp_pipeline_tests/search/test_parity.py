import numpy as np
import polars as pl
import pytest

from skufp_pipeline.encoders.tables import USED_SCHEMA, embedding_column
from skufp_pipeline.search.parity import parity_photos

COLUMNS = ("item_id", "sku_id", "split", "role")
ITEMS = [
    ("g1", "a", "train", "gallery"), ("g2", "b", "train", "gallery"), ("g3", "b", "train", "gallery"),
    ("t1", "a", "train", "train"), ("t2", "b", "train", "train"),
    ("d1", "b", "train", "development"),
    ("e1", "a", "train", "evaluation"),
    ("vg", "c", "validation", "gallery"), ("ve", "c", "validation", "evaluation"),
]  # fmt: skip
VECTORS = {"g1": (1, 0), "g2": (0, 1), "g3": (0, 1), "t1": (1, 0), "t2": (1, 0), "d1": (0, 1)}


@pytest.fixture
def images() -> pl.DataFrame:
    rows = np.array([VECTORS.get(item[0], (0.6, 0.8)) for item in ITEMS], np.float32)
    frame = pl.DataFrame(ITEMS, schema=list(COLUMNS), orient="row")
    return frame.with_columns(embedding_column(rows), image_path=pl.col("item_id") + ".jpg")


def test_development_queries_come_first_then_training_queries_then_views(images: pl.DataFrame) -> None:
    photos = parity_photos(images, 100, max_views=5)
    assert photos.rows["role"].to_list() == ["development", "train", "train", *["gallery"] * 3]
    assert parity_photos(images, 1, max_views=5).rows["item_id"].to_list() == ["d1"]


def test_no_evaluation_query_and_no_validation_sku_is_among_them(images: pl.DataFrame) -> None:
    photos = parity_photos(images, 100, max_views=5)
    assert set(photos.rows["item_id"]) == {"g1", "g2", "g3", "t1", "t2", "d1"}
    assert len(photos.gallery) == 2


def test_the_draw_depends_on_the_photos_alone(images: pl.DataFrame) -> None:
    drawn = parity_photos(images, 4, max_views=5)
    again = parity_photos(images.reverse(), 4, max_views=5)
    assert drawn.rows["item_id"].to_list() == again.rows["item_id"].to_list()
    np.testing.assert_array_equal(drawn.reference, again.reference)


def test_recall_is_judged_against_the_mean_of_each_skus_views(images: pl.DataFrame) -> None:
    photos = parity_photos(images, 3, max_views=5)
    judged = photos.judge(photos.reference)
    assert (judged.cosine_least, judged.photos) == (1.0, 3)
    assert judged.reference_recall == judged.recall == pytest.approx(2 / 3), "t2 looks like the other SKU"
    swapped = photos.judge(photos.reference[:, ::-1].copy())
    assert (swapped.recall, swapped.cosine_least) == (pytest.approx(1 / 3), 0.0)


def test_the_queries_among_them_are_listed_as_used(images: pl.DataFrame) -> None:
    used = parity_photos(images, 100, max_views=5).used()
    assert used.schema == pl.Schema(USED_SCHEMA)
    assert sorted(used.select("query_id", "use").iter_rows()) == [
        ("d1", "development"), ("t1", "train"), ("t2", "train")
    ]  # fmt: skip
