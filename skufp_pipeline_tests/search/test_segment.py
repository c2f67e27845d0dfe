from typing import Any

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.errors import UserError
from skufp_pipeline.search.rows import words_of
from skufp_pipeline.search.segment import (
    KEPT_FILTERS,
    SkuTable,
    make_segment,
    require_distinct,
    unit_rows,
)

TABLE = SkuTable(
    pl.DataFrame(
        {
            "sku_id": ["a", "b", "c"],
            "colour": ["red", None, "blue"],
            "views": [3, 5, 3],
            "colours": [["red", "navy"], [], ["navy"]],
            "title": [None, None, None],
        }
    )
)


@pytest.mark.parametrize(
    ("column", "value", "rows"),
    [
        ("colour", "red", [0]),
        ("colour", "green", []),
        ("views", 3, [0, 2]),
        ("views", "3", [0, 2]),
        ("views", "many", []),
        ("views", 3.5, []),
        ("colours", "navy", [0, 2]),
        ("title", "a coat", []),
        ("price", 3, []),
    ],
)
def test_the_rows_that_have_a_value_or_hold_it(column: str, value: Any, rows: list[int]) -> None:
    mask = np.isin(np.arange(3), rows)
    assert TABLE.matching(column, value).tolist() == words_of(mask).tolist()


def test_a_bitmap_is_made_once_and_the_oldest_let_go() -> None:
    table = SkuTable(pl.DataFrame({"sku_id": ["a"]}))
    first = table.matching("sku_id", "a")
    assert table.matching("sku_id", "a") is first
    for number in range(KEPT_FILTERS):
        table.matching("sku_id", str(number))
    assert table.matching("sku_id", "a") is not first


def test_a_sku_that_occurs_twice_is_named() -> None:
    require_distinct(pl.Series(["a", "b"]))
    with pytest.raises(UserError, match="SKU 'b' occurs more than once"):
        require_distinct(pl.Series(["a", "b", "b"]))


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([[1, 0], [1, 1]], r"1 fingerprints are not unit rows; .* \(the first is row 1, of norm 1.41\)"),
        ([[np.nan, 0]], "row 0, of norm nan"),
        ([1, 0], r"must be \(N, D\), found \(2,\)"),
    ],
)
def test_fingerprints_that_are_no_unit_rows_are_told(rows: list[Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        unit_rows(rows)


def test_a_table_without_ids_is_told() -> None:
    with pytest.raises(UserError, match="has no column sku_id, only name"):
        make_segment(np.ones((1, 1), np.float32), pl.DataFrame({"name": ["a"]}), threads=1)
