"""Draws a garment as a flat RGBA picture, once per pose; every view is warped from one."""

from dataclasses import dataclass

import cv2
import numpy as np

from skufp_pipeline.datasets.sample.garments import CATEGORIES, LOWER, Colour, Garment, Print
from skufp_pipeline.datasets.sample.outlines import ARMPIT_Y, Outline, Points, outline_of
from skufp_pipeline.datasets.sample.textures import paint_texture

CANVAS_SCALE = 1.25  # side of the flat picture, in sides of the final image
MARGIN = 0.04  # of the canvas, on each side
SUBPIXEL_BITS = 4  # cv2 takes coordinates in sixteenths of pixels

Paint = Colour | np.ndarray  # RGB, 0..255


@dataclass(frozen=True)
class Flat:
    """A drawn garment."""

    rgba: np.ndarray  # (C, C, 4) uint8; colours are defined everywhere, alpha is the garment
    canvas_from_body: np.ndarray  # (3, 3) similarity from body units to canvas pixels
    landmarks: Points  # (N, 2) in body units, N as in DeepFashion2 for the category
    extent: np.ndarray  # (4,) left, top, right, bottom in body units


def draw_flat(garment: Garment, arm_angle: float, is_back: bool, image_size: int) -> Flat:
    """Draws the garment from the front or the back, with its sleeves at `arm_angle` radians."""
    size = round(image_size * CANVAS_SCALE)
    outline = outline_of(garment, arm_angle, is_back)
    extent = np.concatenate([outline.path.min(axis=0), outline.path.max(axis=0)])
    matrix = _fit(extent, size)
    brush = _Brush(_paint_cloth(garment, matrix, size), matrix)
    _draw_panels(brush, garment, outline)
    if not is_back:
        _draw_front(brush, garment, outline)
    mask = _mask(brush, outline)
    rgb = _shade_volume(brush.rgb, mask)
    landmarks = landmarks_on(outline.path, CATEGORIES[garment.category_id].landmarks)
    return Flat(np.dstack([rgb, mask]), matrix, landmarks, extent)


def landmarks_on(path: Points, count: int) -> Points:
    """Returns `count` equidistant points along a closed path, from its first point on: (count, 2)."""
    corners = np.concatenate([path, path[:1]])
    walked = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
    stops = np.arange(count) * walked[-1] / count
    return np.stack([np.interp(stops, walked, corners[:, axis]) for axis in (0, 1)], axis=1)


class _Brush:
    """Draws on the canvas in body units."""

    def __init__(self, rgb: np.ndarray, matrix: np.ndarray) -> None:
        self.rgb = rgb
        self.matrix = matrix
        self.scale = float(matrix[0, 0])  # canvas pixels per body unit

    def pixels(self, points: Points) -> np.ndarray:
        canvas = np.asarray(points) * self.scale + self.matrix[:2, 2]
        return np.round(canvas * 2**SUBPIXEL_BITS).astype(np.int32)

    def width(self, units: float) -> int:
        return max(1, round(units * self.scale))

    def fill(self, points: Points, colour: Paint) -> None:
        cv2.fillPoly(self.rgb, [self.pixels(points)], _scalar(colour), cv2.LINE_AA, SUBPIXEL_BITS)

    def line(self, points: Points, colour: Paint, units: float) -> None:
        line = [self.pixels(points)]
        cv2.polylines(self.rgb, line, False, _scalar(colour), self.width(units), cv2.LINE_AA, SUBPIXEL_BITS)

    def disc(self, centre: Points, radius: float, colour: Paint, units: float | None = None) -> None:
        x, y = self.pixels(np.asarray(centre)).tolist()
        size = round(radius * self.scale * 2**SUBPIXEL_BITS)
        thickness = -1 if units is None else self.width(units)
        cv2.circle(self.rgb, (x, y), size, _scalar(colour), thickness, cv2.LINE_AA, SUBPIXEL_BITS)


def _scalar(colour: Paint) -> tuple[float, ...]:
    """Converts a colour for cv2; pictures stay RGB until they are encoded."""
    return tuple(float(channel) for channel in np.asarray(colour))


def _fit(extent: np.ndarray, size: int) -> np.ndarray:
    """Returns the similarity that centres `extent` on a canvas of `size` pixels."""
    scale = size * (1 - 2 * MARGIN) / max(extent[2] - extent[0], extent[3] - extent[1])
    middle = (extent[:2] + extent[2:]) / 2
    shift = size / 2 - middle * scale
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]])


def _paint_cloth(garment: Garment, matrix: np.ndarray, size: int) -> np.ndarray:
    length = garment.silhouette.length - garment.silhouette.top
    places = np.arange(size, dtype=np.float32)
    x = (places - np.float32(matrix[0, 2])) / np.float32(matrix[0, 0] * length)
    y = (places - np.float32(matrix[1, 2])) / np.float32(matrix[0, 0] * length)
    u, v = np.meshgrid(x, y - np.float32(garment.silhouette.top / length))
    colour = paint_texture(garment.texture, u, v, 1 / (matrix[0, 0] * length))
    return np.clip(colour, 0, 255).astype(np.uint8)


def _mask(brush: _Brush, outline: Outline) -> np.ndarray:
    mask = np.zeros(brush.rgb.shape[:2], np.uint8)
    for polygon in (outline.torso, *outline.limbs):
        cv2.fillPoly(mask, [brush.pixels(polygon)], 255.0, cv2.LINE_AA, SUBPIXEL_BITS)
    return mask


def _shade_volume(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Darkens the cloth towards its edges, as if it were round a body."""
    depth = cv2.blur(mask, (9, 9)).astype(np.float32)[..., None]
    return (rgb * (0.72 + 0.28 / 255 * depth)).astype(np.uint8)


def _draw_panels(brush: _Brush, garment: Garment, outline: Outline) -> None:
    """Draws contrast sleeves, trims and belt, which both sides show."""
    accent, details = garment.texture.colours[2], garment.details
    seam = np.array(garment.texture.colours[0]) * 0.6
    for limb in outline.limbs:
        if details.has_contrast_sleeves:
            brush.fill(limb, accent)
        brush.line(limb[[0, -1]], seam, 0.012)
    if details.has_trim:
        for hem in (outline.neck, *outline.hems):
            brush.line(hem, accent, 0.07)
    if details.has_belt:
        y = garment.silhouette.top + 0.04 if garment.category_id in LOWER else 0.86
        brush.line(np.array([[-0.8, y], [0.8, y]]), accent, 0.08)


def _draw_front(brush: _Brush, garment: Garment, outline: Outline) -> None:
    shape, accent = garment.silhouette, np.array(garment.texture.colours[2])
    seam = np.array(garment.texture.colours[0]) * 0.5
    _draw_closure(brush, garment, accent, seam)
    if garment.category_id in LOWER:
        brush.line(np.array([[0, shape.top], [0, shape.top + 0.36]]), seam, 0.015)
    if garment.details.pockets == "chest":
        square = np.array([[0.1, 0.4], [0.26, 0.4], [0.26, 0.58], [0.18, 0.62], [0.1, 0.58], [0.1, 0.4]])
        brush.line(square, seam, 0.02)
    if garment.details.pockets == "sides":
        y = 1.1 if garment.category_id in LOWER else 0.8
        for sign in (-1, 1):
            brush.line(np.array([[sign * 0.16, y - 0.04], [sign * 0.32, y + 0.16]]), seam, 0.025)
    if garment.details.has_collar:
        brush.line(outline.neck, seam, 0.11)
        brush.line(outline.neck, accent, 0.08)
    if garment.print is not None:
        _draw_print(brush, garment, garment.print)


def _draw_closure(brush: _Brush, garment: Garment, accent: Paint, seam: Paint) -> None:
    shape = garment.silhouette
    if garment.details.closure == "none":
        return
    bottom = min(shape.length + shape.hem_curve, 1.5)
    brush.line(np.array([[0, 0.0], [0, bottom]]), seam, 0.02)
    if garment.details.closure == "zip":
        brush.line(np.array([[0, 0.0], [0, bottom]]), accent, 0.04)
        return
    for y in np.arange(shape.neck_depth + 0.1, bottom - 0.05, 0.17):
        brush.disc(np.array([0.03, y]), 0.028, accent)


def _draw_print(brush: _Brush, garment: Garment, motif: Print) -> None:
    shape = garment.silhouette
    length = shape.length - shape.top
    start = shape.top + 0.2 if garment.category_id in LOWER else ARMPIT_Y
    # Limited, so that a long dress has no larger print than a top.
    unit = min(length, 1.5)
    centre = np.array([motif.place[0] * unit, start + 0.06 + motif.place[1] * unit])
    _draw_motif(brush, motif, centre, motif.size * unit / 2, motif.colour)
    if motif.is_double and motif.kind not in ("letters", "bars", "band"):
        _draw_motif(brush, motif, centre, motif.size * unit / 5, garment.texture.colours[2])


_ANGLES = np.arange(10) * np.pi / 5 - np.pi / 2
_POLYGONS: dict[str, Points] = {
    "square": np.array([[-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]]),
    "triangle": np.array([[0, -1], [0.95, 0.8], [-0.95, 0.8]]),
    "star": np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1) * np.tile([1.1, 0.45], 5)[:, None],
    "heart": np.array(
        [[0, 1], [-1, 0], [-1, -0.5], [-0.6, -0.9], [-0.2, -0.8],
         [0, -0.4], [0.2, -0.8], [0.6, -0.9], [1, -0.5], [1, 0]]
    ),
    "cross": np.array(
        [[-0.3, -1], [0.3, -1], [0.3, -0.3], [1, -0.3], [1, 0.3], [0.3, 0.3],
         [0.3, 1], [-0.3, 1], [-0.3, 0.3], [-1, 0.3], [-1, -0.3], [-0.3, -0.3]]
    ),
}  # fmt: skip


def _draw_motif(brush: _Brush, motif: Print, centre: Points, radius: float, colour: Paint) -> None:
    if motif.kind in _POLYGONS:
        brush.fill(centre + radius * _POLYGONS[motif.kind], colour)
    elif motif.kind == "disc":
        brush.disc(centre, radius, colour)
    elif motif.kind == "ring":
        brush.disc(centre, radius * 0.8, colour, radius * 0.4)
    elif motif.kind == "bars":
        for offset in (-0.8, 0.0, 0.8):
            ends = np.array([[-radius, offset * radius], [radius, offset * radius]])
            brush.line(centre + ends, colour, radius * 0.35)
    elif motif.kind == "band":
        brush.line(np.array([[-1.2, centre[1]], [1.2, centre[1]]]), colour, radius)
    else:
        _draw_letters(brush, motif.text, centre, radius, colour)


def _draw_letters(brush: _Brush, text: str, centre: Points, radius: float, colour: Paint) -> None:
    thickness = max(1, round(radius * brush.scale / 8))
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)
    scale = 2 * radius * brush.scale / width
    x, y = centre * brush.scale + brush.matrix[:2, 2] + [-width * scale / 2, height * scale / 2]
    cv2.putText(
        brush.rgb, text, (round(x), round(y)), cv2.FONT_HERSHEY_SIMPLEX, scale, _scalar(colour), thickness,
        cv2.LINE_AA,
    )  # fmt: skip
