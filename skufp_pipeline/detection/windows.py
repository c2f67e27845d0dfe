"""Windows: parts of a photo that the small detector sees, squeezed to a square.

A photo is kept as a canvas, a square with half as many pixels more a side than the detector sees, so that a
part of it has detail of its own. Boxes and windows are x1, y1, x2, y2 in shares of what they are in.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

WHOLE = np.array([0.0, 0.0, 1.0, 1.0])
_CONTEXT = 1.5  # width and height of a window around a box, in those of the box


def canvas_side(side: int) -> int:
    """Pixels of the canvas for a detector that sees `side` pixels.

    >>> canvas_side(64)
    96
    """
    return side + side // 2


def around(box: NDArray) -> NDArray[np.float64]:
    """Returns the window that shows a box and what is around it.

    >>> around(np.array([0.25, 0.25, 0.75, 0.5])).tolist()
    [0.125, 0.1875, 0.875, 0.5625]
    """
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) * _CONTEXT / 2
    return np.concatenate([centre - half, centre + half])


def seen_in(boxes: NDArray, window: NDArray) -> NDArray[np.float64]:
    """Returns boxes (..., 4) of a photo as a window shows them; they may reach out of it."""
    return (boxes - np.tile(window[:2], 2)) / np.tile(window[2:] - window[:2], 2)


def put_back(boxes: NDArray, window: NDArray) -> NDArray[np.float64]:
    """Returns boxes (..., 4) that a window shows as boxes of the photo.

    >>> window = np.array([0.5, 0.0, 1.0, 0.5])
    >>> put_back(seen_in(np.array([0.5, 0.25, 0.75, 0.5]), window), window).tolist()
    [0.5, 0.25, 0.75, 0.5]
    """
    return boxes * np.tile(window[2:] - window[:2], 2) + np.tile(window[:2], 2)


def view(canvas: NDArray[np.uint8], window: NDArray, side: int) -> NDArray[np.uint8]:
    """Returns what a window shows of a canvas, (side, side, 3); the border is repeated beyond the photo."""
    scale = side / ((window[2:] - window[:2]) * len(canvas))
    # Pixel k lies at k + 0.5.
    shift = (0.5 - window[:2] * len(canvas)) * scale - 0.5
    matrix = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
    shown = cv2.warpAffine(canvas, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
    return shown.astype(np.uint8, copy=False)


def mirrored(boxes: NDArray) -> NDArray[np.float64]:
    """Returns boxes (..., 4) in the mirrored photo."""
    return np.stack([1 - boxes[..., 2], boxes[..., 1], 1 - boxes[..., 0], boxes[..., 3]], axis=-1)
