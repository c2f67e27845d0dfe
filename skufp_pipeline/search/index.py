"""The exact index: all fingerprints in one matrix, top-K by cosine, ties by row.

The order is that of a float64 product over the stored float32 fingerprints. A float32 product finds
the rows that can still be among the top K, given its largest possible error; those are scored in
float64.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from skufp_pipeline.errors import UserError

FINGERPRINTS_FILE, SKUS_FILE, REFERENCES_FILE = "fingerprints.npy", "skus.parquet", "references.json"


@dataclass(frozen=True)
class SearchResult:
    """The best SKUs of one query, best first.

    Attributes:
        rows: (K,) rows of the index.
        scores: (K,) float64 cosines.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]


class FingerprintIndex:
    """N unit fingerprints and their SKU table.

    Args:
        fingerprints: (N, D) float32 unit rows; may be memory-mapped.
        skus: N rows; `sku_id` and whatever a result shows (category, representative image).
        references: digests of what the fingerprints were made with (encoder, aggregator).

    Raises:
        UserError: the two lengths differ.
    """

    def __init__(
        self, fingerprints: NDArray[np.float32], skus: pl.DataFrame, references: dict[str, str] | None = None
    ) -> None:
        if len(fingerprints) != len(skus):
            raise UserError(f"index: {len(fingerprints)} fingerprints but {len(skus)} SKUs")
        self.fingerprints = fingerprints
        self.skus = skus
        self.references = references or {}

    def __len__(self) -> int:
        return len(self.fingerprints)

    @property
    def dimension(self) -> int:
        return int(self.fingerprints.shape[1])

    def search(self, queries: ArrayLike, k: int) -> list[SearchResult]:
        """The `k` SKUs of highest cosine for each query; fewer where the index holds fewer.

        Args:
            queries: (Q, D) or (D,), any norm; a zero query scores 0 everywhere.

        Raises:
            ValueError: another D, `k` below 1, or a query that is not finite.
        """
        unit = self._unit_queries(queries)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if len(self) == 0:
            return [SearchResult(np.empty(0, np.int64), np.empty(0)) for _ in unit]
        approximate = unit.astype(np.float32) @ self.fingerprints.T  # (Q, N)
        return [
            self._exact(query, row, min(k, len(self))) for query, row in zip(unit, approximate, strict=True)
        ]

    def _unit_queries(self, queries: ArrayLike) -> NDArray[np.float64]:
        rows = np.atleast_2d(np.asarray(queries, dtype=np.float64))
        if rows.shape[1] != self.dimension:
            raise ValueError(f"queries have {rows.shape[1]} dimensions, the index has {self.dimension}")
        if not np.isfinite(rows).all():
            raise ValueError("a query holds NaN or infinity")
        largest = np.abs(rows).max(axis=1, keepdims=True)
        rows = rows / np.where(largest > 0, largest, 1)  # huge norms must not overflow when squared
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(norms > 0, norms, 1)

    def _exact(self, query: NDArray[np.float64], approximate: NDArray[np.float32], k: int) -> SearchResult:
        # A float32 dot product of unit rows errs by at most about (D + 2) * 2^-24, whatever the order of
        # its sums (Higham 2002, eq. 3.5); twice that, for the bound and for the k-th score, is safe.
        error = 2 * (self.dimension + 2) * 2.0**-24 * 1.01
        threshold = np.partition(approximate, len(approximate) - k)[len(approximate) - k]
        candidates = np.flatnonzero(approximate >= threshold - error)
        scores = (self.fingerprints[candidates].astype(np.float64) * query).sum(axis=1)
        order = np.lexsort((candidates, -scores))[:k]
        return SearchResult(candidates[order], scores[order])

    def save(self, directory: Path) -> None:
        """Writes the bundle: fingerprints, SKU table, references."""
        np.save(directory / FINGERPRINTS_FILE, np.ascontiguousarray(self.fingerprints, dtype=np.float32))
        self.skus.write_parquet(directory / SKUS_FILE, compression="zstd")
        (directory / REFERENCES_FILE).write_text(json.dumps(self.references, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, directory: Path) -> "FingerprintIndex":
        """The bundle at `directory`, its fingerprints memory-mapped.

        Raises:
            UserError: a file is missing or unreadable.
        """
        try:
            fingerprints = np.load(directory / FINGERPRINTS_FILE, mmap_mode="r", allow_pickle=False)
            skus = pl.read_parquet(directory / SKUS_FILE)
            references = json.loads((directory / REFERENCES_FILE).read_text())
        except (OSError, EOFError, ValueError, pl.exceptions.PolarsError) as error:
            raise UserError(
                f"index bundle {directory} can't be read: {error}; materialize search_index"
            ) from error
        return cls(fingerprints, skus, references)
