"""How well regions found in photos agree with the boxes that are known."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.detection.regions import Region, overlaps

IOUS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Agreement:
    """Over all known boxes.

    Attributes:
        recall: share that a region meets with an IoU of .5 or more.
        placed: mean of that share at the IoUs of `IOUS`.
        mean_iou: mean IoU with the region nearest to each, 0 where there is none.
        boxes: how many boxes there are.
        regions: mean number of regions of a photo.
    """

    recall: float
    placed: float
    mean_iou: float
    boxes: int
    regions: float


def best_overlaps(found: Sequence[Region], boxes: NDArray) -> NDArray[np.float64]:
    """Returns the (M,) largest IoU of each box (M, 4) with any region; 0 without regions."""
    if not found:
        return np.zeros(len(boxes))
    return overlaps(boxes, np.array([region.box for region in found])).max(axis=1)


def agreement(found: Sequence[Sequence[Region]], boxes: Sequence[NDArray]) -> Agreement:
    """Compares the regions of each photo with its known boxes, in the same pixels; all nan without boxes."""
    best = [best_overlaps(regions, known) for regions, known in zip(found, boxes, strict=True)]
    values = np.concatenate(best) if best else np.zeros(0)
    if not len(values):
        return Agreement(np.nan, np.nan, np.nan, 0, np.nan)
    recalls = [float((values >= iou).mean()) for iou in IOUS]
    regions = float(np.mean([len(each) for each in found]))
    return Agreement(recalls[0], float(np.mean(recalls)), float(values.mean()), len(values), regions)
