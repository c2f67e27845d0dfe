"""Photos and labels that the tests of the policy share."""

from collections.abc import Callable

import cv2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.policy.actions import ACTIONS
from skufp_pipeline.policy.labels import LABEL_SCHEMA
from skufp_pipeline.policy.quality import FEATURES

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


def labels(
    gains: Callable[[NDArray[np.float32]], NDArray[np.float64]], counts: tuple[int, int] = (240, 120)
) -> pl.DataFrame:
    """A label table of `train` and `development` queries whose margins follow from their first feature.

    Args:
        gains: of features (N, F), the margins (N, A - 1) that actions add to identity's, which is 0.
    """
    rng = np.random.default_rng(0)
    count = sum(counts)
    features = rng.standard_normal((count, len(FEATURES))).astype(np.float32)
    margins = np.zeros((count, len(ACTIONS)))
    margins[:, 1:] = gains(features)
    embeddings = rng.standard_normal((count, 4)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return pl.DataFrame(
        {
            "query_id": [f"train/q{number}" for number in range(count)],
            "sku_id": [f"s{number // 2}" for number in range(count)],
            "role": ["train"] * counts[0] + ["development"] * counts[1],
            "winner": [ACTIONS[best] for best in margins.argmax(axis=1)],
            "margins": pl.Series(margins.astype(np.float32), dtype=LABEL_SCHEMA["margins"]),
            "ranks": pl.Series(np.where(margins > 0, 1, 2), dtype=LABEL_SCHEMA["ranks"]),
            "features": pl.Series(features, dtype=LABEL_SCHEMA["features"]),
        }
    ).with_columns(embedding_column(embeddings))


def sharpen_helps(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sharpening helps where the first feature is positive, and harms where it is not; the rest harms."""
    margins = np.full((len(features), len(ACTIONS) - 1), -0.05)
    margins[:, ACTIONS.index("sharpen") - 1] = np.where(features[:, 0] > 0, 0.1, -0.1)
    return margins


def sharpen_helps_all(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sharpening helps every photo, by chance more or less; the rest harms."""
    margins = np.full((len(features), len(ACTIONS) - 1), -0.05)
    drawn = np.random.default_rng(2).standard_normal(len(features))
    margins[:, ACTIONS.index("sharpen") - 1] = 0.05 + 0.03 * drawn
    return margins


def chance_decides(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Nothing that the policy sees tells what an action does, and on the whole each harms."""
    drawn = np.random.default_rng(1).standard_normal((len(features), len(ACTIONS) - 1))
    return 0.05 * drawn - 0.03
