"""The boxes of every item in an image, those of items that are no product of the catalogue included."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from skufp_pipeline.datasets.deepfashion2 import ITEM_KEY
from skufp_pipeline.datasets.reading import clip_bbox
from skufp_pipeline.errors import ItemError
from skufp_pipeline.photos import size_of

Boxes = list[list[int]]  # x1, y1, x2, y2 in pixels of the upright image


def annotated_boxes(root: Path, images: Sequence[str]) -> dict[str, Boxes]:
    """Reads all usable boxes of images of a DeepFashion2 folder, by path relative to `root`.

    `images` are paths that its reader kept an item of.
    """
    found = {}
    for image in images:
        path = Path(image)
        annotation = json.loads((root / path.parent.parent / "annos" / f"{path.stem}.json").read_bytes())
        size, boxes = size_of(root / image), []
        for key, item in annotation.items():
            if ITEM_KEY.fullmatch(key) and isinstance(item, dict) and "bounding_box" in item:
                try:
                    boxes.append(clip_bbox(item["bounding_box"], *size))
                except ItemError:
                    continue  # the reader has told it
        found[image] = boxes
    return found


def listed_boxes(items: pl.DataFrame, images: Sequence[str], find: Callable[[str], Path]) -> dict[str, Boxes]:
    """Returns the boxes that the table of items lists, by image; an image that is one item as a whole, as a
    catalogue without boxes is read, is left out, and one that can't be read."""
    boxes: dict[str, Boxes] = {}
    for image, box in items.select("orig_image_path", "bbox").rows():
        boxes.setdefault(image, []).append(list(box))
    return {image: boxes[image] for image in images if not _is_whole(boxes[image], image, find)}


def _is_whole(boxes: Boxes, image: str, find: Callable[[str], Path]) -> bool:
    if boxes[0][:2] != [0, 0]:
        return False
    try:
        return boxes[0][2:] == list(size_of(find(image)))
    except ItemError:
        return True
