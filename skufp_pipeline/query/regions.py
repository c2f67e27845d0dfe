"""Which part of a photo is searched for: a box, an item that the detector finds, or the whole."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from PIL import Image

from skufp_pipeline.datasets.crops import CropSettings, read_items
from skufp_pipeline.detection.regions import Box, Detector, Region, trimmed
from skufp_pipeline.errors import UserError
from skufp_pipeline.photos import PhotoSource, size_of
from skufp_pipeline.query.answers import Answer, Clock, Hit

AUTO: Literal["auto"] = "auto"
WHOLE: Literal["whole"] = "whole"
MERGE: Literal["merge"] = "merge"
# auto: the item that answers best; the whole photo without a detector, or where it finds nothing. A number:
# that item, from 1 in the detector's order. Four numbers: x1, y1, x2, y2 in pixels of the upright photo.
# merge: all items as auto has them, a SKU by the item that it answers best.
RegionChoice = Literal["auto", "whole", "merge"] | int | Box
_CROPS = CropSettings()


@dataclass(frozen=True)
class View:
    """A part of a photo as it is embedded: prepared as the catalogue's crops are.

    Attributes:
        item: the detector's region; None for a box that was given and for the whole photo.
        number: of the item, from 1.
        box: in pixels of the upright photo; None for the whole.
    """

    image: Image.Image
    box: Box | None = None
    item: Region | None = None
    number: int | None = None


def views_of(
    source: PhotoSource,
    photo: Image.Image,
    choice: RegionChoice,
    detector: Detector | None,
    clock: Clock,
    decoded: Image.Image | None = None,
) -> list[View]:
    """Returns the views to search for: every item for `auto` and `merge`, else one.

    Args:
        photo: `source` as `whole_photo` reads it.
        decoded: the same before it was reduced, if it is there: boxes are cut out of it where it is enough.

    Raises:
        UserError: the box is no box of this photo, there is no detector, or it finds no such item.
        PhotoError: the photo can't be read.
    """
    if choice == WHOLE or (choice in (AUTO, MERGE) and detector is None):
        return [View(photo)]
    size = size_of(source)
    if isinstance(choice, tuple):
        boxes: list[Box] = [checked_box(choice, size)]
        searched = boxes
        items: Sequence[Region | None] = [None]
        numbers: Sequence[int | None] = [None]
    else:
        found = found_in(photo, size, detector)
        clock.lap("detect")
        if choice not in (AUTO, MERGE):
            _require_item(choice, found)
        elif not found:
            return [View(photo)]
        chosen = range(len(found)) if choice in (AUTO, MERGE) else [int(choice) - 1]
        items, numbers = [found[place] for place in chosen], [place + 1 for place in chosen]
        boxes = [found[place].box for place in chosen]
        assert detector is not None
        searched = [trimmed(box, detector.trim) for box in boxes]
    images = read_items(source, searched, _CROPS, drafted=True, decoded=decoded)
    clock.lap("cut")
    return [View(*view) for view in zip(images, boxes, items, numbers, strict=True)]


def found_in(photo: Image.Image, size: tuple[int, int], detector: Detector | None) -> list[Region]:
    """Returns the items of a photo, which was reduced from `size`, in pixels of that size."""
    if detector is None:
        raise UserError(
            "the index in use has no detector, so items of a photo can't be told apart; give the part of the "
            "photo as a box x1,y1,x2,y2, or materialize a preset with a detector"
        )
    across, down = size[0] / photo.width, size[1] / photo.height
    return [
        Region(_scaled(region.box, across, down, size), region.label, region.score)
        for region in detector.find(photo)
    ]


def checked_box(box: Box, size: tuple[int, int]) -> Box:
    """Returns the box; raises UserError if it is empty or reaches out of a photo of this size."""
    x1, y1, x2, y2 = box
    width, height = size
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise UserError(
            f"box {x1},{y1},{x2},{y2} is no part of the photo: expected x1 < x2 within 0 to {width} and "
            f"y1 < y2 within 0 to {height}, pixels of the upright photo"
        )
    return box


def best_item(answers: Sequence[Answer]) -> int:
    """Returns the place of the item that answers best, the first of equals: the one of the highest
    confidence, or without confidences the one whose first hit scores highest."""
    scores = [answer.hits[0].score if answer.hits else float("-inf") for answer in answers]
    sure = [answer.confidence for answer in answers if answer.confidence is not None]
    ranked = sure if len(sure) == len(scores) else scores
    return ranked.index(max(ranked))


def merged_hits(answers: Sequence[Sequence[Hit]], top: int) -> list[Hit]:
    """Returns the best `top` hits of several items, each SKU with its best; of equal ones the earlier item's.

    Each item's list is its best `top`, so nothing is lost: a SKU beyond it is behind `top` others. Hits that
    a re-ranker ranked come before those that it did not, as they do in each list.
    """
    order = [hit for hits in answers for hit in hits]
    order.sort(key=lambda hit: (hit.maxsim is None and "rerank" not in hit.parts, -hit.score))
    best: dict[str, Hit] = {}
    for hit in order:
        best.setdefault(hit.sku_id, hit)
    return [replace(hit, rank=rank) for rank, hit in enumerate(list(best.values())[:top], 1)]


def _require_item(choice: RegionChoice, found: Sequence[Region]) -> None:
    if not (isinstance(choice, int) and 1 <= choice <= len(found)):
        count = f"{len(found)} item{'' if len(found) == 1 else 's'}" if found else "no item"
        raise UserError(
            f"item {choice}: the detector found {count} in this photo; items count from 1, and the whole "
            "photo or a box x1,y1,x2,y2 need no detector"
        )


def _scaled(box: Box, across: float, down: float, size: tuple[int, int]) -> Box:
    """Returns a box of the reduced photo in pixels of the photo, never empty."""
    x1, y1, x2, y2 = box
    left, top = min(int(x1 * across), size[0] - 1), min(int(y1 * down), size[1] - 1)
    right, bottom = min(round(x2 * across), size[0]), min(round(y2 * down), size[1])
    return left, top, max(right, left + 1), max(bottom, top + 1)
