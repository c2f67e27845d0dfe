"""Cloth textures (stripes, checks, dots, flowers, denim, ...) as functions of the place on the garment.

Coordinates `u` (right of the centre) and `v` (down from the top) are fractions of the garment's length, so
that a texture is the same on every view of a garment.
"""

from collections.abc import Callable

import cv2
import numpy as np

from skufp_pipeline.datasets.sample.garments import Texture
from skufp_pipeline.randomness import generator

Field = np.ndarray  # (H, W) float32

NOISE_REACH = 1.3  # |u| and v that noise covers


def paint_texture(texture: Texture, u: Field, v: Field, pixel: float) -> np.ndarray:
    """Returns the cloth's colours at (u, v): (H, W, 3) float32 RGB, 0..255.

    Args:
        u, v: (H, W) float32 coordinates.
        pixel: the side of one pixel in the same units; edges are softened over about one pixel.
    """
    figure, accent = _LAYERS[texture.kind](texture, u, v, pixel)
    ground_rgb, figure_rgb, accent_rgb = (np.array(c, np.float32) for c in texture.colours)
    colour = ground_rgb + figure[..., None] * (figure_rgb - ground_rgb)
    if accent is not None:
        colour += accent[..., None] * (accent_rgb - colour)
    return colour


def _wave(position: Field, texture: Texture, pixel: float) -> Field:
    """Returns 1 on the figure's share of each period and 0 elsewhere, soft at the edges."""
    distance = np.abs(np.mod(position / texture.period, 1.0) - 0.5) * 2  # 1 at the start of a period
    return _soft_step((texture.duty - distance) * texture.period / 2, pixel)


def _soft_step(depth: Field, pixel: float) -> Field:
    """Returns 1 where `depth` is positive, 0 where negative, a ramp one pixel wide between."""
    return np.clip(depth / pixel + 0.5, 0, 1)


def _noise(seed: int, cells: int, u: Field, v: Field) -> Field:
    """Returns smooth noise about 0 with unit spread, fixed to the garment."""
    grid = generator(seed, "noise", cells).standard_normal((cells, cells), np.float32)
    scale = (cells - 1) / (2 * NOISE_REACH)
    return cv2.remap(
        grid, (u + NOISE_REACH) * scale, v * scale * 2, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )


Layers = tuple[Field, Field | None]


def _plain(texture: Texture, u: Field, v: Field, pixel: float) -> Layers:
    return np.zeros_like(u), None


def _horizontal_stripes(texture: Texture, u: Field, v: Field, pixel: float) -> Layers:
    return _wave(v, texture, pixel), None


def _vertical_stripes(texture: Texture, u: Field, v: Field, pixel: float) -> Layers:
    return _wave(u, texture, pixel), None


def _diagonal_stripes(texture: Texture, u: Field, v: Field, pixel: float) -> Layers:
    return _wave((u + v) * 0.71, texture, pixel), None


def _checks(texture: Texture, u: Field, v: Field, pixel: float) -> Layers:
    thin = Texture(texture.kind, texture.colours, texture.period * 1.5, 0.16, texture.seed)
    lines = np.maximum(_wave(u + 0.05, thin, pixel), _wave(v + 0.05, thin, pixel))
    wide = Texture(texture.kind, texture.colours, texture.period * 1.5, texture.duty, texture.seed)
    return 0.5 * _wave(u, wide, pixel) + 0.5 * _wave(v, wide, pixel), lines


def _gingham(texture: Texture, u: Field, v: Field, pixel: float) -> Layers:
    return 0.5 * _wave(u, texture, pixel) + 0.5 * _wave(v, texture, pixel), None


def _dots(texture: Texture, u: Field, v: Field, pixel: float) -> Layers:
    row = np.floor(v / texture.period)
    x = np.mod(u / texture.period + 0.5 * np.mod(row, 2), 1.0) - 0.5
    y = np.mod(v / texture.period, 1.0) - 0.5
    radius = 0.12 + 0.45 * texture.duty
    return _soft_step((radius - np.hypot(x, y)) * texture.period, pixel), None


def _gradient(texture: Texture, u: Field, v: Field, pixel: float) -> Layers:
    return np.clip((v - texture.duty + 0.35) / 0.7, 0, 1), None


def _blocks(texture: Texture, u: Field, v: Field, pixel: float) -> Layers:
    lower = _soft_step(v - texture.duty, pixel)
    band = _soft_step(texture.period * 0.6 - np.abs(v - texture.duty), pixel)
    return lower, band if texture.period > 0.16 else None


def _side_panels(texture: Texture, u: Field, v: Field, pixel: float) -> Layers:
    return _soft_step(np.abs(u) - 0.1 - texture.duty * 0.25, pixel), None


def _denim(texture: Texture, u: Field, v: Field, pixel: float) -> Layers:
    faded = np.exp(-(((np.abs(u) - 0.15) / 0.12) ** 2)) * texture.duty
    return np.clip(faded + 0.12 * _noise(texture.seed, 40, u, v), 0, 0.9), None


def _floral(texture: Texture, u: Field, v: Field, pixel: float) -> Layers:
    """Draws flowers of five petals at random places; the accent is their centre."""
    rng = generator(texture.seed, "flowers")
    canvas, middle = np.zeros(u.shape, np.uint8), np.zeros(u.shape, np.uint8)
    size = texture.period * (0.5 + texture.duty) / pixel
    for _ in range(int(2.2 / texture.period**1.5)):
        x, y, turn = rng.uniform(-1, 1), rng.uniform(0, 1.1), rng.uniform(0, 7)
        centre = np.array([(x - u[0, 0]), (y - v[0, 0])]) / pixel
        for petal in turn + np.arange(5) * 1.257:
            _disc(canvas, centre + 0.26 * size * np.array([np.cos(petal), np.sin(petal)]), 0.2 * size)
        _disc(middle, centre, 0.16 * size)
    return canvas / np.float32(255), middle / np.float32(255)


def _disc(canvas: np.ndarray, centre: np.ndarray, radius: float) -> None:
    """Draws a filled circle; cv2 takes sixteenths of pixels with shift 4."""
    place = (round(centre[0] * 16), round(centre[1] * 16))
    cv2.circle(canvas, place, max(8, round(radius * 16)), 255, -1, cv2.LINE_AA, 4)


def _zigzag(texture: Texture, u: Field, v: Field, pixel: float) -> Layers:
    teeth = np.abs(np.mod(u / texture.period, 1.0) - 0.5) * texture.period
    return _wave(v + teeth, texture, pixel), None


def _diamonds(texture: Texture, u: Field, v: Field, pixel: float) -> Layers:
    period = texture.period * 1.4
    x, y = np.mod(u / period, 1.0) - 0.5, np.mod(v / (period * 1.3), 1.0) - 0.5
    figure = _soft_step((0.2 + 0.35 * texture.duty - np.abs(x) - np.abs(y)) * period, pixel)
    lines = _soft_step((0.05 - np.abs(np.abs(x) - np.abs(y))) * period, pixel)
    return figure, lines * 0.8


def _camouflage(texture: Texture, u: Field, v: Field, pixel: float) -> Layers:
    cells = int(np.clip(2.4 / texture.period, 8, 24))
    figure = np.clip(4 * (_noise(texture.seed, cells, u, v) + texture.duty - 0.4), 0, 1)
    return figure, np.clip(4 * (_noise(texture.seed + 1, cells, u, v) - 0.6), 0, 1)


def _melange(texture: Texture, u: Field, v: Field, pixel: float) -> Layers:
    rough = _noise(texture.seed, 60, u, v)
    return np.clip(0.25 * texture.duty + 0.22 * rough, 0, 1), None


_LAYERS: dict[str, Callable[[Texture, Field, Field, float], Layers]] = {
    "plain": _plain,
    "horizontal_stripes": _horizontal_stripes,
    "vertical_stripes": _vertical_stripes,
    "diagonal_stripes": _diagonal_stripes,
    "checks": _checks,
    "gingham": _gingham,
    "dots": _dots,
    "gradient": _gradient,
    "blocks": _blocks,
    "side_panels": _side_panels,
    "denim": _denim,
    "floral": _floral,
    "zigzag": _zigzag,
    "diamonds": _diamonds,
    "camouflage": _camouflage,
    "melange": _melange,
}
