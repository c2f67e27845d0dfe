"""Counts what a catalogue says and how much of it was read: rows and SKUs, kept, left out, lost."""

from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

# These rows are left out by choice: nothing that a search should find is lost by them.
BY_CHOICE = (
    *("style_zero", "sku_without_query", "sku_without_catalog", "missing_split", "duplicate_row"),
    "duplicate_picture",  # of pictures without SKUs
    *("photo_in_two_splits", "photo_in_both_domains"),  # of street photos
)


@dataclass(frozen=True)
class CatalogueCounts:
    """What was read of a catalogue. An image that is left out as a whole counts as one row.

    Attributes:
        items: rows kept.
        skus: SKUs kept, with at least one row.
        skus_lost: SKUs of which no row is left, although some was wanted.
        skipped_items: rows left out, for whatever reason.
        skipped_by_reason: their number by reason.
    """

    items: int
    skus: int
    skus_lost: int
    skipped_items: int
    skipped_by_reason: dict[str, int]

    @classmethod
    def of(cls, items: pl.DataFrame, skipped: pl.DataFrame) -> "CatalogueCounts":
        """Counts kept items (`ITEM_SCHEMA`) and skipped ones (`SKIPPED_SCHEMA`)."""
        reasons = dict(skipped.group_by("reason").len().sort("reason").iter_rows())
        lost = len(lost_skus(items, skipped))
        return cls(items.height, items["sku_id"].n_unique(), lost, skipped.height, reasons)

    @property
    def faults(self) -> int:
        """Rows left out although they were wanted."""
        return sum(count for reason, count in self.skipped_by_reason.items() if reason not in BY_CHOICE)

    @property
    def share_left_out(self) -> float:
        """Share of the wanted rows that were left out; 0 if there is none."""
        wanted = self.items + self.faults
        return self.faults / wanted if wanted else 0.0

    def summary(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        counts = sorted(self.skipped_by_reason.items(), key=lambda reason: (-reason[1], reason[0]))
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts)
        return (
            f"{self.items + self.skipped_items:,} rows read, {self.items:,} kept, "
            f"{self.skipped_items:,} left out{f' ({reasons})' if reasons else ''}; "
            f"{self.skus + self.skus_lost:,} SKUs read, {self.skus:,} kept, {self.skus_lost:,} lost entirely"
        )


def lost_skus(items: pl.DataFrame, skipped: pl.DataFrame) -> list[str]:
    """Returns the sorted SKUs that have no kept item, and a skipped one that was not left out by choice."""
    wanted = skipped.filter(~pl.col("reason").is_in(BY_CHOICE))["sku_id"].drop_nulls()
    return sorted({*wanted} - {*items["sku_id"]})
