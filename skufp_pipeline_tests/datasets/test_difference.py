"""Changes of a catalogue, SKU by SKU."""

import polars as pl
import pytest

from skufp_pipeline.datasets import difference
from skufp_pipeline.datasets.difference import catalogue_changes, described_items

from .trees import table

ROWS = [
    {"sku_id": sku, "domain": "catalog", "image_id": image, "item_idx": 1, "title": "t",
     "image_digest": image, "bbox": [0, 0, 9, 9], "shard": shard}
    for sku, image, shard in (("a", "1", 0), ("a", "2", 0), ("b", "3", 1))
]  # fmt: skip
SCHEMA = {
    "sku_id": pl.String(), "domain": pl.String(), "image_id": pl.String(), "item_idx": pl.Int32(),
    "title": pl.String(), "image_digest": pl.String(), "bbox": pl.Array(pl.Int32(), 4), "shard": pl.Int32(),
}  # fmt: skip


def items(*rows: dict) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=SCHEMA)


def changes(before: pl.DataFrame, after: pl.DataFrame) -> list[tuple]:
    return catalogue_changes(before, after).rows()


def test_the_same_rows_in_another_order_are_no_change() -> None:
    assert changes(items(*ROWS), items(*reversed(ROWS))) == []


def test_new_and_removed_skus_are_told_with_their_shard() -> None:
    assert changes(items(*ROWS[:2]), items(*ROWS)) == [("b", 1, "new", "1 item")]
    assert changes(items(*ROWS), items(ROWS[2])) == [("a", 0, "removed", "2 items")]


@pytest.mark.parametrize(
    ("after", "detail"),
    [
        ([ROWS[0], {**ROWS[1], "image_digest": "x", "title": "u"}], "other image_digest, title"),
        ([ROWS[0], {**ROWS[1], "bbox": [0, 0, 5, 5]}], "other bbox"),
        ([*ROWS[:2], {**ROWS[1], "image_id": "9"}], "1 item more"),
        ([ROWS[0]], "1 item less"),
        ([{**ROWS[0], "title": "u"}, {**ROWS[1], "image_id": "9"}], "1 item more; 1 item less; other title"),
    ],
)
def test_a_changed_sku_says_what_is_other(after: list[dict], detail: str) -> None:
    assert changes(items(*ROWS[:2]), items(*after)) == [("a", 0, "changed", detail)]


def test_of_an_empty_catalogue_everything_is_new() -> None:
    assert [row[2] for row in changes(items(), items(*ROWS))] == ["new", "new"]


def test_changes_are_the_same_however_many_rows_are_compared_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [{**ROWS[0], "sku_id": f"é{number}", "shard": number} for number in range(50)]
    before = items(*rows[:40], {**rows[3], "image_id": "9"})
    after = items(*rows[10:20], *({**row, "title": "u"} for row in rows[20:45]), *rows[:5])
    whole = changes(before, after)
    kinds = dict.fromkeys([3, *range(20, 40)], "changed") | dict.fromkeys(range(40, 45), "new")
    kinds |= dict.fromkeys(range(5, 10), "removed")
    assert {(row[0], row[2]) for row in whole} == {(f"é{number}", kind) for number, kind in kinds.items()}
    monkeypatch.setattr(difference, "COMPARED_ROWS", 3)
    assert changes(before, after) == whole


def test_a_further_column_changes_its_sku() -> None:
    items = table({"sku_id": "a"}, {"sku_id": "b"}).with_columns(shard=pl.lit(0, pl.Int32))
    before = described_items(items, pl.DataFrame({"sku_id": ["a", "b"], "price": [1, 2]}))
    after = described_items(items, pl.DataFrame({"sku_id": ["a", "b"], "price": [1, 3]}))
    assert catalogue_changes(before, before).is_empty()
    assert catalogue_changes(before, after).select("sku_id", "change", "detail").rows() == [
        ("b", "changed", "other catalogue price")
    ]
