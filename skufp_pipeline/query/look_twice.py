"""Looks twice: ranks the best SKUs by cosine plus weighted MaxSim of patches (`measures.maxsim`).

The first pass stays exact; its best `top` SKUs are ranked anew, those after them keep their order. Texts are
not looked at twice: they have no patches.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skufp_pipeline.encoders.patch_tables import patches_of
from skufp_pipeline.encoders.settings import LookTwiceSettings
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.measures.maxsim import Patches
from skufp_pipeline.measures.ranks import right_items
from skufp_pipeline.search.index import FingerprintIndex, SearchResult
from skufp_pipeline.search.patches import (
    PICTURES_FOLDER,
    LookTwiceFile,
    PatchIndex,
    ShownPictures,
    load_patches,
    save_look_twice,
)
from skufp_pipeline.search.pictures import Pictures, load_pictures


class SecondLook(NamedTuple):
    """Ranked rows, with what both passes say of each.

    Attributes:
        rows: (K,) best first.
        scores: (K,) of the first pass: cosine plus bias.
        maxsim: (K,) of the second, whatever it compares; nan where a SKU was not looked at twice.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    maxsim: NDArray[np.float64]


class Reranker(ABC):
    """Ranks the best of a first pass anew, by its score plus a weighted one of a second pass.

    Attributes:
        top: SKUs that are ranked anew.
        weight: of the second score beside the first; 0 leaves the first pass as it is.
    """

    top: int
    weight: float

    @abstractmethod
    def compared(self, rows: NDArray[np.int64], photo: NDArray[Any]) -> NDArray[np.float64]:
        """Returns the (n,) second scores of some rows with what the ranker knows of a photo."""

    def again(self, first: SearchResult, photo: NDArray[Any]) -> SecondLook:
        """Ranks the first `top` of a result anew; ties are broken by row.

        Args:
            first: result of the first pass, best first, with `top` SKUs or as many as there are.
            photo: what `compared` takes.
        """
        near = first.rows[: self.top]
        found = np.full(len(first.rows), np.nan)
        found[: len(near)] = self.compared(near, photo)
        ranked = first.scores[: len(near)] + self.weight * found[: len(near)]
        order = np.arange(len(first.rows))
        order[: len(near)] = np.lexsort((near, -ranked))
        return SecondLook(first.rows[order], first.scores[order], found[order])

    def ranked(self, first: SearchResult, photo: NDArray[Any]) -> NDArray[np.float64]:
        """Returns the scores by which `again` ranks the first `top` of a result, in the order of `first`."""
        return first.scores[: self.top] + self.weight * self.compared(first.rows[: self.top], photo)


@dataclass(frozen=True)
class LookTwice(Reranker):
    """The second look of an index.

    >>> patches = np.array([[[[127, 0]]], [[[0, 127]]]], np.int8)
    >>> look = LookTwice(PatchIndex(patches, np.array([1, 1], np.uint8)), 2, 0.5)
    >>> first = SearchResult(np.array([0, 1]), np.array([0.8, 0.7]))
    >>> look.again(first, np.array([[0, 127]], np.int8)).rows.tolist()
    [1, 0]

    Attributes:
        top: SKUs that are looked at twice.
        weight: of MaxSim beside the cosine; 0 leaves the first pass as it is.
        pictures: thumbnails of SKUs whose patches are not of their own thumbnail.
    """

    patches: PatchIndex
    top: int
    weight: float
    pictures: Pictures | None = None

    @classmethod
    def open(cls, directory: Path, rows: int) -> "LookTwice | None":
        """Opens that of an index bundle; None if it has none, or one of weight 0."""
        found = load_patches(directory, rows)
        if found is None or found[1].weight == 0:
            return None
        return cls(found[0], found[1].top, found[1].weight, load_pictures(directory / PICTURES_FOLDER))

    def compared(self, rows: NDArray[np.int64], photo: Patches) -> NDArray[np.float64]:
        """Returns the MaxSim of some rows with the (P, d) patches of a photo."""
        return self.patches.maxsim(rows, photo)


def tried_weight(
    weight: float, found: Sequence[NDArray[np.int64]], truth: NDArray[np.int64]
) -> dict[str, float]:
    """Returns `weight`, `recall@1` and `mrr` of Q rankings; a right row that is not there counts as 0."""
    places = [np.flatnonzero(rows == row) for rows, row in zip(found, truth, strict=True)]
    reciprocal = np.array([1 / (place[0] + 1) if len(place) else 0.0 for place in places])
    return {"weight": weight, "recall@1": float((reciprocal == 1).mean()), "mrr": float(reciprocal.mean())}


def best_tried(tried: Sequence[dict[str, float]]) -> float:
    """Returns the weight of the highest mean reciprocal rank, of equal ones the smallest."""
    return max(tried, key=lambda row: (round(row["mrr"], 9), -row["weight"]))["weight"]


def choose_weight(
    index: FingerprintIndex,
    patches: PatchIndex,
    embeddings: NDArray[np.float32],
    photos: Patches,
    truth: NDArray[np.int64],
    settings: LookTwiceSettings,
) -> LookTwiceFile:
    """Chooses what MaxSim weighs: that with the highest mean reciprocal rank, of equal ones the smallest.

    A photo whose SKU is not among the `top` counts as 0; no weight changes that.

    Args:
        embeddings: (Q, D) of development photos.
        photos: (Q, P, d) patches of the same.
        truth: (Q,) row of each one's SKU.
    """
    if settings.weight is not None:
        return LookTwiceFile(top=settings.top, weight=settings.weight, chosen_on=None)
    if len(truth) < settings.least_photos:
        return LookTwiceFile(top=settings.top, weight=settings.usual_weight, chosen_on=None)
    first = index.search(embeddings, settings.top)
    tried = []
    for weight in sorted(settings.weights):
        look = LookTwice(patches, settings.top, weight)
        seen = [look.again(result, photo).rows for result, photo in zip(first, photos, strict=True)]
        tried.append(tried_weight(weight, seen, truth))
    return LookTwiceFile(top=settings.top, weight=best_tried(tried), chosen_on=len(truth), tried=tried)


def write_look_twice(
    directory: Path,
    index: FingerprintIndex,
    views: Iterable[pl.DataFrame],
    photos: pl.DataFrame,
    images: pl.DataFrame,
    shape: tuple[int, int, int],
    settings: LookTwiceSettings,
    shown: ShownPictures | None = None,
) -> dict[str, Any]:
    """Adds the second look to an index bundle; returns what it weighs, and on how many photos it was chosen.

    Args:
        views: `sku_id` and `patches` of the catalogue pictures, a table of a shard each.
        photos: the same, with `item_id`, of development photos; the weight is chosen on customers'.
        images: `item_id` and `embedding` of customers' photos.
        shape: V, P and d of the patches.
        shown: where pictures are, so that one of each SKU can be explained; None: none can.
    """
    patches = PatchIndex.write(directory, index.skus["sku_id"], views, shape, shown)
    asked = photos.join(images.select("item_id", "embedding"), on="item_id", maintain_order="left")
    truth = right_items(asked["sku_id"], index.skus["sku_id"])
    asked, truth = asked.filter(truth >= 0), truth[truth >= 0]
    rows = embedding_rows(asked)
    file = choose_weight(index, patches, rows, patches_of(asked, *shape[1:]), truth, settings)
    save_look_twice(directory, file)
    return {"maxsim_weight": file.weight, "maxsim_weight_chosen_on": file.chosen_on or 0}
