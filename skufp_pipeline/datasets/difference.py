"""Compares two catalogues by the content of their rows: which SKUs are new, changed or removed."""

from typing import Any

import polars as pl

from skufp_pipeline.datasets.table import ITEM_ORDER

NEW, CHANGED, REMOVED = "new", "changed", "removed"
CHANGES_SCHEMA = {"sku_id": pl.String(), "shard": pl.Int32(), "change": pl.String(), "detail": pl.String()}
COMPARED_ROWS = 20_000  # of a catalogue, compared as Python objects at a time
_KEY = ITEM_ORDER[1:]  # identifies an item within its SKU


def catalogue_changes(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """Returns a row (`CHANGES_SCHEMA`) per SKU that differs; items have `shard` and `image_digest`."""
    parts = max(before.height, after.height) // COMPARED_ROWS + 1
    old, new = _parts(before.join(after, on="sku_id", how="semi"), parts), _parts(after, parts)
    changed = (_changed(items, new[part]) for part, items in old.items())
    only_old, only_new = (
        before.join(after, on="sku_id", how="anti"),
        after.join(before, on="sku_id", how="anti"),
    )
    return pl.concat([_counted(only_old, REMOVED), _counted(only_new, NEW), *changed]).sort("sku_id")


def described_items(items: pl.DataFrame, skus: pl.DataFrame) -> pl.DataFrame:
    """Returns the items with the catalogue's further columns of their SKUs, as `catalogue NAME`."""
    further = skus.select("sku_id", pl.exclude("sku_id").name.prefix("catalogue "))
    return items.join(further, on="sku_id", how="left", maintain_order="left")


def _parts(items: pl.DataFrame, count: int) -> dict[tuple[Any, ...], pl.DataFrame]:
    """Splits rows by SKU: rows as Python objects take ten times the memory, so not all are at once."""
    part = (pl.col("sku_id").hash() % count).alias("part")
    return items.with_columns(part).partition_by("part", include_key=False, as_dict=True)


def _counted(items: pl.DataFrame, change: str) -> pl.DataFrame:
    """Returns the changes of SKUs that are only in one catalogue, with the number of their items."""
    skus = items.group_by("sku_id").agg(pl.col("shard").first(), count=pl.struct(_KEY).n_unique())
    plural = pl.when(pl.col("count") == 1).then(pl.lit("")).otherwise(pl.lit("s"))
    detail = pl.format("{} item{}", "count", plural)
    return skus.select("sku_id", "shard", change=pl.lit(change), detail=detail).cast(CHANGES_SCHEMA)  # type: ignore[arg-type]


def _changed(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """Returns the changes of SKUs that are in both catalogues."""
    old, new = _by_sku(before), _by_sku(after)
    rows = [
        {"sku_id": sku_id, "shard": next(iter(new[sku_id].values()))["shard"], "change": CHANGED,
         "detail": _detail(items, new[sku_id])}
        for sku_id, items in old.items()
        if items != new[sku_id]
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=CHANGES_SCHEMA)


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
