"""Counts of the catalogue's values among the best answers, by hand."""

import numpy as np
import polars as pl

from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.query.combine import Wish
from skufp_pipeline.query.engine import QueryEngine
from skufp_pipeline.query.facets import MOST_VALUES, count_facets, facet_columns
from skufp_pipeline.search.index import FingerprintIndex

SKUS = pl.DataFrame(
    {
        "sku_id": ["a", "b", "c", "d"],
        "split": ["train", "train", "train", "validation"],
        "category_name": ["skirt", "vest", "skirt", "vest"],
        "title": ["t", "u", "v", "w"],
        "image": "x.jpg",
        "colour": ["red", None, "blue", "blue"],
        "pattern": "plain",
        "price": [1.0, 2.0, 1.0, 2.0],
        "size": [1, 2, 2, 2],
        "tags": [["new", "new", "sale"], ["sale"], [], None],
    }
)


def test_facets_are_columns_of_few_values() -> None:
    assert facet_columns(SKUS) == ["category_name", "colour", "size", "tags"]
    many = pl.DataFrame({"sku_id": [str(n) for n in range(MOST_VALUES + 1)]}).with_columns(
        kept=pl.int_range(pl.len()) % MOST_VALUES, dropped=pl.int_range(pl.len())
    )
    assert facet_columns(many) == ["kept"]


def test_every_value_is_counted_once_a_sku_and_the_most_frequent_is_first() -> None:
    found = count_facets(SKUS, ["a", "b", "c", "d"])
    assert found == {
        "category_name": {"skirt": 2, "vest": 2},
        "colour": {"blue": 2, "red": 1},
        "size": {"2": 3, "1": 1},
        "tags": {"sale": 2, "new": 1},
    }
    assert list(found["colour"]) == ["blue", "red"]
    assert list(found["category_name"]) == ["skirt", "vest"]
    assert count_facets(SKUS, ["b"]) == {
        "category_name": {"vest": 1},
        "colour": {},
        "size": {"2": 1},
        "tags": {"sale": 1},
    }


def test_facets_are_over_the_best_of_what_the_filters_select(encoder: Encoder) -> None:
    query = encoder.embed_texts(["a skirt"])[0]
    away = np.random.default_rng(0).standard_normal((4, len(query)))
    rows = np.array([1, 0.8, 0.6, 0.4])[:, None] * query + 0.01 * away
    rows += np.array([0, 0.6, 0.8, 0.9])[:, None] * np.roll(query, 1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    engine = QueryEngine(FingerprintIndex(rows.astype(np.float32), SKUS), encoder)
    wish = Wish(text="a skirt")
    order = [hit.sku_id for hit in engine.search(wish, 4).hits]
    answer = engine.search(wish, 1, facets_over=3)
    assert [hit.sku_id for hit in answer.hits] == order[:1]
    assert answer.facets == count_facets(SKUS, order[:3])
    vests = engine.search(wish, 3, engine.index.where(category_name="vest"), facets_over=1)
    assert len(vests.hits) == 2
    assert vests.facets is not None
    assert vests.facets["category_name"] == {"vest": 1}
    assert engine.search(wish, 1).facets is None


def test_a_sku_that_was_replaced_counts_once_with_its_new_value(encoder: Encoder) -> None:
    rows = np.eye(len(SKUS), len(encoder.embed_texts(["a"])[0]), dtype=np.float32)
    replaced = SKUS[:1].with_columns(category_name=pl.lit("cape"))
    index = FingerprintIndex(rows, SKUS).update(rows[:1], replaced)
    found = QueryEngine(index, encoder).search(Wish(text="a skirt"), 9, facets_over=9).facets
    expected = SKUS.with_columns(category_name=pl.Series(["cape", *SKUS["category_name"][1:]]))
    assert found == count_facets(expected, SKUS["sku_id"].to_list())
