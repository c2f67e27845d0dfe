"""Compares two catalogues by the content of their rows: which SKUs are new, changed or removed."""

from typing import Any

import polars as pl

from skufp_pipeline.datasets.table import ITEM_ORDER

NEW, CHANGED, REMOVED = "new", "changed", "removed"
CHANGES_SCHEMA = {"sku_id": pl.String(), "shard": pl.Int32(), "change": pl.String(), "detail": pl.String()}
_KEY = ITEM_ORDER[1:]  # identifies an item within its SKU


def catalogue_changes(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """Returns a row (`CHANGES_SCHEMA`) per SKU that differs; items have `shard` and `image_digest`."""
    old, new = _by_sku(before), _by_sku(after)
    rows = []
    for sku_id in sorted({*old, *new}):
        if old.get(sku_id) == new.get(sku_id):
            continue
        items = new.get(sku_id) or old[sku_id]
        change = CHANGED if sku_id in old and sku_id in new else NEW if sku_id in new else REMOVED
        detail = _count(len(items), "item")
        if change == CHANGED:
            detail = _detail(old[sku_id], new[sku_id])
        shard = next(iter(items.values()))["shard"]
        rows.append({"sku_id": sku_id, "shard": shard, "change": change, "detail": detail})
    return pl.DataFrame(rows, schema=CHANGES_SCHEMA)


def described_items(items: pl.DataFrame, skus: pl.DataFrame) -> pl.DataFrame:
    """Returns the items with the catalogue's further columns of their SKUs, as `catalogue NAME`."""
    further = skus.select("sku_id", pl.exclude("sku_id").name.prefix("catalogue "))
    return items.join(further, on="sku_id", how="left", maintain_order="left")


def _by_sku(items: pl.DataFrame) -> dict[str, dict[tuple[Any, ...], dict[str, Any]]]:
    """Groups rows by SKU, and within it by item."""
    found: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {}
    for row in items.iter_rows(named=True):
        found.setdefault(row["sku_id"], {})[tuple(row[name] for name in _KEY)] = row
    return found


def _detail(old: dict[tuple[Any, ...], dict[str, Any]], new: dict[tuple[Any, ...], dict[str, Any]]) -> str:
    both = old.keys() & new.keys()
    columns = sorted(
        {name for key in both for name in {*new[key], *old[key]} if new[key].get(name) != old[key].get(name)}
    )
    parts = [
        f"{_count(len(new.keys() - old.keys()), 'item')} more" if new.keys() - old.keys() else "",
        f"{_count(len(old.keys() - new.keys()), 'item')} less" if old.keys() - new.keys() else "",
        f"other {', '.join(columns)}" if columns else "",
    ]
    return "; ".join(part for part in parts if part)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def count_changes(before: pl.DataFrame, after: pl.DataFrame, shards: int) -> dict[str, int]:
    """Counts new, changed and removed SKUs, and shards with and without changes."""
    changes = catalogue_changes(before, after)
    counts = dict(changes.group_by("change").len().iter_rows())
    touched = changes["shard"].n_unique()
    return {
        **{f"skus_{change}": counts.get(change, 0) for change in (NEW, CHANGED, REMOVED)},
        "shards_changed": touched,
        "shards_unchanged": shards - touched,
    }
