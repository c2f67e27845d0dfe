"""An index of pictures: one row per catalogue picture, and a product scores what its best picture scores.

    index.json, segment_0000/   one row per product: the unit mean of its pictures, for "more like this"
    images.json                 whose embeddings, which engine
    images/                     one row per picture, in the order of the products: a `FingerprintIndex`
    images/owners.npy           (pictures,) int64 row of each one's product
    images/hnsw.faiss           FAISS's graph, if it is the engine

Of products of equal score the one of the lower row comes first. The pictures of a product lie together and in
the order of the products, so the first picture of each product in a ranking of pictures gives the ranking of
products, with its ties. A ranking of (k - 1) m + 1 pictures, m the most of a product, has k products.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from skufp_pipeline.compute import cores_available
from skufp_pipeline.errors import UserError
from skufp_pipeline.search.approximate import FLAT, HNSW, flat_rows, load_hnsw, write_hnsw
from skufp_pipeline.search.files import load_parts
from skufp_pipeline.search.index import FingerprintIndex, query_rows
from skufp_pipeline.search.rows import Rows, Words
from skufp_pipeline.search.scan import unit_queries
from skufp_pipeline.search.segment import Segment
from skufp_pipeline.settings import Settings

IMAGES_FILE, IMAGES_FOLDER, OWNERS_FILE = "images.json", "images", "owners.npy"
ASKED = 2  # pictures that are asked for at first, per product that is wanted
Found = tuple[NDArray[np.int64], NDArray[np.float64]]


class Engine(Protocol):
    """Ranks the pictures of an index: a `FingerprintIndex` of them, or `FaissRows`."""

    def best(self, queries: NDArray[np.floating], k: int, within: Rows | None = None) -> Found:
        """Returns rows and scores of the best pictures, (Q, k) each, best first, ties by row.

        One that is not exact returns -1 and -inf where it finds fewer.
        """
        ...


class ImagesFile(Settings):
    """Schema of `images.json`."""

    of: str  # whose embeddings
    engine: Literal["exact", "flat", "hnsw"] = "exact"
    neighbours: int = 32
    breadth: int = 64
    least_recall: float = 1.0


class ImageIndex(FingerprintIndex):
    """N products by their pictures; a `FingerprintIndex` whose rows are products.

    >>> pictures = FingerprintIndex(np.eye(3, dtype=np.float32), pl.DataFrame({"sku_id": ["a1", "b1", "b2"]}))
    >>> index = ImageIndex.of_pictures(pictures, pl.DataFrame({"sku_id": ["a", "b"]}), np.array([0, 1, 1]))
    >>> index.search(np.array([[0.3, 0.1, 0.9]]), 2)[0].rows.tolist()
    [1, 0]

    Attributes:
        pictures: one row per picture, which are searched exactly.
        owners: (M,) row of each picture's product, non-decreasing.
        engine: what ranks the pictures; where it finds too few, `pictures` does.
        file: what the bundle says of itself; None if it was not read from one.
    """

    pictures: FingerprintIndex
    owners: NDArray[np.int64]
    engine: Engine
    file: ImagesFile | None

    @classmethod
    def of_pictures(
        cls, pictures: FingerprintIndex, skus: pl.DataFrame, owners: NDArray[np.int64]
    ) -> "ImageIndex":
        """Makes an index in memory of the pictures of products.

        Raises ValueError if `owners` does not count up 0, 0, 1, ... over all pictures and products.
        """
        index = cls(mean_rows(pictures.fingerprints, owners), skus)
        index._see(pictures, owners)
        return index

    @classmethod
    def load(cls, directory: Path, threads: int | None = None) -> "ImageIndex":
        """Opens the bundle at `directory`; raises UserError if it can't be read, or FAISS is missing."""
        index = cls.__new__(cls)
        index._hold(*load_parts(directory, threads or cores_available()))
        folder = directory / IMAGES_FOLDER
        try:
            file = ImagesFile.model_validate(json.loads((directory / IMAGES_FILE).read_text()))
            owners = np.load(folder / OWNERS_FILE, allow_pickle=False)
            index._see(FingerprintIndex.load(folder, threads), owners, file)
        except (OSError, EOFError, ValueError, ValidationError) as error:
            raise UserError(f"index bundle {directory} can't be read: {error}; materialize it") from error
        if file.engine == FLAT:
            index.engine = flat_rows(index.vectors)
        if file.engine == HNSW:
            index.engine = load_hnsw(folder, index.vectors, file.breadth)
        return index

    @property
    def of(self) -> str:
        """Whose embeddings the pictures are; empty if it was not read from a bundle."""
        return "" if self.file is None else self.file.of

    def _see(
        self, pictures: FingerprintIndex, owners: NDArray[np.int64], file: ImagesFile | None = None
    ) -> None:
        counts = product_counts(owners, len(pictures))
        if len(counts) != self.row_count or pictures.dimension != self.dimension:
            raise ValueError(f"pictures of {len(counts)} products, the index has {self.row_count}")
        self.pictures, self.owners, self.engine, self.file = pictures, owners, pictures, file
        self._most = int(counts.max(initial=1))

    def warm_up(self) -> None:
        super().warm_up()
        self.pictures.warm_up()

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(N + 1,) first picture of each product, and the number of pictures."""
        return np.searchsorted(self.owners, np.arange(self.row_count + 1))

    def pictures_of(self, row: int) -> slice:
        """Returns the rows of a product's pictures."""
        return slice(*self.starts[row : row + 2].tolist())

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """(M, D) rows of the pictures; a copy if they are in several segments."""
        return self.pictures.fingerprints

    def cosines(self, query: ArrayLike, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns the (n,) scores of some products with a (1, D) query, those of an exact search."""
        (asked,) = unit_queries(query_rows(query, self.dimension))
        slices = [self.pictures_of(row) for row in rows.tolist()]
        parts = [(self.vectors[mine].astype(np.float64) * asked).sum(axis=1) for mine in slices]
        return np.array([part.max() for part in parts])

    def _best(
        self, queries: NDArray[np.floating], k: int, allowed: Sequence[Words | None], counts: Sequence[int]
    ) -> Found:
        k, within = min(k, sum(counts)), self._pictures_within(allowed)
        rows, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
        enough = (k - 1) * self._most + 1
        asked, left = min(ASKED * k, enough), np.arange(len(queries) if k else 0)
        while len(left):
            ranked, of_rank = self.engine.best(queries[left], asked, within)
            left = left[[not fill for fill in self._fill(left, ranked, of_rank, rows, scores)]]
            if asked == enough and len(left):  # the engine is not exact, and found too few
                self._fill(left, *self.pictures.best(queries[left], enough, within), rows, scores)
                break
            asked = min(2 * asked, enough)
        return rows, scores

    def _fill(
        self,
        places: NDArray[np.int64],
        ranked: NDArray[np.int64],
        of_rank: NDArray[np.float64],
        rows: NDArray[np.int64],
        scores: NDArray[np.float64],
    ) -> list[bool]:
        """Writes the products of ranked pictures to `rows` and `scores`; says where there were enough."""
        filled = []
        for place, pictures, found in zip(places.tolist(), ranked, of_rank, strict=True):
            there = pictures >= 0
            owners = self.owners[pictures[there]]
            first = np.sort(np.unique(owners, return_index=True)[1])[: rows.shape[1]]
            filled.append(len(first) == rows.shape[1])
            if filled[-1]:
                rows[place], scores[place] = owners[first], found[there][first]
        return filled

    def _pictures_within(self, allowed: Sequence[Words | None]) -> Rows | None:
        """The pictures of the allowed products; None for all."""
        if all(words is None for words in allowed):
            return None
        whole = Rows.everything(self.present.sizes).words
        words = tuple(all_of if mine is None else mine for mine, all_of in zip(allowed, whole, strict=True))
        mask = np.zeros(self.row_count, bool)
        mask[Rows(self.present.sizes, words).numbers()] = True
        ends = np.cumsum(self.pictures.present.sizes)[:-1]
        return Rows.of_masks(np.split(mask[self.owners], ends))

    def _of(  # type: ignore[override]
        self, segments: tuple[Segment, ...], present: Rows, references: dict[str, str]
    ) -> "ImageIndex":
        """The same pictures without some products; nothing else can be changed."""
        if len(segments) != len(self.segments) or any(
            new is not old for new, old in zip(segments, self.segments, strict=True)
        ):
            raise UserError("an index of pictures is built as a whole: products can only be removed from it")
        index = ImageIndex.__new__(ImageIndex)
        index._hold(segments, present, references)
        index._see(self.pictures, self.owners, self.file)
        index.engine = self.engine
        return index

    def compacted(self) -> "FingerprintIndex":
        raise UserError("an index of pictures is built as a whole: products can only be removed from it")

    def save(self, directory: Path, previous: Path | None = None) -> None:
        """Writes this version into an empty directory; raises as `FingerprintIndex.save`."""
        super().save(directory, previous)
        folder = directory / IMAGES_FOLDER
        folder.mkdir()
        self.pictures.save(folder, None if previous is None else previous / IMAGES_FOLDER)
        finish(directory, self.vectors, self.owners, self.file or ImagesFile(of="pictures"))


def finish(
    directory: Path, vectors: NDArray[np.float32], owners: NDArray[np.int64], file: ImagesFile
) -> None:
    """Writes what a bundle needs beside the products and the folder of pictures."""
    folder = directory / IMAGES_FOLDER
    np.save(folder / OWNERS_FILE, owners)
    if file.engine == HNSW:
        write_hnsw(folder, vectors, file.neighbours)
    (directory / IMAGES_FILE).write_text(json.dumps(file.model_dump(), indent=1) + "\n")


def mean_rows(vectors: NDArray[np.float32], owners: NDArray[np.int64]) -> NDArray[np.float32]:
    """Returns the (N, D) unit means of the products' pictures; of those that cancel out, the first picture.

    >>> mean_rows(np.array([[1, 0], [0, 1], [0, 1], [0, -1]], np.float32), np.array([0, 0, 1, 1])).round(3)
    array([[0.707, 0.707],
           [0.   , 1.   ]], dtype=float32)
    """
    if not len(owners):
        return vectors[:0]
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    sums = np.add.reduceat(vectors.astype(np.float64), starts)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    means: NDArray[np.float64] = np.where(norms > 1e-6, sums / np.maximum(norms, 1e-6), vectors[starts])
    return means.astype(np.float32)


def product_counts(owners: NDArray[np.int64], pictures: int) -> NDArray[np.int64]:
    """Returns the number of pictures of each product.

    Raises ValueError if `owners` does not count up 0, 0, 1, ... over all pictures.
    """
    if (
        owners.shape != (pictures,)
        or (pictures and owners[0] != 0)
        or not np.isin(np.diff(owners, prepend=-1), (0, 1)).all()
    ):
        raise ValueError(f"{OWNERS_FILE} must count up 0, 0, 1, ... over {pictures} pictures")
    return np.bincount(owners)


def least_recall(index: FingerprintIndex) -> float | None:
    """Returns the share of the best answers that an index must find; None where it must find all."""
    if not isinstance(index, ImageIndex) or index.engine is index.pictures or index.file is None:
        return None
    return index.file.least_recall


def open_index(directory: Path, threads: int | None = None) -> FingerprintIndex:
    """Opens an index bundle: of pictures, if it has them. Raises as `FingerprintIndex.load`."""
    kind = ImageIndex if (directory / IMAGES_FILE).is_file() else FingerprintIndex
    return kind.load(directory, threads)
