"""Turns a photo and an action into a query embedding, the same way for labels, report and search.

The paper's query is the processed photo's embedding (App. E). Here it is averaged with the photo's own, which
is computed anyway, and the processed photo is mirrored, so that the two embeddings err differently.
`ActionSettings.weight` 1 and `mirror` false give the paper's form.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skufp_pipeline.policy.actions import IDENTITY, Photo, apply_action
from skufp_pipeline.policy.settings import ActionSettings


def working_copy(image: Image.Image, settings: ActionSettings) -> Photo:
    """The photo (H, W, 3), scaled down to at most `side` pixels, for actions and quality features."""
    longest = max(image.size)
    if longest <= settings.side:
        return np.asarray(image)
    scale = settings.side / longest
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # Shrunk by whole factors first, so that the filter sees few of a large photo's pixels.
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.5))


def processed(photo: Photo, action: str, settings: ActionSettings) -> Image.Image:
    """The photo after the action; with `mirror`, any action but identity also mirrors it."""
    changed = apply_action(action, photo, settings)
    return Image.fromarray(cv2.flip(changed, 1) if settings.mirror and action != IDENTITY else changed)


def fuse(
    plain: NDArray[np.floating], changed: NDArray[np.floating], settings: ActionSettings
) -> NDArray[np.float32]:
    """(B, D) unit rows of the queries: the weighted mean of plain and processed embeddings."""
    mixed = (1 - settings.weight) * plain.astype(np.float64) + settings.weight * changed.astype(np.float64)
    rows: NDArray[np.float32] = (mixed / np.linalg.norm(mixed, axis=-1, keepdims=True)).astype(np.float32)
    return rows
