"""Synthetic phone photos of a product, rendered from its catalogue picture alone.

A photo shows the product, or a part of it, in perspective, small or large, before another picture: sometimes
in several pieces, partly covered, or under a lamp. Then `effects.phone_photo` takes it: light, blur, noise,
few pixels; and it is stored as a JPEG. Where the product lies is known, so that a detector can learn from it.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.camera.effects import encode_jpeg, phone_photo, studio_photo
from skufp_pipeline.camera.settings import CameraSettings
from skufp_pipeline.photos import open_photo
from skufp_pipeline.randomness import chance

Pixels = NDArray[np.uint8]

_PLAIN = 14.0  # grey levels: largest spread of a plain background along the border
_ASPECTS = (0.75, 1.0, 1.34)  # width by height of phones' photos
_UNIT = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)


@dataclass(frozen=True)
class CataloguePicture:
    """A catalogue picture squeezed to a square, with the shape that it had.

    Attributes:
        pixels: (C, C, 3) RGB.
        aspect: width by height before it was squeezed.
    """

    pixels: Pixels
    aspect: float = 1.0

    @cached_property
    def mask(self) -> Pixels | None:
        """(C, C) coverage by the product, 0 to 255; None where the background is not plain."""
        return product_mask(self.pixels)


@dataclass(frozen=True)
class SyntheticPhoto:
    """A synthetic photo.

    Attributes:
        jpeg: the file.
        box: x1, y1, x2, y2 in pixels of what is in the photo of the product (the first piece).
    """

    jpeg: bytes
    box: tuple[int, int, int, int]

    @cached_property
    def pixels(self) -> Pixels:
        """(side, side, 3) RGB: a photo of any aspect ratio, squeezed to a square."""
        return np.array(open_photo(self.jpeg))


def product_mask(pixels: Pixels) -> Pixels | None:
    """Finds the product on a plain background, from its border inwards; None if the border is not plain.

    Args:
        pixels: (C, C, 3) RGB.
    """
    side = len(pixels)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).astype(np.float32)
    middle = np.median(border, axis=0)
    if np.mean(np.abs(border - middle).max(axis=1) > _PLAIN) > 0.25:
        return None
    alike = (np.abs(pixels.astype(np.int16) - middle.astype(np.int16)).max(axis=2) <= _PLAIN).astype(np.uint8)
    # A frame of background joins the parts of it that the product separates.
    framed = cv2.copyMakeBorder(alike, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    cv2.floodFill(framed, None, (0, 0), 2)
    mask = np.where(framed[1:-1, 1:-1] == 2, 0, 255).astype(np.uint8)
    covered = mask.mean() / 255
    if not 0.03 < covered < 0.97:
        return None
    return cv2.GaussianBlur(cv2.erode(mask, np.ones((3, 3), np.uint8)), (0, 0), side / 256)  # type: ignore[return-value]


def light_crop(rng: np.random.Generator, picture: CataloguePicture, side: int) -> Pixels:
    """Returns the picture a little cropped, turned, lighter or darker: (side, side, 3)."""
    share = rng.uniform(0.85, 1.0, 2).astype(np.float32)
    corner = rng.uniform(0, 1, 2).astype(np.float32) * (1 - share)
    source = (corner + _UNIT * share) * len(picture.pixels)
    angle = np.deg2rad(rng.normal(0, 3))
    turned = (_UNIT - 0.5) @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) + 0.5
    matrix = cv2.getPerspectiveTransform(source, (turned * side).astype(np.float32))
    image = cv2.warpPerspective(picture.pixels, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
    return studio_photo(rng, image)


def synthetic_photo(
    rng: np.random.Generator,
    picture: CataloguePicture,
    background: Pixels | None,
    side: int,
    settings: CameraSettings,
) -> SyntheticPhoto:
    """Renders one photo of the product.

    Args:
        background: a picture of any size, parts of which are behind and before the product; None draws one.
        side: of the photo in pixels.
    """
    scene = _backdrop(rng, background, side)
    box = None
    for quad in _places(rng, picture.aspect, settings)[::-1]:  # the first piece is in front
        box = _paste(rng, scene, picture, quad, settings)
    assert box is not None
    if chance(rng, settings.occluder):
        _cover(rng, scene, background, box)
    if chance(rng, settings.glare):
        _reflect(rng, scene)
    severity = float(np.clip(rng.normal(settings.severity, 0.25), 0, 1))
    taken, _ = phone_photo(rng, scene, severity)
    quality = int(rng.integers(settings.jpeg[0], settings.jpeg[1] + 1))
    return SyntheticPhoto(encode_jpeg(taken, quality), box)


def procedural_background(rng: np.random.Generator, side: int) -> Pixels:
    """Returns a wall, a floor or a cloth: colours that change slowly, often with stripes; (side, side, 3)."""
    cells = int(rng.integers(2, 9))
    base, spread = rng.uniform(20, 235, 3), rng.uniform(5, 60)
    colours = base + rng.normal(0, spread, (cells, cells, 1)) + rng.normal(0, spread / 3, (cells, cells, 3))
    field = cv2.resize(colours.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    if chance(rng, 0.5):
        across = np.arange(side, dtype=np.float32)
        angle, period = rng.uniform(0, np.pi), side / rng.uniform(2, 24)
        phase = np.cos(angle) * across[None, :] + np.sin(angle) * across[:, None]
        stripes = np.sign(np.sin(2 * np.pi * phase / period + rng.uniform(0, 2 * np.pi)))
        field += (stripes * rng.uniform(3, 40))[..., None].astype(np.float32)
    return np.clip(field, 0, 255).astype(np.uint8)


def _backdrop(rng: np.random.Generator, picture: Pixels | None, side: int) -> Pixels:
    """Returns a part of a picture, sometimes turned over or out of focus: (side, side, 3)."""
    if picture is None:
        return procedural_background(rng, side)
    height, width = picture.shape[:2]
    share = rng.uniform(0.2, 1.0)
    rows, columns = max(1, round(height * share)), max(1, round(width * share))
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    scene = cv2.resize(picture[top : top + rows, left : left + columns], (side, side))
    if chance(rng, 0.5):
        scene = scene[:, ::-1]
    if chance(rng, 0.4):
        scene = cv2.GaussianBlur(scene, (0, 0), side * rng.uniform(0.005, 0.03))
    return np.ascontiguousarray(scene)


def _places(rng: np.random.Generator, aspect: float, settings: CameraSettings) -> list[NDArray[np.float32]]:
    """Returns the corners (4, 2) of each piece, in shares of the photo's side."""
    photo_aspect = _ASPECTS[int(rng.integers(len(_ASPECTS)))]
    low, high = np.log(settings.size)
    size = float(np.exp(rng.uniform(low, high)))
    shape = np.array([min(1.0, aspect), min(1.0, 1 / aspect)])
    tilt = rng.uniform(0, settings.tilt), rng.uniform(0, 2 * np.pi)
    turn = rng.normal(0, np.deg2rad(settings.turn))
    for _ in range(8):
        centre = 0.5 + rng.normal(0, 0.16, 2)
        first = _quad(shape * size, turn, tilt, centre, photo_aspect)
        if _share_inside(first) >= settings.visible:
            break
    else:
        first = _quad(shape * size, turn, tilt, np.array([0.5, 0.5]), photo_aspect)
    if not chance(rng, settings.pieces):
        return [first]
    pieces = [first]
    for _ in range(int(rng.integers(1, 6))):
        offset = rng.normal(0, 0.6 * size, 2)
        more = turn + rng.normal(0, 0.5)
        pieces.append(_quad(shape * size * rng.uniform(0.8, 1.1), more, tilt, centre + offset, photo_aspect))
    return pieces


def _quad(
    size: NDArray[np.float64],
    turn: float,
    tilt: tuple[float, float],
    centre: NDArray[np.float64],
    photo_aspect: float,
) -> NDArray[np.float32]:
    """Returns the corners of a rectangle that is turned in its plane and seen from aside."""
    flat = (_UNIT - 0.5) * size
    cos, sin = np.cos(turn), np.sin(turn)
    flat = flat @ np.array([[cos, sin], [-sin, cos]])
    amount, direction = tilt
    axis = np.array([np.cos(direction), np.sin(direction)])
    along = flat @ axis
    # Foreshortened along the axis; what is nearer is larger.
    seen = flat - np.outer(along * amount, axis)
    seen = seen / (1 + amount * along / max(float(np.abs(size).max()), 1e-6))[:, None]
    stretch = np.array([1 / photo_aspect, 1.0]) if photo_aspect > 1 else np.array([1.0, photo_aspect])
    return (seen * stretch + centre).astype(np.float32)


def _share_inside(quad: NDArray[np.float32]) -> float:
    """Returns which share of a quadrilateral's area is inside the unit square."""
    area, _ = cv2.intersectConvexConvex(quad, _UNIT)
    return float(area) / max(float(cv2.contourArea(quad)), 1e-9)


def _paste(
    rng: np.random.Generator,
    scene: Pixels,
    picture: CataloguePicture,
    quad: NDArray[np.float32],
    settings: CameraSettings,
) -> tuple[int, int, int, int]:
    """Draws the product into the scene; returns the box of what is visible."""
    side, source = len(scene), len(picture.pixels)
    corners = quad * side
    left, top = np.floor(corners.min(axis=0)).clip(0, side).astype(int).tolist()
    right, bottom = np.ceil(corners.max(axis=0)).clip(0, side).astype(int).tolist()
    width, height = right - left, bottom - top
    if width < 1 or height < 1:
        return (0, 0, side, side)
    corners = (corners - (left, top)).astype(np.float32)
    matrix = cv2.getPerspectiveTransform(_UNIT * source, corners)
    mask = picture.mask if chance(rng, settings.cut_out) else None
    if mask is None:
        alpha = np.zeros((height, width), np.uint8)
        cv2.fillConvexPoly(alpha, np.round(corners * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
    else:
        alpha = cv2.warpPerspective(mask, matrix, (width, height))
    drawn = cv2.warpPerspective(picture.pixels, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    region, weight = scene[top:bottom, left:right], alpha[..., None].astype(np.uint16)
    region[:] = (drawn * weight + region * (255 - weight) + 127) // 255
    x, y, wide, high = cv2.boundingRect((alpha > 127).astype(np.uint8))
    return (left + x, top + y, left + x + wide, top + y + high) if wide and high else (0, 0, side, side)


def _cover(
    rng: np.random.Generator, scene: Pixels, picture: Pixels | None, box: tuple[int, int, int, int]
) -> None:
    """Puts a part of another picture, or one colour (a finger, a stem, a price tag), before the product."""
    side = len(scene)
    x1, y1, x2, y2 = box
    width, height = (max(2, round(length * rng.uniform(0.15, 0.5))) for length in (x2 - x1, y2 - y1))
    left, top = int(rng.integers(x1 - width // 2, x2)), int(rng.integers(y1 - height // 2, y2))
    if picture is None or chance(rng, 0.5):
        patch: Pixels = np.broadcast_to(rng.integers(0, 256, 3).astype(np.uint8), (height, width, 3))
    else:
        patch = cv2.resize(picture, (width, height)).astype(np.uint8, copy=False)
    x, y = max(left, 0), max(top, 0)
    right, bottom = min(left + width, side), min(top + height, side)
    if x < right and y < bottom:
        scene[y:bottom, x:right] = patch[y - top : bottom - top, x - left : right - left]


def _reflect(rng: np.random.Generator, scene: Pixels) -> None:
    """Adds the soft reflection of a lamp."""
    side = len(scene)
    coarse = np.zeros((32, 32), np.float32)
    centre = tuple(int(value) for value in rng.integers(0, 32, 2))
    axes = int(rng.integers(2, 12)), int(rng.integers(1, 5))
    cv2.ellipse(coarse, centre, axes, float(rng.uniform(0, 180)), 0, 360, float(rng.uniform(0.3, 1.0)), -1)
    glow = cv2.resize(cv2.GaussianBlur(coarse, (0, 0), 1.5), (side, side))[..., None]
    np.copyto(scene, (scene + (255 - scene) * glow).astype(np.uint8))
