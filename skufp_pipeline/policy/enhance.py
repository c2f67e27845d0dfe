"""From a photo and an action to the query that is searched for: the same in labels, report and search.

The paper takes the processed photo's embedding for the query (App. E). Here it is averaged with the photo's
own, which is there anyway, and the processed photo is mirrored: the two embeddings err in different ways.
`ActionSettings.weight` 1 and `mirror` false are the paper's form.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skufp_pipeline.policy.actions import IDENTITY, Photo, apply_action
from skufp_pipeline.policy.settings import ActionSettings


def working_copy(image: Image.Image, settings: ActionSettings) -> Photo:
    """The photo (H, W, 3) as actions and quality features see it: at most `side` pixels long."""
    longest = max(image.size)
    if longest <= settings.side:
        return np.asarray(image)
    scale = settings.side / longest
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # Reduced by whole factors first: of a photo of 12 million pixels the filter sees few.
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.5))


def processed(photo: Photo, action: str, settings: ActionSettings) -> Image.Image:
    """The picture that is encoded beside the photo, for an action other than identity."""
    changed = apply_action(action, photo, settings)
    return Image.fromarray(cv2.flip(changed, 1) if settings.mirror and action != IDENTITY else changed)


def fuse(
    plain: NDArray[np.floating], changed: NDArray[np.floating], settings: ActionSettings
) -> NDArray[np.float32]:
    """(B, D) unit rows of the queries, from those of the photos and of the processed photos."""
    mixed = (1 - settings.weight) * plain.astype(np.float64) + settings.weight * changed.astype(np.float64)
    rows: NDArray[np.float32] = (mixed / np.linalg.norm(mixed, axis=-1, keepdims=True)).astype(np.float32)
    return rows
