"""Controls of generated views: copies take the place of views, and differences are of the same queries."""

import numpy as np
import polars as pl

from skufp_pipeline.encoders.tables import embedding_column, embedding_rows
from skufp_pipeline.evaluation.controls import (
    DUPLICATED,
    WITHOUT,
    control_tables,
    judge_controls,
)
from skufp_pipeline.evaluation.protocol import Gallery, Model, QuerySet
from skufp_pipeline.fingerprint.tables import EmbeddingTables

EAST, NORTH = [1.0, 0.0], [0.0, 1.0]


def table(rows: list[list[float]], **columns: list[str]) -> pl.DataFrame:
    return pl.DataFrame(columns).with_columns(embedding_column(np.array(rows, np.float32)))


def tables() -> EmbeddingTables:
    images = table([EAST, NORTH], item_id=["a1", "b1"], sku_id=["a", "b"])
    made = table(
        [NORTH, NORTH, EAST],
        item_id=["g1", "g2", "g3"],
        sku_id=["b", "a", "a"],
        source_item_id=["b1", "a1", "a1"],
    )
    return EmbeddingTables(images, images, made)


def test_copies_have_the_embedding_of_their_source_and_all_else_of_the_view() -> None:
    given = tables()
    copies = control_tables(given)[DUPLICATED].generated
    assert copies is not None
    assert given.generated is not None
    assert embedding_rows(copies).tolist() == [NORTH, EAST, EAST]
    assert copies.drop("embedding").equals(given.generated.drop("embedding"))
    assert control_tables(given)[WITHOUT].generated is None


def test_a_control_that_finds_more_has_a_negative_difference() -> None:
    ids, splits = ["a", "b"], ["train", "train"]
    queries = QuerySet(["q1", "q2"], ids, splits, np.array([EAST, NORTH], np.float32))
    wrong = Gallery(ids, splits, np.array([NORTH, EAST], np.float32), np.zeros(2, np.float32))
    model = Model("fingerprint", {"image": queries}, wrong)
    right = pl.DataFrame({"sku_id": ["b", "a"], "bias": [0.0, 0.0]}).with_columns(
        embedding_column(np.array([NORTH, EAST], np.float32)).alias("fingerprint")
    )
    found = judge_controls(model, {WITHOUT: right}, 50, 0).settings["seen+zero"]["image"]
    assert found.differences[f"fingerprint-{WITHOUT}"]["recall@1"].delta == -1
