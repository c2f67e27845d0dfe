import cv2
import numpy as np
import pytest

from skufp_pipeline.datasets.sample.views import (
    MINIMUM_IN_FRAME,
    Projection,
    shop_pose,
    shop_projection,
    user_pose,
    user_projection,
)
from skufp_pipeline.randomness import generator

EXTENT = np.array([-0.5, 0.0, 0.5, 1.2])
CANVAS_FROM_BODY = np.array([[100.0, 0, 60], [0, 100.0, 0], [0, 0, 1]])


def seen_centre(projection: Projection, body_point: np.ndarray) -> np.ndarray:
    """Where a small disc at a body point turns up in the photo."""
    canvas = np.zeros((120, 120), np.uint8)
    x, y = body_point * 100 + [60, 0]
    cv2.circle(canvas, (round(x), round(y)), 6, 255, -1)
    rows, columns = np.nonzero(projection.warp(canvas, CANVAS_FROM_BODY) > 127)
    return np.array([columns.mean(), rows.mean()])


@pytest.mark.parametrize("number", range(8))
def test_points_are_projected_to_where_the_picture_is_warped(number: int) -> None:
    rng = generator(1, "views", number)
    point = np.array([0.1, 0.5])
    if number % 2:
        projection = shop_projection(rng, shop_pose(rng, number), EXTENT, 96)
    else:
        projection = user_projection(rng, user_pose(rng), EXTENT, point[None], 96, 0.5)
    np.testing.assert_allclose(projection.pixels(point[None])[0], seen_centre(projection, point), atol=1.5)


def test_however_severe_enough_of_the_garment_is_in_the_frame() -> None:
    landmarks = np.array([[x, y] for x in (-0.5, 0.0, 0.5) for y in (0.0, 0.6, 1.2)])
    for number in range(300):
        rng = generator(1, "severe", number)
        pixels = user_projection(rng, user_pose(rng), EXTENT, landmarks, 96, 1.5).pixels(landmarks)
        # The bend, applied afterwards, may carry a landmark or two over the border.
        assert np.mean(np.all((pixels >= 0) & (pixels < 96), axis=1)) > MINIMUM_IN_FRAME - 0.25


def test_users_mirror_half_their_photos() -> None:
    points = np.array([[-0.1, 0.6], [0.1, 0.6]])
    mirrored = 0
    for number in range(200):
        rng = generator(1, "mirror", number)
        left, right = user_projection(rng, user_pose(rng), EXTENT, points, 96, 0.2).pixels(points)
        mirrored += left[0] > right[0]
    assert 60 < mirrored < 140
