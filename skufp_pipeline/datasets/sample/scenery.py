"""Surroundings of a garment: studio or room behind it, the body that wears it, objects in front."""

import cv2
import numpy as np

from skufp_pipeline.datasets.sample.outlines import Points
from skufp_pipeline.datasets.sample.views import Pose, Projection
from skufp_pipeline.randomness import chance, choose

SUBPIXEL_BITS = 4
SKINS = ((244, 208, 177), (230, 180, 145), (198, 144, 106), (150, 102, 72), (98, 66, 48))
HAIRS = ((30, 24, 22), (70, 48, 32), (120, 84, 48), (200, 168, 110), (110, 108, 106))
MANNEQUINS = ((225, 220, 214), (196, 190, 184), (240, 236, 230), (60, 60, 62))


def studio(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draws a light, nearly even background: (S, S, 3) uint8."""
    shade = rng.uniform(205, 252) + rng.uniform(-7, 7, 3)
    falloff = np.linspace(0, rng.uniform(-22, 8), size)[:, None, None]
    return np.clip(np.broadcast_to(shade + falloff, (size, size, 3)), 0, 255).astype(np.uint8)


def room(rng: np.random.Generator, size: int, clutter: float) -> np.ndarray:
    """Draws wall, floor and objects, more of them with higher `clutter`: (S, S, 3) uint8."""
    blotches = rng.uniform(-25, 25, (4, 4, 3)).astype(np.float32) + _any_colour(rng)
    image = np.clip(cv2.resize(blotches, (size, size), interpolation=cv2.INTER_CUBIC), 0, 255).astype(
        np.uint8
    )
    if chance(rng, 0.6):
        horizon = int(size * rng.uniform(0.55, 0.95))
        cv2.rectangle(image, (0, horizon), (size, size), _any_colour(rng), -1)
    for _ in range(int(rng.integers(3, 7) + 10 * clutter)):
        choose(rng, _OBJECTS)(rng, image)
    return image


def draw_body(
    rng: np.random.Generator,
    image: np.ndarray,
    pose: Pose,
    projection: Projection,
    is_shop: bool,
    has_shirt: bool,
) -> None:
    """Draws a mannequin or a person, on which the garment is then drawn."""
    if is_shop and chance(rng, 0.6):
        skin = shirt = trousers = np.array(choose(rng, MANNEQUINS))
        hair = None
    else:
        skin, hair = np.array(choose(rng, SKINS)), np.array(choose(rng, HAIRS))
        shirt, trousers = _dull_colour(rng), _dull_colour(rng)
    for part in (_leg(1), _leg(-1)):
        _fill(image, projection.pixels(part), trousers)
    _fill(image, projection.pixels(_NECK), skin * 0.92)
    _fill(image, projection.pixels(_TRUNK), shirt if has_shirt else skin)
    for sign in (1, -1):
        _fill(image, projection.pixels(_arm(pose.arm_angle) * [sign, 1]), skin)
    _draw_head(image, projection, skin, hair, pose.is_back)


def cover(rng: np.random.Generator, image: np.ndarray, box: np.ndarray, severity: float) -> np.ndarray:
    """Draws objects that hide parts of the garment; returns (S, S) uint8, 255 where something was drawn.

    Args:
        box: left, top, right, bottom of the garment in pixels.
        severity: 0 hides hardly anything, 1 much.
    """
    hidden = np.zeros(image.shape[:2], np.uint8)
    for _ in range(int(rng.binomial(3, min(0.9, 0.12 + 0.4 * severity)))):
        choose(rng, _COVERS)(rng, image, hidden, box)
    return hidden


def cast_shadow(rng: np.random.Generator, image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Draws a soft shadow of the garment (alpha: (S, S) uint8) on the background."""
    shift = np.array([[1, 0, rng.uniform(-3, 3)], [0, 1, rng.uniform(0.5, 4)]])
    soft = cv2.GaussianBlur(cv2.warpAffine(alpha, shift, alpha.shape[::-1]), (0, 0), rng.uniform(1.5, 4))
    return (image * (1 - soft[..., None] * np.float32(rng.uniform(0.05, 0.3) / 255))).astype(np.uint8)


_NECK = np.array([[-0.1, -0.3], [0.1, -0.3], [0.12, 0.0], [0.24, 0.06], [-0.24, 0.06], [-0.12, 0.0]])
_TRUNK = np.array(
    [[-0.14, 0.02], [0.14, 0.02], [0.4, 0.1], [0.36, 0.45], [0.28, 0.85], [0.36, 1.2], [0.34, 1.42],
     [-0.34, 1.42], [-0.36, 1.2], [-0.28, 0.85], [-0.36, 0.45], [-0.4, 0.1]]
)  # fmt: skip


def _leg(sign: int) -> Points:
    right = np.array(
        [[0.0, 1.36], [0.35, 1.25], [0.33, 1.7], [0.27, 2.1], [0.24, 2.85],
         [0.3, 2.95], [0.1, 2.95], [0.12, 2.85], [0.1, 2.1]]
    )  # fmt: skip
    return right * [sign, 1]


def _arm(angle: float) -> Points:
    along, across = np.array([np.sin(angle), np.cos(angle)]), np.array([-np.cos(angle), np.sin(angle)])
    shoulder = np.array([0.42, 0.12])
    elbow, hand = shoulder + 0.65 * along, shoulder + 1.32 * along
    return np.stack(
        [shoulder, elbow, hand, hand + 0.1 * across, elbow + 0.12 * across, shoulder + 0.16 * across]
    )


def _draw_head(
    image: np.ndarray, projection: Projection, skin: np.ndarray, hair: np.ndarray | None, is_back: bool
) -> None:
    turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    if hair is not None:
        _fill(image, projection.pixels(circle * [0.25, 0.3] + np.array([0, -0.47])), hair)
    if not (is_back and hair is not None):
        _fill(image, projection.pixels(circle * [0.19, 0.25] + np.array([0, -0.41])), skin)


def _fill(image: np.ndarray, points: Points, colour: np.ndarray | tuple[float, ...]) -> None:
    # cv2's fixed-point coordinates overflow far outside the frame.
    near = np.clip(points, -4000, 4000)
    cv2.fillPoly(
        image,
        [np.round(near * 2**SUBPIXEL_BITS).astype(np.int32)],
        tuple(float(c) for c in colour),
        cv2.LINE_AA,
        SUBPIXEL_BITS,
    )


def _any_colour(rng: np.random.Generator) -> tuple[float, ...]:
    grey = rng.uniform(30, 235)
    return tuple(np.clip(grey + rng.normal(0, 34, 3), 0, 255).tolist())


def _dull_colour(rng: np.random.Generator) -> np.ndarray:
    return np.clip(rng.uniform(25, 200) + rng.normal(0, 10, 3), 0, 255)


def _place(rng: np.random.Generator, size: int) -> tuple[int, int]:
    x, y = rng.uniform(-0.1, 1.1, 2) * size
    return int(x), int(y)


def _rectangle(rng: np.random.Generator, image: np.ndarray) -> None:
    size = image.shape[0]
    x, y = _place(rng, size)
    width, height = rng.uniform(0.08, 0.45, 2) * size
    cv2.rectangle(image, (x, y), (int(x + width), int(y + height)), _any_colour(rng), -1)


def _ellipse(rng: np.random.Generator, image: np.ndarray) -> None:
    width, height = rng.uniform(0.04, 0.2, 2) * image.shape[0]
    axes, angle = (int(width) + 1, int(height) + 1), rng.uniform(0, 180)
    cv2.ellipse(image, _place(rng, image.shape[0]), axes, angle, 0, 360, _any_colour(rng), -1, cv2.LINE_AA)


def _shelf(rng: np.random.Generator, image: np.ndarray) -> None:
    """Draws a row of upright boards, books or bars, which looks like striped cloth."""
    size = image.shape[0]
    x, y = _place(rng, size)
    width, height = int(rng.integers(2, 7)), int(rng.uniform(0.1, 0.4) * size)
    colours = [_any_colour(rng) for _ in range(3)]
    for k in range(int(rng.integers(4, 10))):
        left = x + k * width
        cv2.rectangle(image, (left, y), (left + width - 1, y + height), colours[k % 3], -1)


def _line(rng: np.random.Generator, image: np.ndarray) -> None:
    size = image.shape[0]
    thickness = int(rng.integers(1, max(2, size // 16)))
    cv2.line(image, _place(rng, size), _place(rng, size), _any_colour(rng), thickness, cv2.LINE_AA)


def _heap(rng: np.random.Generator, image: np.ndarray) -> None:
    size = image.shape[0]
    corners = np.array(_place(rng, size)) + rng.uniform(-0.25, 0.25, (5, 2)) * size
    cv2.fillPoly(image, [cv2.convexHull(corners.astype(np.int32))], _any_colour(rng), cv2.LINE_AA)


_OBJECTS = (_rectangle, _ellipse, _shelf, _line, _heap)


def _spot(rng: np.random.Generator, box: np.ndarray) -> np.ndarray:
    """Returns a random point of the garment's box."""
    return box[:2] + rng.uniform(0.1, 0.9, 2) * (box[2:] - box[:2])


def _arm_across(rng: np.random.Generator, image: np.ndarray, hidden: np.ndarray, box: np.ndarray) -> None:
    width = max(3, int(0.13 * np.hypot(*(box[2:] - box[:2])) * rng.uniform(0.6, 1.1)))
    start = (int(choose(rng, (box[0] - 5, box[2] + 5))), int(rng.uniform(box[1], box[3])))
    elbow, hand = (tuple(int(c) for c in _spot(rng, box)) for _ in range(2))
    for canvas, colour in ((image, choose(rng, SKINS)), (hidden, 255.0)):
        cv2.polylines(canvas, [np.array([start, elbow, hand])], False, colour, width, cv2.LINE_AA)


def _phone(rng: np.random.Generator, image: np.ndarray, hidden: np.ndarray, box: np.ndarray) -> None:
    """Draws a hand that holds a phone, as in a mirror selfie."""
    height = float(np.hypot(*(box[2:] - box[:2]))) * rng.uniform(0.14, 0.24)
    centre = _spot(rng, box)
    corners = np.array([[-0.26, -0.5], [0.26, -0.5], [0.26, 0.5], [-0.26, 0.5]]) * height
    turn = rng.normal(0, 0.3)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    skin, dark = choose(rng, SKINS), rng.uniform(8, 60, 3).tolist()
    palm = (int(centre[0]), int(centre[1] + 0.35 * height))
    for canvas, hand, phone in ((image, skin, dark), (hidden, (255.0,), (255.0,))):
        cv2.circle(canvas, palm, int(0.4 * height) + 1, hand, -1, cv2.LINE_AA)
        _fill(canvas, centre + corners @ rotation.T, phone)


def _bag(rng: np.random.Generator, image: np.ndarray, hidden: np.ndarray, box: np.ndarray) -> None:
    """Draws a bag at the hip on a strap across the chest."""
    width, height = box[2:] - box[:2]
    side = choose(rng, (-1, 1))
    middle = np.array(
        [(box[0] + box[2]) / 2 + side * width * rng.uniform(0.15, 0.45), box[1] + height * 0.75]
    )
    corners = (
        np.array([[-0.5, -0.3], [0.5, -0.3], [0.58, 0.35], [-0.58, 0.35]]) * width * rng.uniform(0.3, 0.5)
    )
    start = (int((box[0] + box[2]) / 2 - side * width * 0.2), int(box[1] - 2))
    end, strap, colour = (int(middle[0]), int(middle[1])), max(2, int(width * 0.05)), _any_colour(rng)
    for canvas, paint in ((image, colour), (hidden, (255.0,))):
        cv2.line(canvas, start, end, paint, strap, cv2.LINE_AA)
        _fill(canvas, middle + corners, paint)


def _hair(rng: np.random.Generator, image: np.ndarray, hidden: np.ndarray, box: np.ndarray) -> None:
    """Draws long hair over a shoulder."""
    width, height = box[2:] - box[:2]
    x = (box[0] + box[2]) / 2 + choose(rng, (-1, 1)) * width * rng.uniform(0.08, 0.25)
    lock = np.array([[-0.1, -0.1], [0.1, -0.1], [0.13, 0.25], [0.0, 0.45], [-0.12, 0.25]]) * [width, height]
    for canvas, paint in ((image, choose(rng, HAIRS)), (hidden, (255.0,))):
        _fill(canvas, lock + np.array([x, box[1]]), paint)


def _large_object(rng: np.random.Generator, image: np.ndarray, hidden: np.ndarray, box: np.ndarray) -> None:
    """Draws a large object (chair, table, another person's shoulder) over a corner of the garment's box."""
    reach = float(np.hypot(*(box[2:] - box[:2])))
    outside = choose(rng, (box[[0, 1]], box[[2, 1]], box[[0, 3]], box[[2, 3]]))
    corners = outside + rng.uniform(-0.42, 0.42, (6, 2)) * reach
    hull = cv2.convexHull(corners.astype(np.float32))[:, 0]
    for canvas, paint in ((image, _any_colour(rng)), (hidden, (255.0,))):
        _fill(canvas, hull, paint)


_COVERS = (_arm_across, _phone, _bag, _hair, _large_object)
