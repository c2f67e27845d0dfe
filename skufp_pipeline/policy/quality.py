"""Handcrafted image quality features of the policy (paper, Appendix E).

| feature | unit |
|---|---|
| `sharpness` | log10 of 1 plus the Laplacian's variance, in squared grey levels |
| `brightness`, `contrast` | mean and standard deviation of the luminance, 0 to 1 |
| `saturation` | mean saturation (HSV), 0 to 1 |
| `noise` | estimated standard deviation of white noise, in grey levels |
| `cast_red_green`, `cast_yellow_blue` | mean a* and b* (CIE Lab) of the brighter half |
| `clipped_dark`, `clipped_bright` | share of pixels at most 5, at least 250 |
| `aspect` | natural logarithm of width over height |
| `size` | log2 of the sides' geometric mean in pixels |
| `border_edges` | natural logarithm of edge strength in the outer tenth over that of the whole |
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.policy.actions import Photo, luminance

FEATURES = (
    "sharpness", "brightness", "contrast", "saturation", "noise", "cast_red_green", "cast_yellow_blue",
    "clipped_dark", "clipped_bright", "aspect", "size", "border_edges",
)  # fmt: skip
_DARK, _BRIGHT = 5, 250
_BORDER = 0.1
# Immerkaer (1996): does not respond to straight edges, so that mostly noise is left.
_NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


def quality_features(photo: Photo, width: int, height: int) -> NDArray[np.float32]:
    """(F,) float32 `FEATURES` of a working copy (H, W, 3) RGB; `width` and `height` are the original's."""
    grey = luminance(photo)
    values = grey.astype(np.float32)
    mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(grey))
    shares = np.bincount(grey.ravel(), minlength=256) / grey.size
    cast = _cast(photo, grey)
    return np.array(
        [
            np.log10(cv2.Laplacian(values, cv2.CV_32F).var() + 1),
            mean / 255,
            deviation / 255,
            cv2.mean(cv2.cvtColor(photo, cv2.COLOR_RGB2HSV))[1] / 255,
            noise_level(values),
            *cast,
            shares[: _DARK + 1].sum(),
            shares[_BRIGHT:].sum(),
            np.log(width / height),
            np.log2(width * height) / 2,
            _border_edges(values),
        ],
        dtype=np.float32,
    )


def noise_level(grey: NDArray[np.float32]) -> float:
    """Standard deviation of white noise in grey levels, from the median response of Immerkaer's kernel."""
    response = np.abs(cv2.filter2D(grey, cv2.CV_32F, _NOISE_KERNEL))
    return float(np.median(response) / (6 * 0.6745))  # the kernel's norm, the median of |N(0, 1)|


def _cast(photo: Photo, grey: Photo) -> tuple[float, float]:
    lab = cv2.cvtColor(photo, cv2.COLOR_RGB2LAB)
    bright = (grey >= np.median(grey)).astype(np.uint8)
    _, a, b, _ = cv2.mean(lab, bright)
    return a - 128, b - 128


def _border_edges(grey: NDArray[np.float32]) -> float:
    """0 where edges are evenly spread, positive where the border has more of them than the whole."""
    across, down = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    strength = np.sqrt(across**2 + down**2)  # the last bits of cv2.magnitude depend on the array's address
    rows, columns = (max(1, round(side * _BORDER)) for side in grey.shape)
    inner = strength[rows:-rows, columns:-columns]
    outer = (strength.sum(dtype=np.float64) - inner.sum(dtype=np.float64)) / max(
        strength.size - inner.size, 1
    )
    return float(np.log((outer + 1) / (strength.mean(dtype=np.float64) + 1)))
