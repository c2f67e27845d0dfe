"""Shared by all data set readers: bounding boxes, skip rows, SKU filters, threads.

A bounding box is always in pixels of the upright image, as shown after applying EXIF orientation. This
matters for phone photos in a manifest; DeepFashion2's files have no orientation.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from skufp_pipeline.compute import cores_available
from skufp_pipeline.datasets.splits import SplitSettings, assign_roles
from skufp_pipeline.datasets.table import (
    CATALOG,
    ITEM_ORDER,
    ITEM_SCHEMA,
    QUERY,
    SKIPPED_SCHEMA,
    SPLITS,
    Catalogue,
)
from skufp_pipeline.errors import ItemError, UserError
from skufp_pipeline.progress import Progress

READ_THREADS = 16  # small files: most time is spent waiting for the disk or network
DECODE_THREADS = min(cores_available(), 8)  # each holds one whole decoded image
CHUNK = 64
WAITING = 4096  # chunks that wait for a thread at once

Row = dict[str, Any]
Task = TypeVar("Task")
Result = TypeVar("Result")


def clip_bbox(values: object, width: int, height: int) -> list[int]:
    """Rounds x1, y1, x2, y2 and clips them to `width` x `height` pixels. Raises an `ItemError`:
    bbox_malformed if they are not four finite numbers, bbox_empty if no pixel is left."""
    if not isinstance(values, Sequence) or len(values) != 4 or not all(map(is_finite, values)):
        raise ItemError("bbox_malformed", f"the bounding box is not four numbers x1, y1, x2, y2: {values!r}")
    limits = (width, height, width, height)
    x1, y1, x2, y2 = (min(max(round(value), 0), limit) for value, limit in zip(values, limits, strict=True))
    if x2 <= x1 or y2 <= y1:
        raise ItemError("bbox_empty", f"bounding box {values!r} holds no pixel of a {width} x {height} image")
    return [x1, y1, x2, y2]


def is_finite(value: object) -> bool:
    """Whether a value is a finite number, and not a bool."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)  # type: ignore[arg-type]


def skipped_row(
    split: str | None,
    image_id: str | None,
    item_idx: int | None,
    path: str | None,
    error: ItemError,
    sku_id: str | None = None,
) -> Row:
    """Returns one row of `SKIPPED_SCHEMA`."""
    return {
        "sku_id": sku_id,
        "split": split,
        "image_id": image_id,
        "item_idx": item_idx,
        "path": path,
        "reason": error.reason,
        "detail": error.detail,
    }


def map_in_threads(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    progress: Progress | None = None,
    threads: int = READ_THREADS,
    chunk: int = CHUNK,
) -> list[Result]:
    """Applies `function` to every task; returns results in task order, reporting `progress` per chunk.

    Args:
        chunk: tasks that one thread takes at a time: many if they are short, 1 if each may wait long.
    """
    chunks = [tasks[start : start + chunk] for start in range(0, len(tasks), chunk)]
    results: list[Result] = []
    with ThreadPoolExecutor(threads) as pool:
        try:
            for start in range(0, len(chunks), WAITING):
                waiting = chunks[start : start + WAITING]
                for done in pool.map(lambda part: [function(task) for task in part], waiting):
                    results += done
                    if progress is not None:
                        progress(len(results), len(tasks))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results


def build_catalogue(
    rows: Sequence[Row], skipped: Sequence[Row], only_pairs: bool, splits: SplitSettings, source: Path
) -> Catalogue:
    """Finishes every reader's work: one split per SKU, pairs if `only_pairs`, roles, order.

    Args:
        rows, skipped: kept items with the fields of `ITEM_SCHEMA` except `role`; fields of `SKIPPED_SCHEMA`.
        source: what was read, for the message.

    Raises:
        UserError: no item is left.
    """
    items, leaked = keep_first_split(pl.DataFrame(rows, schema=ITEM_SCHEMA))
    left_out = [pl.DataFrame(skipped, schema=SKIPPED_SCHEMA), leaked]
    if only_pairs:
        items, unpaired = keep_pairs(items)
        left_out.append(unpaired)
    all_skipped = pl.concat(left_out)
    if items.is_empty():
        raise UserError(f"{source} holds no usable item; left out: {skip_summary(all_skipped)}")
    return Catalogue(assign_roles(items, splits).sort(ITEM_ORDER), all_skipped)


def keep_first_split(items: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Keeps items of SKUs in their first split (train, validation, test), because a SKU seen in training must
    not be counted as unseen in validation; returns skip rows for the others."""
    rank = pl.col("split").replace_strict(SPLITS, range(len(SPLITS)), return_dtype=pl.Int8)
    marked = items.with_columns(_rank=rank, _first=rank.min().over("sku_id"))
    leaked = marked.filter(pl.col("_rank") > pl.col("_first"))
    detail = pl.format("SKU {} is in an earlier split too; it is kept there", "sku_id")
    kept = marked.filter(pl.col("_rank") == pl.col("_first")).drop("_rank", "_first")
    return kept, _as_skipped(leaked, pl.lit("sku_in_two_splits"), detail)


def keep_pairs(items: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Keeps items of SKUs that have both catalog and query items; returns skip rows for the others."""
    has = {domain: (pl.col("domain") == domain).any().over("sku_id") for domain in (CATALOG, QUERY)}
    missing = pl.when(~has[QUERY]).then(pl.lit(QUERY)).when(~has[CATALOG]).then(pl.lit(CATALOG))
    marked = items.with_columns(_missing=missing)
    unpaired = marked.filter(pl.col("_missing").is_not_null())
    reason = pl.format("sku_without_{}", "_missing")
    detail = pl.format("SKU {} has no {} item, and only pairs are wanted", "sku_id", "_missing")
    return marked.filter(pl.col("_missing").is_null()).drop("_missing"), _as_skipped(unpaired, reason, detail)


def _as_skipped(items: pl.DataFrame, reason: pl.Expr, detail: pl.Expr) -> pl.DataFrame:
    path = pl.col("orig_image_path").alias("path")
    frame = items.select(
        "sku_id", "split", "image_id", "item_idx", path, reason.alias("reason"), detail.alias("detail")
    )
    return frame.cast(pl.Schema(SKIPPED_SCHEMA))


def skip_summary(skipped: pl.DataFrame) -> str:
    """Returns counts by reason, most frequent first: "missing_image 12, style_zero 3"."""
    counts = skipped.group_by("reason").len().sort(["len", "reason"], descending=[True, False])
    return ", ".join(f"{reason} {count}" for reason, count in counts.iter_rows()) or "nothing"


def whole_number(fields: Mapping[str, Any], name: str, limit: int) -> int:
    """Returns the field `name`, from -limit to limit. Raises `ItemError`: missing_field, else bad_field."""
    if name not in fields:
        raise ItemError("missing_field", f"the field {name!r} is missing")
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > limit:
        raise ItemError("bad_field", f"the field {name!r} is not a whole number up to {limit}: {value!r}")
    return value
