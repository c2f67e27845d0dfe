"""Estimates and removes the colour cast of a picture (shades of grey; Finlayson and Trezzi, 2004)."""

import cv2
import numpy as np
from numpy.typing import NDArray

_GAIN_LIMIT = 1.6  # of a colour channel: a stronger tint is a garment's, not a cast
_MINKOWSKI = 6  # norm of the shades-of-grey estimate


def cast_gains(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(3,) factors that make the Minkowski mean of a picture (H, W, 3) grey and keep its brightness."""
    powers = (np.arange(256) / 255) ** _MINKOWSKI
    means = np.array([_histogram(picture[..., channel]) @ powers for channel in range(3)])
    light = np.maximum(means, 1e-12) ** (1 / _MINKOWSKI)
    gains: NDArray[np.float64] = np.clip(light.mean() / light, 1 / _GAIN_LIMIT, _GAIN_LIMIT)
    return gains


def balanced(picture: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """Removes `share` (0 to 1) of the estimated cast from a picture (H, W, 3) uint8 RGB.

    >>> balanced(np.full((2, 2, 3), (120, 100, 100), np.uint8), 1.0)[0, 0].tolist()
    [107, 107, 107]
    """
    curve = np.arange(256)[:, None] * cast_gains(picture) ** share
    table = np.clip(np.round(curve), 0, 255).astype(np.uint8)
    return cv2.LUT(picture, table[:, None, :]).astype(np.uint8, copy=False)


def _histogram(channel: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(256,) shares of the grey levels."""
    return np.bincount(channel.ravel(), minlength=256) / channel.size
