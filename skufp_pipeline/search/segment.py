"""A segment of the index: immutable fingerprints, codes and SKU table."""

import operator
from collections.abc import Callable
from datetime import date, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from skufp_pipeline.errors import UserError
from skufp_pipeline.search.codes import CodedFingerprints, encode
from skufp_pipeline.search.rows import Words, words_of
from skufp_pipeline.search.scan import Scanner

KEPT_FILTERS = 256  # cached bitmaps per segment, by column and value: 32 MB for a million rows
UNIT_TOLERANCE = 1e-5
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class SkuTable:
    """The SKUs of a segment, one row per fingerprint, with cached filter bitmaps."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame
        self._matching = lru_cache(KEPT_FILTERS)(partial(_matching, frame))
        self._compared = lru_cache(KEPT_FILTERS)(partial(_compared, frame))

    def matching(self, column: str, value: Any) -> Words:
        """Bitmap of the rows whose `column` equals `value` or, for a list column, contains it."""
        return self._matching(column, value)

    def compared(self, column: str, sign: str, bound: Any) -> Words:
        """Bitmap of the rows whose `column` is `sign` (of `COMPARISONS`) `bound`."""
        return self._compared(column, sign, bound)


class Segment:
    """N fingerprints that are searched together.

    Args:
        fingerprints: (N, D) float32 unit rows; may be memory-mapped.
        threads: threads per search.
        biases: (N,) finite float32, added to the cosines.
        folder: folder that the segment was loaded from.
    """

    def __init__(
        self,
        fingerprints: NDArray[np.float32],
        coded: CodedFingerprints,
        table: SkuTable,
        threads: int,
        biases: NDArray[np.float32] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.fingerprints = fingerprints
        self.coded = coded
        self.table = table
        self.threads = threads
        self.biases = biases
        self.folder = folder
        rows = np.ascontiguousarray(fingerprints, dtype=np.float32)
        self.scanner = Scanner(rows, coded, threads, biases)

    def __len__(self) -> int:
        return len(self.fingerprints)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles and copies without codes and threads, which are made again."""
        return _made_again, (np.asarray(self.fingerprints), self.table.frame, self.threads, self.biases)

    def with_biases(self, biases: NDArray[np.float32]) -> "Segment":
        """The same rows with other biases."""
        return Segment(self.fingerprints, self.coded, self.table, self.threads, biases, self.folder)


def make_segment(fingerprints: NDArray[np.float32], skus: pl.DataFrame, threads: int) -> Segment:
    """Encodes (N, D) fingerprints into a new segment.

    Raises UserError if lengths differ, there is no `sku_id` column, or a fingerprint is not finite.
    """
    if len(fingerprints) != len(skus):
        raise UserError(f"index: {len(fingerprints)} fingerprints but {len(skus)} SKUs")
    if "sku_id" not in skus.columns:
        raise UserError(f"index: the SKU table has no column sku_id, only {', '.join(skus.columns)}")
    rows = np.ascontiguousarray(fingerprints, dtype=np.float32)
    return Segment(rows, encode(rows, threads), SkuTable(skus), threads)


def _made_again(
    fingerprints: NDArray[np.float32],
    skus: pl.DataFrame,
    threads: int,
    biases: NDArray[np.float32] | None,
) -> Segment:
    segment = make_segment(fingerprints, skus, threads)
    return segment if biases is None else segment.with_biases(biases)


def unit_rows(fingerprints: ArrayLike) -> NDArray[np.float32]:
    """Fingerprints as float32; raises UserError unless they are (N, D) with finite rows of norm 1."""
    rows = np.ascontiguousarray(fingerprints, dtype=np.float32)
    if rows.ndim != 2:
        raise UserError(f"index: fingerprints must be (N, D), found {rows.shape}")
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    wrong = np.flatnonzero(~(np.abs(norms - 1) < UNIT_TOLERANCE))  # NaN too
    if len(wrong):
        raise UserError(
            f"index: {len(wrong)} fingerprints are not unit rows; materialize fingerprints again, or "
            f"normalise them (the first is row {wrong[0]}, of norm {norms[wrong[0]]:.3g})"
        )
    return rows


def require_distinct(sku_ids: pl.Series) -> None:
    """Raises a UserError if a SKU id occurs twice."""
    if sku_ids.n_unique() < len(sku_ids):
        twice = sku_ids.filter(sku_ids.is_duplicated()).unique(maintain_order=True)
        raise UserError(f"index: {some(twice)} occurs more than once; a SKU has one fingerprint")


def some(sku_ids: pl.Series) -> str:
    """The first three ids, for an error message."""
    shown = ", ".join(repr(sku_id) for sku_id in sku_ids.head(3))
    return f"SKU {shown}" + (f" and {len(sku_ids) - 3} more" if len(sku_ids) > 3 else "")


def _matching(frame: pl.DataFrame, column: str, value: Any) -> Words:
    if column not in frame.columns:
        return words_of(np.zeros(len(frame), dtype=bool))
    values = frame[column]
    kind = values.dtype
    wanted = as_kind(value, kind.inner if isinstance(kind, pl.List) else kind)
    if wanted is None:
        return words_of(np.zeros(len(frame), dtype=bool))
    mask = values.list.contains(wanted) if isinstance(kind, pl.List) else values == wanted
    return words_of(mask.fill_null(False).to_numpy())


def as_kind(value: Any, kind: Any) -> Any:
    """Casts the value to the column's type, since the command line passes strings; None if impossible."""
    if kind == pl.String:
        return str(value)
    if kind == pl.Null:
        return None
    if not isinstance(value, str):
        return value
    if kind == pl.Boolean:
        return {"true": True, "false": False}.get(value.lower())
    if kind.is_temporal():
        return _moment(value, kind)
    if kind.is_integer():
        number = pl.Series([value]).cast(pl.Int128, strict=False)[0]
        return as_kind(value, pl.Float64()) if number is None else number
    return pl.Series([value]).cast(kind, strict=False)[0]


def _moment(text: str, kind: pl.DataType) -> date | None:
    """Reads an ISO date, or date and time in the column's zone unless it names one; None if it is none."""
    try:
        if not isinstance(kind, pl.Datetime):
            return date.fromisoformat(text)
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    zone = ZoneInfo(kind.time_zone) if kind.time_zone else None
    return found.replace(tzinfo=zone) if found.tzinfo is None or zone is None else found


def _compared(frame: pl.DataFrame, column: str, sign: str, bound: Any) -> Words:
    if column not in frame.columns:
        return words_of(np.zeros(len(frame), dtype=bool))
    return words_of(COMPARISONS[sign](frame[column], bound).fill_null(False).to_numpy())
