"""Photos of bright rectangles, whose boxes are known, and settings to find them with in a second."""

import numpy as np
import polars as pl
from PIL import Image

from skufp_pipeline.detection.data import BoxedPhotos
from skufp_pipeline.detection.regions import Region
from skufp_pipeline.detection.settings import DetectorSettings, DetectorTrainingSettings
from skufp_pipeline.encoders.tables import USED_SCHEMA

SIDE = 32
TRAINING = DetectorTrainingSettings(
    side=SIDE, width=4, steps=60, batch_size=16, learning_rate=0.01, judge_every=20, ema_decay=0.8
)
SETTINGS = DetectorSettings(training=TRAINING)


def rectangles(count: int, seed: int, side: int = SIDE) -> BoxedPhotos:
    """Photos of dark noise with one bright rectangle each."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (count, side, side, 3)).astype(np.uint8)
    boxes = []
    for photo in pixels:
        x1, y1 = rng.integers(0, side // 2, 2)
        x2, y2 = x1 + rng.integers(side // 4, side // 2), y1 + rng.integers(side // 4, side // 2)
        photo[y1:y2, x1:x2] = (230, 200, 40)
        boxes.append((np.array([[x1, y1, x2, y2]]) / side).astype(np.float32))
    return BoxedPhotos(pixels, boxes, pl.DataFrame(schema=USED_SCHEMA))


def photo(seed: int = 0, size: tuple[int, int] = (60, 40)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3))
    return Image.fromarray(noise.astype(np.uint8))


class Halves:
    """A detector that finds two items in any photo: its left half and its right half."""

    trim = 0.0

    def find(self, image: Image.Image) -> list[Region]:
        width, height = image.size
        left, right = (0, 0, width // 2, height), (width // 2, 0, width, height)
        return [Region(left, "item", 0.9), Region(right, "item", 0.8)]
