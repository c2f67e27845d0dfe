"""Annotates a photo in DeepFashion2's format, measured from what was drawn."""

from typing import Any

import cv2
import numpy as np

from skufp_pipeline.datasets.sample.garments import CATEGORIES
from skufp_pipeline.datasets.sample.plan import Pair, Shot
from skufp_pipeline.datasets.sample.scenes import Scene, SeenPiece
from skufp_pipeline.randomness import chance

SEEN = 127  # alpha above which a pixel belongs to a garment
SMALLEST_ITEM = 30  # pixels; a second item with fewer visible ones is not annotated
OVERHANG_SHARE = 0.04  # of the boxes at the image border exceed it, as some of DeepFashion2's do
OUTSIDE, HIDDEN, VISIBLE = 0, 1, 2  # a landmark's third number

Annotation = dict[str, Any]  # JSON-able


def annotate(rng: np.random.Generator, scene: Scene, shot: Shot, pair: Pair) -> Annotation:
    """Returns the content of the annotation file: `source`, `pair_id`, `item1`, ..."""
    styles = {sku.index: sku.style for sku in pair.skus}
    first, *others = scene.pieces
    shown = [first, *(piece for piece in others if np.count_nonzero(piece.visible > SEEN) >= SMALLEST_ITEM)]
    items: Annotation = {"source": shot.source, "pair_id": pair.pair_id}
    for number, seen in enumerate(shown, start=1):
        style = 0 if seen.piece.sku is None else styles[seen.piece.sku]
        items[f"item{number}"] = _item(rng, seen, style, scene.viewpoint)
    return items


def occlusion_level(hidden_share: float) -> int:
    """1 slight or none (below 20% hidden), 2 medium, 3 heavy (above half)."""
    return 1 + int(hidden_share > 0.2) + int(hidden_share > 0.5)


def scale_level(area_share: float) -> int:
    """1 small (a box below 10% of the image), 2 modest, 3 large (above 40%)."""
    return 1 + int(area_share > 0.1) + int(area_share > 0.4)


def zoom_level(outside_share: float) -> int:
    """1 no landmark outside the image, 2 up to half of them, 3 more."""
    return 1 + int(outside_share > 0) + int(outside_share > 0.5)


def _item(rng: np.random.Generator, seen: SeenPiece, style: int, viewpoint: int) -> dict[str, Any]:
    category_id = seen.piece.garment.category_id
    size = seen.alpha.shape[0]
    hidden_share = 1 - np.count_nonzero(seen.visible > SEEN) / np.count_nonzero(seen.alpha > SEEN)
    box = _bounding_box(rng, seen.alpha)
    area = (box[2] - box[0]) * (box[3] - box[1])
    landmarks, outside_share = _landmarks(seen)
    return {
        "category_id": category_id,
        "category_name": CATEGORIES[category_id].name,
        "style": style,
        "bounding_box": box,
        "occlusion": occlusion_level(hidden_share),
        "viewpoint": viewpoint,
        "scale": scale_level(area / size**2),
        "zoom_in": zoom_level(outside_share),
        "landmarks": landmarks,
        "segmentation": _segmentation(seen.visible),
    }


def _bounding_box(rng: np.random.Generator, alpha: np.ndarray) -> list[int]:
    """Returns left, top, right, bottom in pixels, with up to a pixel of slack, as if drawn by hand."""
    size = alpha.shape[0]
    rows, columns = np.flatnonzero(alpha.max(axis=1) > SEEN), np.flatnonzero(alpha.max(axis=0) > SEEN)
    slack = rng.integers(0, 2, 4)
    low = np.maximum(np.array([columns[0], rows[0]]) - slack[:2], 0)
    high = np.minimum(np.array([columns[-1], rows[-1]]) + 1 + slack[2:], size)
    if chance(rng, OVERHANG_SHARE):
        low, high = low - rng.integers(1, 4) * (low == 0), high + rng.integers(1, 4) * (high == size)
    return [int(place) for place in (*low, *high)]


def _landmarks(seen: SeenPiece) -> tuple[list[int], float]:
    """Returns DeepFashion2's flat list x, y, v, ... and the share of the landmarks outside the image."""
    size = seen.alpha.shape[0]
    pixels = np.floor(seen.landmarks)
    inside = np.all((pixels >= 0) & (pixels < size), axis=1)
    x, y = np.where(inside[:, None], pixels, 0).astype(int).T
    # Landmarks lie on the half-transparent edge of the garment, so their neighbourhood is tested.
    hidden = cv2.dilate((seen.visible > SEEN).astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
    state = np.where(inside, np.where(hidden[y, x], HIDDEN, VISIBLE), OUTSIDE)
    return np.stack([x, y, state], axis=1).ravel().tolist(), float(1 - inside.mean())


def _segmentation(visible: np.ndarray) -> list[list[int]]:
    """Returns a polygon x, y, x, y, ... round every visible part."""
    mask = (visible > SEEN).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_TC89_L1)
    return [contour.ravel().astype(int).tolist() for contour in contours if len(contour) >= 3]
