"""Photos that the tests of the policy share."""

import cv2
import numpy as np
from numpy.typing import NDArray

Photo = NDArray[np.uint8]


def garment(seed: int = 0, height: int = 96, width: int = 80) -> Photo:
    """A coloured, patterned rectangle on a lighter, slightly textured ground: sharp, well lit, no cast."""
    rng = np.random.default_rng(seed)
    photo = np.full((height, width, 3), 170, np.float64) + rng.normal(0, 1, (height, width, 1))
    colours = rng.integers(60, 200, (6, 4, 3)).astype(np.uint8)
    size = (width // 2, height // 2)
    patch = cv2.resize(colours, size, interpolation=cv2.INTER_NEAREST)
    top, left = height // 4, width // 4
    photo[top : top + size[1], left : left + size[0]] = patch
    return photo.clip(0, 255).astype(np.uint8)


def off_centre(height: int = 60, width: int = 60, top: int = 36, left: int = 4) -> Photo:
    """A red square of 16 pixels on plain grey."""
    photo = np.full((height, width, 3), 120, np.uint8)
    photo[top : top + 16, left : left + 16] = (220, 30, 30)
    return photo
