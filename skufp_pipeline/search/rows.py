"""Sets of an index's rows, as bitmaps: what a filter yields, and what a search stays within."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.errors import UserError

WORD = 64  # rows to a word
Words = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of an index: one bitmap for each of its segments.

    Attributes:
        sizes: rows of each segment.
        words: of each, (ceil(size / 64),); bit i of word b is row 64 b + i of the segment. Bits past the
            last row are 0.
    """

    sizes: tuple[int, ...]
    words: tuple[Words, ...]

    @classmethod
    def of_masks(cls, masks: Iterable[NDArray[np.bool_]]) -> "Rows":
        """The rows that are True; one mask a segment."""
        kept = tuple(masks)
        return cls(tuple(len(mask) for mask in kept), tuple(words_of(mask) for mask in kept))

    @classmethod
    def everything(cls, sizes: Sequence[int]) -> "Rows":
        """All rows of segments of these sizes."""
        return cls.of_masks(np.ones(size, dtype=bool) for size in sizes)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """How many of each segment's rows there are."""
        return tuple(int(np.bitwise_count(words).sum()) for words in self.words)

    @property
    def count(self) -> int:
        return sum(self.counts)

    def of_segments(self) -> list[NDArray[np.int64]]:
        """The rows by segment, each counted from its segment's first."""
        return [
            np.flatnonzero(np.unpackbits(words.view(np.uint8), count=size, bitorder="little"))
            for words, size in zip(self.words, self.sizes, strict=True)
        ]

    def numbers(self) -> NDArray[np.int64]:
        """(count,) row numbers in the index, ascending."""
        starts = np.cumsum([0, *self.sizes])
        parts = [start + rows for start, rows in zip(starts, self.of_segments(), strict=False)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def __and__(self, other: "Rows") -> "Rows":
        return self._joined(other, np.bitwise_and)

    def __or__(self, other: "Rows") -> "Rows":
        return self._joined(other, np.bitwise_or)

    def __invert__(self) -> "Rows":
        """All other rows, those of removed SKUs too; a search finds none of these."""
        whole = Rows.everything(self.sizes)
        return Rows(self.sizes, tuple(a & ~b for a, b in zip(whole.words, self.words, strict=True)))

    def _joined(self, other: "Rows", join: Callable[[Words, Words], Words]) -> "Rows":
        if self.sizes != other.sizes:
            raise UserError(
                f"these rows are of an index with segments of {list(self.sizes)} rows, not "
                f"{list(other.sizes)}; ask the index that is searched for them (where, of_skus)"
            )
        return Rows(self.sizes, tuple(join(a, b) for a, b in zip(self.words, other.words, strict=True)))


def words_of(mask: NDArray[np.bool_]) -> Words:
    """(N,) flags as (ceil(N / 64),) words, the first flag in the lowest bit."""
    packed = np.zeros(-(-len(mask) // WORD) * WORD // 8, dtype=np.uint8)
    bits = np.packbits(mask, bitorder="little")
    packed[: len(bits)] = bits
    return packed.view(np.uint64)
