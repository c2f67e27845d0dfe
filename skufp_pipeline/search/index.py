"""The exact index: segments of fingerprints, top-K by cosine, ties broken by row.

Results and order equal float64 brute force. A scan of coded fingerprints bounds every score; only rows that
the bounds do not rule out are scored in float64 (proof in docs/search.md).

An index is immutable: adding, removing and setting biases return a new index that shares the segments.
"""

import difflib
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from skufp_pipeline.compute import cores_available
from skufp_pipeline.errors import UserError
from skufp_pipeline.search.files import load_parts, save_parts
from skufp_pipeline.search.rows import Rows, Words
from skufp_pipeline.search.scan import unit_queries
from skufp_pipeline.search.segment import (
    Segment,
    as_kind,
    make_segment,
    require_distinct,
    some,
    unit_rows,
)

BATCHED = 8  # a number of queries that is searched as a batch
COMPARED_VALUES = 10_000  # values of a column that are compared to suggest the nearest to an unknown one


class SearchResult(NamedTuple):
    """The top SKUs of one query, best first.

    Attributes:
        rows: (K,) int64 row numbers.
        scores: (K,) float64, cosine plus bias.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]


class FingerprintIndex:
    """N unit fingerprints and their SKU table; thread-safe.

    Rows are numbered across all segments and do not change when SKUs are added or removed. A removed SKU
    keeps its row in `fingerprints`, `skus` and `biases`; `present` holds the searchable rows and `len` is
    their number.

    >>> skus = pl.DataFrame({"sku_id": ["belt", "hat", "shirt"], "category_name": ["small", "small", "top"]})
    >>> index = FingerprintIndex(np.eye(3, dtype=np.float32), skus)
    >>> index.search(np.array([[0.1, 0.9, 0.2]]), 2)[0].rows.tolist()
    [1, 2]
    >>> index.search(np.array([[0.1, 0.9, 0.2]]), 2, index.where(category_name=["top"]))[0].rows.tolist()
    [2]

    Args:
        fingerprints: (N, D) float32 unit rows; may be memory-mapped.
        skus: N rows; `sku_id` and whatever a result shows (category, representative image).
        references: digests of the models that made the fingerprints (encoder, aggregator).
        threads: threads per search; by default the processors available to this process.

    Raises:
        UserError: lengths differ, a fingerprint is not finite, or a SKU id occurs twice.
    """

    def __init__(
        self,
        fingerprints: NDArray[np.float32],
        skus: pl.DataFrame,
        references: dict[str, str] | None = None,
        threads: int | None = None,
    ) -> None:
        threads = threads or cores_available()
        segment = make_segment(fingerprints, skus, threads)
        require_distinct(skus["sku_id"])
        self._hold((segment,), Rows.everything([len(segment)]), references or {})

    def _hold(self, segments: tuple[Segment, ...], present: Rows, references: dict[str, str]) -> None:
        self.segments = segments
        self.present = present
        self.references = references
        whole = zip(present.words, present.counts, present.sizes, strict=True)
        self._allowed = tuple(None if count == size else words for words, count, size in whole)
        self._starts = [0, *np.cumsum(present.sizes).tolist()]

    @classmethod
    def _of(
        cls, segments: tuple[Segment, ...], present: Rows, references: dict[str, str]
    ) -> "FingerprintIndex":
        index = cls.__new__(cls)
        index._hold(segments, present, references)
        return index

    def __len__(self) -> int:
        return self.present.count

    @property
    def row_count(self) -> int:
        """Number of rows, including those of removed SKUs."""
        return int(self._starts[-1])

    @property
    def dimension(self) -> int:
        return int(self.segments[0].fingerprints.shape[1])

    @property
    def threads(self) -> int:
        return self.segments[0].threads

    @property
    def fingerprints(self) -> NDArray[np.float32]:
        """(row_count, D); a copy if there are several segments."""
        parts = [segment.fingerprints for segment in self.segments]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @cached_property
    def skus(self) -> pl.DataFrame:
        """The SKU table by row; a column that a segment lacks is null there."""
        parts = [segment.table.frame for segment in self.segments]
        return parts[0] if len(parts) == 1 else pl.concat(parts, how="diagonal_relaxed")

    @property
    def sku_ids(self) -> pl.Series:
        """(len,) ids of the present rows."""
        return self.skus["sku_id"].gather(self.present.numbers())

    @cached_property
    def present_skus(self) -> pl.DataFrame:
        """The SKU table of the present rows, in one piece: polars fails on some lists in several."""
        if len(self) == self.row_count and len(self.segments) == 1:
            return self.skus
        return self.skus[self.present.numbers()].rechunk()

    @cached_property
    def row_ids(self) -> pl.Series:
        """(row_count,) SKU ids by row; null where the SKU was removed."""
        if len(self) == self.row_count:
            return self.skus["sku_id"]
        return self.skus.select(pl.when(pl.lit(pl.Series(self.present.mask()))).then("sku_id"))["sku_id"]

    @property
    def biases(self) -> NDArray[np.float32]:
        """(row_count,) values added to the cosines."""
        return np.concatenate(
            [np.zeros(len(s), np.float32) if s.biases is None else s.biases for s in self.segments]
        )

    def contents(self) -> tuple[NDArray[np.float32], pl.DataFrame]:
        """(len, D) fingerprints and SKU table of the present rows."""
        if len(self) == self.row_count:
            return np.ascontiguousarray(self.fingerprints, dtype=np.float32), self.skus
        kept = zip(self.segments, self.present.of_segments(), strict=True)
        return (
            np.concatenate([segment.fingerprints[rows] for segment, rows in kept]),
            self.skus[self.present.numbers()],
        )

    # -- search ---------------------------------------------------------------------------------------------

    def search(self, queries: ArrayLike, k: int, within: Rows | None = None) -> list[SearchResult]:
        """The results of `best` as one `SearchResult` per query."""
        rows, scores = self.best(queries, k, within)
        return [SearchResult(*found) for found in zip(rows, scores, strict=True)]

    def best(
        self, queries: ArrayLike, k: int, within: Rows | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Rows and scores of the `k` best SKUs, (Q, k) each, best first; fewer if there are fewer rows.

        Args:
            queries: (Q, D) or (D,), any norm; a zero query has cosine 0 with every row.
            within: restricts the search to these rows (`where`, `of_skus`); by default all.

        Raises:
            ValueError: wrong D, `k` below 1, or a query that is not finite.
            UserError: `within` belongs to another index.
        """
        given = query_rows(queries, self.dimension)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if within is None:
            return self._best(given, k, self._allowed, self.present.counts)
        chosen = within & self.present
        return self._best(given, k, chosen.words, chosen.counts)

    def warm_up(self) -> None:
        """Compiles (or loads) the kernels and reads the codes, so that the first search is not slower."""
        if len(self):
            like = self._fingerprint(int(self.present.numbers()[0]))
            for queries in (like[None], np.tile(like, (BATCHED, 1))):
                self.best(queries, 1)
            for segment in self.segments:
                segment.scanner.warm_up()

    def search_like(self, sku_id: Any, k: int, within: Rows | None = None) -> SearchResult:
        """The `k` SKUs nearest to a SKU's fingerprint, excluding itself.

        Raises UserError if the SKU is not in the index; otherwise as `best`.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        (row,) = self.of_skus([sku_id]).numbers()
        (result,) = self.search(self._fingerprint(row), k + 1, within)
        others = np.flatnonzero(result.rows != row)[:k]
        return SearchResult(result.rows[others], result.scores[others])

    def fingerprints_of(self, sku_ids: Sequence[Any]) -> NDArray[np.float32]:
        """(N, D) fingerprints of these SKUs in their order; raises UserError if one is not in the index."""
        rows = [self.of_skus([sku_id]).numbers()[0] for sku_id in sku_ids]
        return self.fingerprints_at(np.array(rows, np.int64))

    def fingerprints_at(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N, D) copy of the fingerprints of (N,) rows."""
        found = np.empty((len(rows), self.dimension), np.float32)
        for start, segment in zip(self._starts, self.segments, strict=False):
            here = (start <= rows) & (rows < start + len(segment))
            found[here] = segment.fingerprints[rows[here] - start]
        return found

    def cosines(self, query: ArrayLike, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N,) cosines of a (D,) or (1, D) query with these rows, in float64 and without biases."""
        (unit,) = unit_queries(query_rows(query, self.dimension))
        return self.fingerprints_at(rows).astype(np.float64) @ unit

    def _best(
        self, queries: NDArray[np.floating], k: int, allowed: Sequence[Words | None], counts: Sequence[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Rows and scores, (Q, min(k, sum of counts)) each."""
        if len(self.segments) == 1:
            return self.segments[0].scanner.best(queries, min(k, counts[0]), allowed[0])
        rows, scores = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0))
        for start, segment, words, count in zip(self._starts, self.segments, allowed, counts, strict=False):
            if not count:
                continue
            floors = scores[:, -1] if scores.shape[1] == k else None  # k rows of earlier segments reach it
            more, of_more = segment.scanner.best(queries, min(k, count), words, floors)
            rows = np.concatenate([rows, more + start], 1)
            scores = np.concatenate([scores, of_more], 1)
            order = np.argsort(-scores, axis=1, kind="stable")[
                :, :k
            ]  # stable: on ties the lower row is first
            rows, scores = np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
        return rows, scores

    def _fingerprint(self, row: int) -> NDArray[np.float32]:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.segments[number].fingerprints[row - self._starts[number]]

    # -- filters --------------------------------------------------------------------------------------------

    def where(self, /, **columns: Any) -> Rows:
        """The rows whose columns match: each column takes one value or several alternatives.

        `where(category_name=["shorts", "trousers"], colour="red")`: shorts or trousers, and red.

        Raises UserError for an unknown column, a column without values, or a value that no SKU has in it.
        """
        chosen = self.present
        for column, asked in columns.items():
            chosen = chosen & self._matching(column, asked)
        return chosen

    def compare(self, column: str, sign: str, bound: Any) -> Rows:
        """The rows whose number or date in a column is `sign` (<, <=, > or >=) `bound`; empty ones are not.

        Raises UserError for an unknown column, one of words, a bound of another type, or if no SKU is in the
        range.
        """
        values = self._column(column)
        kind = values.dtype
        limit = as_kind(bound, kind) if kind.is_numeric() or kind.is_temporal() else None
        if limit is None:
            held = (
                "numbers" if kind.is_numeric() else "dates" if kind.is_temporal() else "no numbers or dates"
            )
            raise UserError(f"{column} {sign} {bound}: the column {column!r} holds {held}")
        masks = (segment.table.compared(column, sign, limit) for segment in self.segments)
        chosen = Rows(self.present.sizes, tuple(masks)) & self.present
        if not chosen.count:
            ends: Any = (values.min(), values.max())
            raise UserError(f"no SKU has {column} {sign} {bound}; there are {ends[0]} to {ends[1]}")
        return chosen

    def of_skus(self, sku_ids: Iterable[Any]) -> Rows:
        """The rows of these SKUs; raises UserError if one of them is not in the index."""
        rows, unknown = self.known_skus(sku_ids)
        if len(unknown):
            raise UserError(f"{some(unknown)} is not in the index")
        return rows

    def known_skus(self, sku_ids: Iterable[Any]) -> tuple[Rows, pl.Series]:
        """The rows of those of the SKUs that are in the index, and the ids of the others."""
        wanted = self._ids(sku_ids).unique(maintain_order=True)
        rows = self._rows_of(wanted)
        known = self.skus["sku_id"][rows.numbers()]
        return rows, wanted.filter(~wanted.is_in(known.implode()))

    def _column(self, column: str) -> pl.Series:
        if column not in self.skus.columns:
            known = ", ".join(self.skus.columns)
            raise UserError(f"the SKU table has no column {column!r} to filter by; it has {known}")
        return self.skus[column]

    def _matching(self, column: str, asked: Any) -> Rows:
        self._column(column)
        values = asked if isinstance(asked, Collection) and not isinstance(asked, str) else [asked]
        if not values:
            raise UserError(f"no value to filter {column} by")
        chosen = Rows(self.present.sizes, tuple(np.zeros_like(words) for words in self.present.words))
        for value in values:
            words = tuple(segment.table.matching(column, value) for segment in self.segments)
            if not any(part.any() for part in words):
                raise UserError(f"no SKU has {column} {value!r}; {self._nearest(column, str(value))}")
            chosen = chosen | Rows(self.present.sizes, words)
        return chosen

    def _nearest(self, column: str, value: str) -> str:
        values = self.skus[column].drop_nulls()
        values = values.explode() if isinstance(values.dtype, pl.List) else values
        known = [str(value) for value in values.unique().sort().head(COMPARED_VALUES)]
        nearest = difflib.get_close_matches(value, known, n=5, cutoff=0.4) or known[:5]
        return f"nearest: {', '.join(nearest)}" if nearest else "no SKU has any"

    def _ids(self, sku_ids: Iterable[Any]) -> pl.Series:
        """The ids as a series of the type of the index's ids."""
        asked = [sku_ids] if isinstance(sku_ids, str) else list(sku_ids)
        kind = self.skus.schema["sku_id"]
        try:
            return pl.Series("sku_id", asked, dtype=kind)
        except (TypeError, pl.exceptions.PolarsError) as error:
            raise UserError(f"SKU ids of this index are {kind}: {error}") from error

    def _rows_of(self, wanted: pl.Series) -> Rows:
        """The present rows of these SKUs; unknown ids are ignored."""
        ids = (segment.table.frame["sku_id"] for segment in self.segments)
        listed = wanted.implode()
        return (
            Rows.of_masks(column.is_in(listed).fill_null(False).to_numpy() for column in ids) & self.present
        )

    # -- other versions -------------------------------------------------------------------------------------

    def add(
        self, fingerprints: ArrayLike, skus: pl.DataFrame, biases: ArrayLike | None = None
    ) -> "FingerprintIndex":
        """The index with SKUs appended.

        Args:
            fingerprints: (n, D) unit rows.
            skus: n rows; `sku_id` and any other columns of the index's table.
            biases: (n,); 0 by default.

        Raises:
            UserError: wrong D, rows not of norm 1, a repeated or already present SKU, unknown columns,
                or biases that are not n finite ones.
        """
        rows = unit_rows(fingerprints).copy()  # the caller may change its array later
        if rows.shape[1] != self.dimension:
            raise UserError(f"fingerprints have {rows.shape[1]} dimensions, the index has {self.dimension}")
        self._require_columns(skus)
        segment = make_segment(rows, skus, self.threads)
        require_distinct(skus["sku_id"])
        there = self._rows_of(skus["sku_id"])
        if there.count:
            known = some(self.skus["sku_id"][there.numbers()])
            raise UserError(f"{known} is in the index already; use update, or remove it first")
        added = Rows.everything([len(segment)])
        present = Rows(self.present.sizes + added.sizes, self.present.words + added.words)
        index = self._of((*self.segments, segment), present, self.references)
        return index if biases is None else index.with_biases(np.append(self.biases, biases))

    def remove(self, sku_ids: Iterable[Any]) -> "FingerprintIndex":
        """The index without these SKUs; raises UserError if one of them is not in the index."""
        present = self.present & ~self.of_skus(sku_ids)
        return self._of(self.segments, present, self.references)

    def update(
        self, fingerprints: ArrayLike, skus: pl.DataFrame, biases: ArrayLike | None = None
    ) -> "FingerprintIndex":
        """The index with existing SKUs replaced and moved to the end. Raises as `remove` and `add`."""
        self._require_columns(skus)
        return self.remove(skus["sku_id"]).add(fingerprints, skus, biases)

    def compacted(self) -> "FingerprintIndex":
        """The present SKUs in a single segment, in the same order."""
        index = FingerprintIndex(*self.contents(), self.references, self.threads)
        if all(segment.biases is None for segment in self.segments):
            return index
        return index.with_biases(self.biases[self.present.numbers()])

    def merged(self, rows: int) -> "FingerprintIndex":
        """The present SKUs in the same order, with the last segments joined into one of at most `rows`.

        A segment joins those behind it if it is at most twice as large as they are together, so that many
        small additions leave few segments.
        """
        counts, first = self.present.counts, len(self.segments) - 1
        size = counts[first]
        while first and counts[first - 1] <= 2 * size and counts[first - 1] + size <= rows:
            first -= 1
            size += counts[first]
        if first == len(self.segments) - 1:
            return self
        sizes, words = self.present.sizes, self.present.words
        last = self._of(self.segments[first:], Rows(sizes[first:], words[first:]), {}).compacted()
        present = Rows(sizes[:first] + last.present.sizes, words[:first] + last.present.words)
        return self._of((*self.segments[:first], *last.segments), present, self.references)

    def with_biases(self, values: ArrayLike) -> "FingerprintIndex":
        """The index with scores cosine + bias, for example a hubness correction.

        `values` is (row_count,), stored as float32; raises UserError on a wrong length or a non-finite bias.
        """
        biases = np.array(values, dtype=np.float32)
        if biases.shape != (self.row_count,):
            raise UserError(f"biases must be ({self.row_count},), one a row, found {biases.shape}")
        if not np.isfinite(biases).all():
            raise UserError("a bias is NaN or infinite; biases must be finite")
        parts = np.split(biases, self._starts[1:-1])
        segments = tuple(s.with_biases(part) for s, part in zip(self.segments, parts, strict=True))
        return self._of(segments, self.present, self.references)

    def _require_columns(self, skus: pl.DataFrame) -> None:
        if "sku_id" not in skus.columns:
            raise UserError(f"the SKUs have no column sku_id, only {', '.join(skus.columns)}")
        known = self.skus.schema
        for column, kind in skus.schema.items():
            if column not in known:
                raise UserError(f"the index's SKU table has no column {column!r}; it has {', '.join(known)}")
            if kind != known[column] and pl.Null not in (kind, known[column]):
                raise UserError(f"column {column} of the SKUs is {kind}, in the index it is {known[column]}")

    # -- files ----------------------------------------------------------------------------------------------

    def save(self, directory: Path, previous: Path | None = None) -> None:
        """Writes this version into an empty directory.

        Segments that were loaded from the directory `previous` are linked, or copied if links fail.
        """
        save_parts(directory, self.segments, self.present, self.references, previous)

    @classmethod
    def load(cls, directory: Path, threads: int | None = None) -> "FingerprintIndex":
        """Opens the version at `directory`, memory-mapped. Raises as `load_parts`."""
        return cls._of(*load_parts(directory, threads or cores_available()))


def query_rows(queries: ArrayLike, dimension: int) -> NDArray[np.floating]:
    """(Q, D) or (D,) queries as contiguous (Q, D) float32 or float64; raises ValueError on another D."""
    rows = np.asarray(queries)
    rows = np.ascontiguousarray(rows if rows.ndim == 2 else np.atleast_2d(rows))
    if rows.dtype.char not in "fd":
        rows = rows.astype(np.float64)
    if rows.ndim != 2 or rows.shape[1] != dimension:
        raise ValueError(f"queries have {rows.shape[-1]} dimensions, the index has {dimension}")
    return rows


def mix(image: ArrayLike, text: ArrayLike, text_weight: float) -> NDArray[np.float64]:
    """Combines a photo and a text into one query: unit((1 - w) unit(image) + w unit(text)).

    >>> mix([3, 0], [0, 5], 0.5).round(3).tolist()
    [[0.707, 0.707]]

    Args:
        image, text: (D,) or (1, D) embeddings, any norm.
        text_weight: w, 0 for the photo alone, 1 for the text alone.

    Returns:
        (1, D) of norm 1; 0 if the two cancel out.

    Raises:
        UserError: a weight outside 0 to 1.
        ValueError: different dimensions, or an embedding that is not finite.
    """
    if not 0 <= text_weight <= 1:
        raise UserError(f"the text's weight must be 0 to 1, got {text_weight}")
    dimension = np.shape(image)[-1]
    pictured, worded = (unit_queries(query_rows(query, dimension)) for query in (image, text))
    return unit_queries((1 - text_weight) * pictured + text_weight * worded)
