"""How a garment appears in one photo: worn or not, from which side, where in the frame, how bent."""

from dataclasses import dataclass

import cv2
import numpy as np

from skufp_pipeline.datasets.sample.outlines import Points
from skufp_pipeline.randomness import chance, choose

NO_WEAR, FRONTAL, SIDE_OR_BACK = 1, 2, 3  # DeepFashion2's viewpoints
LAID_OUT, ARMS_DOWN, ARMS_OUT = 0.85, 0.25, 0.5  # sleeve angles from the vertical, radians
MINIMUM_IN_FRAME = 0.35  # share of a garment's landmarks


@dataclass(frozen=True)
class Pose:
    """The flat picture of the garment that is shown, with DeepFashion2's viewpoint."""

    viewpoint: int
    arm_angle: float
    is_back: bool
    squeeze: float  # factor of the width; below 1 the body is turned away

    @property
    def is_worn(self) -> bool:
        return self.viewpoint != NO_WEAR


@dataclass(frozen=True)
class Projection:
    """Maps body units to pixels of the photo."""

    matrix: np.ndarray  # (3, 3) homography from body units to pixels
    bend: np.ndarray  # (S, S, 2) float32, offset in pixels from each pixel to what is seen there

    def pixels(self, points: Points) -> Points:
        """Converts body points (N, 2) to pixels (N, 2), which may lie outside the photo."""
        straight = _project(self.matrix, points)
        size = self.bend.shape[0]
        nearest = np.clip(np.round(straight), 0, size - 1).astype(int)
        return straight - self.bend[nearest[:, 1], nearest[:, 0]]

    def warp(self, canvas: np.ndarray, canvas_from_body: np.ndarray) -> np.ndarray:
        """Warps a canvas, (C, C, channels), into the photo: (S, S, channels)."""
        size = self.bend.shape[0]
        places = np.arange(size, dtype=np.float32)
        x, y = self.bend[..., 0] + places[None, :], self.bend[..., 1] + places[:, None]
        a = (canvas_from_body @ np.linalg.inv(self.matrix)).astype(np.float32)
        depth = a[2, 0] * x + a[2, 1] * y + a[2, 2]
        map_x = (a[0, 0] * x + a[0, 1] * y + a[0, 2]) / depth
        map_y = (a[1, 0] * x + a[1, 1] * y + a[1, 2]) / depth
        return cv2.remap(canvas, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def shop_pose(rng: np.random.Generator, number: int) -> Pose:
    """Returns a shop's pose; its first view is never from the side or back, as in catalogues."""
    viewpoint = choose(rng, (NO_WEAR, FRONTAL, SIDE_OR_BACK), (4, 4, 0 if number == 0 else 2.5))
    return _pose(rng, viewpoint)


def user_pose(rng: np.random.Generator) -> Pose:
    """Returns a customer's pose: mostly worn and from the front."""
    return _pose(rng, choose(rng, (NO_WEAR, FRONTAL, SIDE_OR_BACK), (1.5, 6.5, 2)))


def shop_projection(rng: np.random.Generator, pose: Pose, extent: np.ndarray, size: int) -> Projection:
    """Places the garment nearly centred, whole and upright."""
    matrix = _placement(
        extent,
        centre=size * (0.5 + rng.uniform(-0.03, 0.03, 2)),
        scale=size * rng.uniform(0.72, 0.92) / _longest(extent),
        squeeze=pose.squeeze * rng.uniform(0.94, 1.04) * choose(rng, (1, 1, 1, -1)),
        turn=rng.normal(0, 0.04),
        tilt=rng.uniform(-0.06, 0.06, 2) / size,
    )
    return Projection(matrix, _bend(rng, size, size * 0.008))


def user_projection(
    rng: np.random.Generator, pose: Pose, extent: np.ndarray, landmarks: Points, size: int, severity: float
) -> Projection:
    """Places it anywhere, at any size, tilted, mirrored, cut by the border; less so until enough shows."""
    turn_spread = 0.07 + 0.22 * severity if pose.is_worn else 0.5
    for boldness in (1.0, 0.7, 0.4, 0.0):
        zoom = np.exp(rng.normal(-0.22, 0.12 + 0.25 * severity * boldness))
        matrix = _placement(
            extent,
            centre=size * (0.5 + boldness * rng.normal(0, 0.05 + 0.12 * severity, 2)),
            scale=size * max(zoom, 0.4) / _longest(extent),
            squeeze=pose.squeeze * rng.uniform(0.88, 1.06) * choose(rng, (1, -1)),
            turn=rng.normal(0, turn_spread),
            tilt=rng.uniform(-1, 1, 2) * (0.08 + 0.4 * severity) / size,
        )
        if _in_frame(_project(matrix, landmarks), size) >= MINIMUM_IN_FRAME:
            break
    return Projection(matrix, _bend(rng, size, size * (0.012 + 0.02 * severity)))


def _pose(rng: np.random.Generator, viewpoint: int) -> Pose:
    if viewpoint == NO_WEAR:
        return Pose(viewpoint, LAID_OUT, False, 1.0)
    arms = choose(rng, (ARMS_DOWN, ARMS_OUT), (2, 1))
    if viewpoint == FRONTAL:
        return Pose(viewpoint, arms, False, rng.uniform(0.85, 1.0))
    is_back = chance(rng, 0.55)
    return Pose(viewpoint, ARMS_DOWN, is_back, rng.uniform(0.8, 1.0) if is_back else rng.uniform(0.45, 0.65))


def _longest(extent: np.ndarray) -> float:
    return float(max(extent[2] - extent[0], extent[3] - extent[1]))


def _placement(
    extent: np.ndarray, centre: np.ndarray, scale: float, squeeze: float, turn: float, tilt: np.ndarray
) -> np.ndarray:
    """Returns the homography that maps the middle of `extent` to `centre`; a negative squeeze mirrors."""
    middle = (extent[:2] + extent[2:]) / 2
    to_origin = np.array([[1, 0, -middle[0]], [0, 1, -middle[1]], [0, 0, 1.0]])
    cosine, sine = np.cos(turn) * scale, np.sin(turn) * scale
    turned = np.array([[cosine * squeeze, -sine, 0], [sine * squeeze, cosine, 0], [0, 0, 1.0]])
    tilted = np.array([[1, 0, 0], [0, 1, 0], [tilt[0], tilt[1], 1.0]])
    to_centre = np.array([[1, 0, centre[0]], [0, 1, centre[1]], [0, 0, 1.0]])
    return to_centre @ tilted @ turned @ to_origin


def _bend(rng: np.random.Generator, size: int, spread: float) -> np.ndarray:
    grid = rng.normal(0, spread, (5, 5, 2)).astype(np.float32)
    return cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)


def _project(matrix: np.ndarray, points: Points) -> Points:
    flat = points @ matrix[:, :2].T + matrix[:, 2]
    # Points behind the camera are moved far outside the frame.
    return flat[:, :2] / np.maximum(flat[:, 2:], 0.05)


def _in_frame(points: Points, size: int) -> float:
    return float(np.mean(np.all((points >= 0) & (points < size), axis=1)))
