"""Sets of index rows as bitmaps: the result of a filter, and the restriction of a search."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.errors import UserError

WORD = 64  # rows per word
Words = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Rows:
    """A set of index rows: one bitmap per segment.

    Attributes:
        sizes: number of rows of each segment.
        words: per segment (ceil(size / 64),); bit i of word b is row 64 b + i. Bits past the last row are 0.
    """

    sizes: tuple[int, ...]
    words: tuple[Words, ...]

    @classmethod
    def of_masks(cls, masks: Iterable[NDArray[np.bool_]]) -> "Rows":
        """The rows where the masks, one per segment, are True."""
        kept = tuple(masks)
        return cls(tuple(len(mask) for mask in kept), tuple(words_of(mask) for mask in kept))

    @classmethod
    def everything(cls, sizes: Sequence[int]) -> "Rows":
        """All rows of segments of these sizes."""
        return cls.of_masks(np.ones(size, dtype=bool) for size in sizes)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Number of rows of the set in each segment."""
        return tuple(int(np.bitwise_count(words).sum()) for words in self.words)

    @property
    def count(self) -> int:
        return sum(self.counts)

    def mask(self) -> NDArray[np.bool_]:
        """(rows of the index,) whether each row is in the set."""
        bits = (
            np.unpackbits(words.view(np.uint8), count=size, bitorder="little")
            for words, size in zip(self.words, self.sizes, strict=True)
        )
        return np.concatenate([np.empty(0, np.uint8), *bits]).view(np.bool_)

    def of_segments(self) -> list[NDArray[np.int64]]:
        """Row numbers within each segment."""
        return [
            np.flatnonzero(np.unpackbits(words.view(np.uint8), count=size, bitorder="little"))
            for words, size in zip(self.words, self.sizes, strict=True)
        ]

    def numbers(self) -> NDArray[np.int64]:
        """(count,) row numbers in the whole index, ascending."""
        starts = np.cumsum([0, *self.sizes])
        parts = [start + rows for start, rows in zip(starts, self.of_segments(), strict=False)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def __and__(self, other: "Rows") -> "Rows":
        return self._joined(other, np.bitwise_and)

    def __or__(self, other: "Rows") -> "Rows":
        return self._joined(other, np.bitwise_or)

    def __invert__(self) -> "Rows":
        """All other rows, including those of removed SKUs, which a search never returns."""
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
    """Packs (N,) flags into (ceil(N / 64),) words, the first flag in the lowest bit."""
    packed = np.zeros(-(-len(mask) // WORD) * WORD // 8, dtype=np.uint8)
    bits = np.packbits(mask, bitorder="little")
    packed[: len(bits)] = bits
    return packed.view(np.uint64)
