"""What a detector returns: the regions of a photo that show an item, best first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skufp_pipeline.detection.settings import DetectorSettings

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels; x2 and y2 are not part of it
ITEM = "item"  # the label of a detector that knows one kind of thing


@dataclass(frozen=True)
class Region:
    """A part of a photo that shows an item.

    Attributes:
        box: in pixels of the upright photo, inside it and not empty.
        label: the detector's name of what it shows.
        score: the detector's own, 0 to 1.
    """

    box: Box
    label: str
    score: float


class Detector(Protocol):
    """Finds items in photos.

    Attributes:
        trim: share of a region that is cut off at each side before it is searched for.
    """

    @property
    def trim(self) -> float: ...

    def find(self, image: Image.Image) -> list[Region]:
        """Returns the regions of an upright RGB photo, the best first; there may be none."""
        ...


def trimmed(box: Box, share: float) -> Box:
    """Returns a box without this share of its width and height at each side; never an empty one.

    >>> trimmed((0, 0, 100, 50), 0.04)
    (4, 2, 96, 48)
    """
    x1, y1, x2, y2 = box
    across, down = (min(round(share * length), (length - 1) // 2) for length in (x2 - x1, y2 - y1))
    return x1 + across, y1 + down, x2 - across, y2 - down


def overlaps(one: NDArray, other: NDArray) -> NDArray[np.float64]:
    """Returns the (N, M) intersection over union of boxes (N, 4) and (M, 4); 0 for empty boxes.

    >>> overlaps(np.array([[0, 0, 2, 2]]), np.array([[0, 0, 2, 1], [1, 1, 3, 3]])).round(3).tolist()
    [[0.5, 0.143]]
    """
    a, b = np.asarray(one, np.float64).reshape(-1, 1, 4), np.asarray(other, np.float64).reshape(1, -1, 4)
    both = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    areas = [np.clip(box[..., 2:] - box[..., :2], 0, None).prod(-1) for box in (a, b)]
    return both / np.maximum(areas[0] + areas[1] - both, 1e-12)


def kept_regions(
    boxes: NDArray, scores: NDArray, labels: Sequence[str], size: tuple[int, int], settings: DetectorSettings
) -> list[Region]:
    """Returns the regions that the settings keep: above the threshold, apart from one another, the best few.

    Equal scores are ordered by box, then by label, so that the order of the inputs does not matter.

    Args:
        boxes: (N, 4) x1, y1, x2, y2 in pixels; rounded, and cut where they leave the photo.
        scores: (N,) 0 to 1.
        labels: N names.
        size: width and height of the photo.
    """
    edges = np.array([*size, *size])
    whole = np.clip(np.nan_to_num(np.rint(np.asarray(boxes, np.float64))), 0, edges).astype(int).tolist()
    found = [
        Region((x1, y1, x2, y2), label, float(score))
        for (x1, y1, x2, y2), label, score in zip(whole, labels, scores.tolist(), strict=True)
        if score >= settings.threshold
        and x1 < x2
        and y1 < y2
        and (settings.labels is None or label in settings.labels)
    ]
    found.sort(key=lambda region: (-region.score, region.box, region.label))
    kept: list[Region] = []
    for region in found:
        if len(kept) == settings.most:
            break
        others = np.array([other.box for other in kept])
        if not kept or overlaps(np.array([region.box]), others).max() <= settings.overlap:
            kept.append(region)
    return kept
