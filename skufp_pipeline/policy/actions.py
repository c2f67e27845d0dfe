"""The seven operations that a photo may go through before it is encoded (paper, Appendix E).

Each is a pure, deterministic function from one RGB array (H, W, 3) uint8 to another. Crops return fewer
pixels, the others the same number.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.camera.white_balance import cast_gains
from skufp_pipeline.policy.settings import ActionSettings

Photo = NDArray[np.uint8]

IDENTITY = "identity"
_GAMMA_LIMIT = 2.0  # largest exponent of an exposure correction; its inverse is the smallest
_RANGE_LIMIT = 96  # grey levels; a narrower range is stretched as if it were this wide


def apply_action(action: str, photo: Photo, settings: ActionSettings) -> Photo:
    """Returns the photo after one of `ACTIONS`.

    Raises:
        ValueError: an unknown action, or not an RGB uint8 photo.
    """
    if action not in _OPERATIONS:
        raise ValueError(f"no action {action!r}: expected one of {', '.join(ACTIONS)}")
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8 or photo.size == 0:
        raise ValueError(f"expected a photo (H, W, 3) of uint8, found {photo.shape} of {photo.dtype}")
    return _OPERATIONS[action](photo, settings)


def identity(photo: Photo, settings: ActionSettings) -> Photo:
    """Returns the same array."""
    return photo


def smart_crop(photo: Photo, settings: ActionSettings) -> Photo:
    """Crops to the `smart_crop` share of each side that holds most of `_interest`."""
    interest = _interest(photo)
    height, width = photo.shape[:2]
    rows, columns = _crop_length(height, settings.smart_crop), _crop_length(width, settings.smart_crop)
    top = _best_start(interest.sum(axis=1), rows)
    left = _best_start(interest.sum(axis=0), columns)
    return _window(photo, top, left, rows, columns)


def centre_crop(photo: Photo, settings: ActionSettings) -> Photo:
    """Crops to the middle `centre_crop` share of each side."""
    height, width = photo.shape[:2]
    rows, columns = _crop_length(height, settings.centre_crop), _crop_length(width, settings.centre_crop)
    return _window(photo, (height - rows) // 2, (width - columns) // 2, rows, columns)


def denoise(photo: Photo, settings: ActionSettings) -> Photo:
    """Bilateral filter: averages neighbours within `denoise` grey levels and keeps edges."""
    return _uint8(cv2.bilateralFilter(photo, 5, settings.denoise, 1.5))


def sharpen(photo: Photo, settings: ActionSettings) -> Photo:
    """Unsharp mask: adds `sharpen` times the difference from a slightly blurred copy."""
    blurred = cv2.GaussianBlur(photo, (0, 0), 1.0)
    return _uint8(cv2.addWeighted(photo, 1 + settings.sharpen, blurred, -settings.sharpen, 0))


def exposure(photo: Photo, settings: ActionSettings) -> Photo:
    """Gamma curve that moves the mean luminance towards `exposure`, by `exposure_share` in its exponent."""
    mean = np.clip(cv2.mean(luminance(photo))[0] / 255, 0.01, 0.99)
    exponent = np.clip(np.log(settings.exposure) / np.log(mean), 1 / _GAMMA_LIMIT, _GAMMA_LIMIT)
    exponent **= settings.exposure_share
    levels = np.arange(256) / 255
    return _uint8(cv2.LUT(photo, np.round(255 * levels**exponent).astype(np.uint8)))


def white_balance(photo: Photo, settings: ActionSettings) -> Photo:
    """Removes the cast (`camera.white_balance`), then stretches the luminance range.

    `white_balance` is the share of the estimated cast that is removed; `contrast` the share of the way to a
    range whose 1st and 99th percentiles are black and white.
    """
    gains = cast_gains(photo) ** settings.white_balance
    low, high = np.percentile(luminance(photo), (1, 99))
    high = max(high, low + _RANGE_LIMIT)
    scale = 1 + settings.contrast * (255 / (high - low) - 1)
    levels = np.arange(256)[:, None] * gains
    curve = levels * scale - settings.contrast * low * 255 / (high - low)
    table = np.clip(np.round(curve), 0, 255).astype(np.uint8)
    return _uint8(cv2.LUT(photo, table[:, None, :]))


_OPERATIONS: dict[str, Callable[[Photo, ActionSettings], Photo]] = {
    IDENTITY: identity,
    "smart_crop": smart_crop,
    "centre_crop": centre_crop,
    "denoise": denoise,
    "sharpen": sharpen,
    "exposure": exposure,
    "white_balance": white_balance,
}
ACTIONS = tuple(_OPERATIONS)  # identity first, so that it wins a tie


def luminance(photo: Photo) -> Photo:
    """(H, W) uint8: Rec. 601 luma."""
    return _uint8(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY))


def _interest(photo: Photo) -> NDArray[np.float32]:
    """(H, W) edge strength plus distance from the border's median colour, each divided by its mean."""
    smooth = cv2.GaussianBlur(photo, (0, 0), 1.0)
    grey = cv2.cvtColor(smooth, cv2.COLOR_RGB2GRAY).astype(np.float32)
    edges = cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    border = np.concatenate([smooth[0], smooth[-1], smooth[:, 0], smooth[:, -1]])
    distance = np.abs(smooth.astype(np.float32) - np.median(border, axis=0).astype(np.float32)).sum(axis=2)
    total: NDArray[np.float32] = edges / (edges.mean() + 1) + distance / (distance.mean() + 1)
    return total


def _best_start(weights: NDArray[np.float32], length: int) -> int:
    """Start of the window of `length` with the largest sum; on ties the one nearest to the middle."""
    sums = np.concatenate([[0.0], np.cumsum(weights, dtype=np.float64)])
    windows = np.round(sums[length:] - sums[:-length], 6)
    starts = np.flatnonzero(windows == windows.max())
    return int(starts[np.argmin(np.abs(2 * starts - (len(windows) - 1)))])


def _crop_length(side: int, share: float) -> int:
    return max(1, round(side * share))


def _window(photo: Photo, top: int, left: int, rows: int, columns: int) -> Photo:
    return np.ascontiguousarray(photo[top : top + rows, left : left + columns])


def _uint8(array: NDArray) -> Photo:
    """OpenCV's result with the type that mypy expects."""
    return array.astype(np.uint8, copy=False)
