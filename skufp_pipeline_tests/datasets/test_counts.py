"""What a catalogue says is what was kept, left out, and lost."""

import polars as pl

from skufp_pipeline.datasets.counts import CatalogueCounts, lost_skus
from skufp_pipeline.datasets.table import SKIPPED_SCHEMA

ITEMS = pl.DataFrame({"sku_id": ["a", "a", "b"]})


def skipped(*rows: tuple[str | None, str]) -> pl.DataFrame:
    return pl.DataFrame([{"sku_id": sku, "reason": reason} for sku, reason in rows], schema=SKIPPED_SCHEMA)


def test_a_sku_is_lost_when_none_of_its_wanted_rows_is_left() -> None:
    left_out = skipped(
        ("a", "missing_image"), ("c", "missing_image"), ("c", "bbox_empty"), (None, "bad_json")
    )
    assert lost_skus(ITEMS, left_out) == ["c"]
    counts = CatalogueCounts.of(ITEMS, left_out)
    assert (counts.items, counts.skus, counts.skus_lost, counts.skipped_items) == (3, 2, 1, 4)
    assert counts.share_left_out == 4 / 7


def test_what_is_left_out_by_choice_is_listed_and_is_no_loss() -> None:
    counts = CatalogueCounts.of(ITEMS, skipped(("d", "style_zero"), ("e", "sku_without_query")))
    assert (counts.skus_lost, counts.share_left_out, counts.skipped_items) == (0, 0.0, 2)


def test_counts_are_told_in_one_line_the_most_frequent_reason_first() -> None:
    left_out = skipped(("c", "bbox_empty"), ("c", "missing_image"), ("a", "missing_image"))
    assert str(CatalogueCounts.of(ITEMS, left_out)) == (
        "6 rows read, 3 kept, 3 left out (missing_image 2, bbox_empty 1); "
        "3 SKUs read, 2 kept, 1 lost entirely"
    )
    counts = CatalogueCounts.of(ITEMS, left_out)
    assert CatalogueCounts(**counts.summary()) == counts
