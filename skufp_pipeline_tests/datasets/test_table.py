import polars as pl

from skufp_pipeline.datasets.table import ITEM_ORDER, ITEM_SCHEMA, SPLITS, item_id

from .trees import table


def test_an_items_name_holds_split_image_and_number() -> None:
    items = table({"split": "validation", "image_id": "000042", "item_idx": 2}, {"image_id": "a/b"})
    assert items.select(item_id())["item_id"].to_list() == ["validation/000042_item2", "train/a/b_item1"]


def test_the_order_of_rows_is_by_sku_then_catalog_before_query() -> None:
    items = table(
        {"sku_id": "b"},
        {"sku_id": "a", "domain": "query", "image_id": "1"},
        {"sku_id": "a", "image_id": "2", "item_idx": 2},
        {"sku_id": "a", "image_id": "2", "item_idx": 1},
    )
    ordered = items.sort(ITEM_ORDER).select("sku_id", "domain", "image_id", "item_idx").rows()
    assert ordered == [
        ("a", "catalog", "2", 1),
        ("a", "catalog", "2", 2),
        ("a", "query", "1", 1),
        ("b", "catalog", "000001", 1),
    ]


def test_an_empty_table_keeps_its_types() -> None:
    empty = pl.DataFrame([], schema=ITEM_SCHEMA)
    assert empty.schema["bbox"] == pl.Array(pl.Int32(), 4)
    assert empty.select(item_id()).is_empty()
    assert SPLITS == ("train", "validation", "test")
