"""Makes one query vector of several wishes: photos, words, words to avoid, SKUs liked and disliked.

Each step ends with a unit vector, so one exact search answers whatever was combined:

    photos    unit(sum of w_i unit(photo_i) / sum of w_i)
    words     `search.index.mix` with the photos
    avoided   unit(q - w unit(text)) with the mean of the texts: Rocchio's negative term, with a text
    likes     unit(a q + b mean(liked) - c mean(disliked)), with a = 1, b = 0.75, c = 0.15

Likes are Rocchio's ("Relevance feedback in information retrieval", 1971), the weights those of Manning,
Raghavan and Schütze ("Introduction to Information Retrieval", 2008, section 9.1.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.errors import UserError
from skufp_pipeline.photos import PhotoSource
from skufp_pipeline.query.seen import SeenPhoto
from skufp_pipeline.search.scan import unit_queries

QUERY, LIKED, DISLIKED = 1.0, 0.75, 0.15  # Rocchio's weights
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Wish:
    """What is asked for; at least one photo, text or liked SKU.

    Attributes:
        photos: of one item.
        photo_weights: how much each photo counts; all the same by default.
        text, text_weight: words, and 0 to 1 for the photos or the words alone, if there are photos.
        avoided, avoided_weight: words that push away, and how far: 0 not at all.
        liked, disliked: SKU ids; they are no answers.
    """

    photos: Sequence[PhotoSource | SeenPhoto] = ()
    photo_weights: Sequence[float] | None = None
    text: str | None = None
    text_weight: float = 0.5
    avoided: Sequence[str] = ()
    avoided_weight: float = 0.5
    liked: Sequence[str] = ()
    disliked: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not (self.photos or self.text is not None or self.liked):
            raise UserError(
                "give a photo, a text, a SKU to be like, or several of them; words to avoid and SKUs to be "
                "unlike only change what is asked for"
            )
        if self.photo_weights is not None:
            if not self.photos:
                raise UserError("weights of photos need photos")
            mean_query([np.ones((1, 1))] * len(self.photos), self.photo_weights)  # refuses what is no weight
        if both := sorted(set(self.liked) & set(self.disliked)):
            raise UserError(f"SKU {both[0]!r} is both liked and disliked")

    @property
    def is_plain(self) -> bool:
        """Whether nothing is combined: one photo, one text, a photo with a text, or one liked SKU."""
        asked = bool(self.photos) + (self.text is not None)
        changed = bool(self.avoided or self.disliked)
        one = len(self.photos) <= 1 and len(self.liked) <= 1
        return one and not changed and not (asked and self.liked)


def mean_query(rows: Sequence[NDArray[np.floating]], weights: Sequence[float] | None = None) -> Floats:
    """(1, D) unit mean of (1, D) embeddings, each scaled to norm 1 first.

    >>> mean_query([np.array([[3.0, 0.0]]), np.array([[0.0, 5.0]])], [3, 4]).tolist()
    [[0.6, 0.8]]

    Raises UserError if weights are not one a photo, positive and finite.
    """
    counted = [1.0] * len(rows) if weights is None else list(weights)
    if len(counted) != len(rows):
        raise UserError(f"{len(counted)} weights for {len(rows)} photos; expected one for each")
    if not all(0 < weight < np.inf for weight in counted):
        raise UserError(f"a photo's weight must be above 0, got {', '.join(f'{w:g}' for w in counted)}")
    units = unit_queries(np.concatenate(rows))
    return _unit(np.array([counted]) @ units)


def pushed_away(query: NDArray[np.floating], texts: Sequence[NDArray[np.floating]], weight: float) -> Floats:
    """(1, D) unit(unit(query) - weight unit(mean of the texts' unit vectors)).

    >>> pushed_away(np.array([[1.0, 0.0]]), [np.array([[0.0, 1.0]])], 0.75).tolist()
    [[0.8, -0.6]]

    Raises UserError if the weight is negative or not finite, or nothing is left of the query.
    """
    if not 0 <= weight < np.inf:
        raise UserError(f"the weight of words to avoid must be at least 0, got {weight:g}")
    return _unit(unit_queries(query) - weight * mean_query(texts)) if texts else _unit(query)


def rocchio(
    query: NDArray[np.floating] | None, liked: NDArray[np.floating], disliked: NDArray[np.floating]
) -> Floats:
    """(1, D) unit(unit(query) + 0.75 mean(liked) - 0.15 mean(disliked)) of (N, D) unit rows; N may be 0.

    >>> rocchio(None, np.array([[1.0, 0.0], [0.0, 1.0]]), np.empty((0, 2))).round(3).tolist()
    [[0.707, 0.707]]

    Raises UserError if nothing is left of the query.
    """
    total = np.zeros((1, liked.shape[1])) if query is None else QUERY * unit_queries(query)
    for rows, weight in ((liked, LIKED), (disliked, -DISLIKED)):
        if len(rows):
            total = total + weight * rows.astype(np.float64).mean(axis=0, keepdims=True)
    return _unit(total)


def _unit(row: NDArray[np.floating]) -> Floats:
    row = np.asarray(row, dtype=np.float64)
    if np.linalg.norm(row) < 1e-9:
        raise UserError("what is asked for and what is to be avoided cancel out; change a weight")
    return unit_queries(row)
