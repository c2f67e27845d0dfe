"""Colour names, pattern and lightness of a crop, computed from its pixels for attribute prompts.

A category alone ("a dress") does not identify a SKU; "a dark navy and white striped dress" comes nearer.
All are computed on a 48 x 48 copy, in CIE Lab. Colours and lightness are weighted towards the centre and the
pattern leaves out the border, because the item fills the centre while the corners show background.
"""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

SIDE = 48  # side of the analysed copy, in pixels
BORDER = 9  # pixels along the edges with mostly silhouette and background, left out of the pattern
CENTRE_SIGMA = 0.22  # of the Gaussian by which pixels are weighted, as a share of the side

# sRGB samples of each name; a pixel takes the name of the nearest sample.
COLOURS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "black": ((0, 0, 0), (25, 25, 28)),
    "grey": ((56, 56, 58), (90, 90, 92), (128, 128, 128), (170, 170, 172), (188, 188, 190)),
    "white": ((255, 255, 255), (222, 222, 222)),
    "beige": ((230, 218, 190), (245, 235, 215), (205, 185, 155), (178, 152, 118)),
    "brown": ((101, 55, 20), (70, 40, 25), (140, 85, 45), (140, 58, 15), (165, 115, 75)),
    "burgundy": ((97, 0, 35), (128, 10, 35), (75, 10, 20)),
    "red": ((229, 20, 20), (180, 20, 20), (255, 40, 45)),
    "coral": ((252, 90, 80), (250, 130, 110)),
    "pink": ((255, 129, 192), (245, 190, 205), (225, 120, 150)),
    "magenta": ((205, 0, 120), (240, 0, 180)),
    "orange": ((249, 115, 6), (255, 150, 40), (205, 90, 15)),
    "mustard": ((200, 160, 20), (170, 130, 30)),
    "yellow": ((255, 235, 30), (250, 225, 110), (235, 215, 40)),
    "olive": ((110, 117, 14), (85, 85, 40), (135, 135, 80)),
    "green": ((21, 176, 26), (20, 90, 35), (90, 170, 80), (130, 200, 60), (150, 245, 120)),
    "mint": ((160, 240, 190), (190, 230, 205)),
    "teal": ((2, 130, 125), (10, 95, 95)),
    "turquoise": ((10, 195, 175), (60, 215, 210)),
    "sky blue": ((117, 187, 253), (165, 205, 235), (120, 170, 210), (205, 245, 253)),
    "blue": ((3, 67, 223), (30, 90, 180), (70, 105, 165), (20, 40, 160), (100, 140, 230)),
    "navy": ((1, 21, 62), (25, 35, 75), (10, 15, 95)),
    "purple": ((126, 30, 156), (85, 40, 110), (105, 50, 150), (54, 1, 63), (150, 20, 240), (130, 90, 135)),
    "lilac": ((190, 160, 225), (165, 130, 195)),
}
NAMES = tuple(COLOURS)
SECOND_COLOUR_SHARE = 0.22  # of the centre-weighted pixels, needed to name a second colour

DARK, LIGHT = 38.0, 70.0  # Lab lightness, 0 to 100

EDGE_STEP = 10.0  # Lab units per pixel above which a pixel lies on an edge
BUSY_EDGES = 0.22  # share of edge pixels above which an item is not plain
ONE_DIRECTION = 0.7  # concentration of edge directions, 0 to 1: stripes
TWO_DIRECTIONS = 0.45  # the same for directions modulo 90 degrees: checks


# Sleeve and length by a phrase in the category's name.
SLEEVES = {"short sleeve": "short", "long sleeve": "long", "vest": "sleeveless", "sling": "sleeveless"}
LENGTHS = {"shorts": "short", "trousers": "long"}


@dataclass(frozen=True)
class Cut:
    """Sleeve (short, long or sleeveless) and length (short or long); None if the category does not say."""

    sleeve: str | None
    length: str | None


def cut_of(category_name: str) -> Cut:
    """Sleeve and length by the category's name; in the pixels they are too often hidden or cropped."""
    words = f" {category_name.lower()} "

    def lookup(table: dict[str, str]) -> str | None:
        return next((value for name, value in table.items() if f" {name} " in words), None)

    return Cut(lookup(SLEEVES), lookup(LENGTHS))


@dataclass(frozen=True)
class ItemAttributes:
    """Attribute words of a crop."""

    colours: tuple[str, ...]  # one or two names, the more common first
    pattern: str  # plain, striped, checked or patterned
    lightness: str  # dark, medium or light; of the first colour's pixels


def describe(image: np.ndarray) -> ItemAttributes:
    """Describes a crop, (H, W, 3) uint8 RGB; raises `ValueError` for another shape or type, or no pixels."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"expected a (H, W, 3) uint8 image, found {image.shape} {image.dtype}")
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    lab = _to_lab(small)
    names = _colour_table()[tuple((small // 8).reshape(-1, 3).T)]
    weights = _centre_weights()
    shares = np.bincount(names, weights=weights, minlength=len(NAMES))
    first, second = np.argsort(-shares, kind="stable")[:2]
    colours = (NAMES[first], NAMES[second]) if shares[second] >= SECOND_COLOUR_SHARE else (NAMES[first],)
    of_first = weights * (names == first)
    lightness = float(of_first @ lab[..., 0].ravel() / of_first.sum())
    return ItemAttributes(colours, _pattern(lab), _lightness_word(lightness))


def _to_lab(rgb: np.ndarray) -> np.ndarray:
    """Converts (..., 3) uint8 RGB to float32 CIE Lab: L 0 to 100, a and b around 0."""
    return cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)


@cache
def _centre_weights() -> np.ndarray:
    """(SIDE * SIDE,) weights that sum to 1."""
    offset = (np.arange(SIDE) - (SIDE - 1) / 2) / SIDE
    line = np.exp(-0.5 * (offset / CENTRE_SIGMA) ** 2)
    weights = np.outer(line, line).ravel()
    return weights / weights.sum()


@cache
def _colour_table() -> np.ndarray:
    """(32, 32, 32) index into NAMES for every RGB colour in steps of 8, by the nearest sample."""
    levels = (np.arange(32) * 8 + 4).astype(np.uint8)
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    colours = _to_lab(rgb)[:, 0]
    samples = np.array([sample for group in COLOURS.values() for sample in group], dtype=np.uint8)
    owner = np.repeat(np.arange(len(NAMES)), [len(group) for group in COLOURS.values()])
    nearest = _delta_e(_to_lab(samples[None])[0], colours).argmin(axis=0)
    return owner[nearest].reshape(32, 32, 32)


def _delta_e(reference: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """(R, C) CIE94 differences between R reference and C other Lab colours; `reference` sets the scale."""
    step = colours[None] - reference[:, None]
    reference_chroma = np.hypot(reference[:, 1], reference[:, 2])[:, None]
    chroma_step = np.hypot(colours[:, 1], colours[:, 2])[None] - reference_chroma
    hue_step = np.maximum(step[..., 1] ** 2 + step[..., 2] ** 2 - chroma_step**2, 0)
    by_chroma = chroma_step / (1 + 0.045 * reference_chroma)
    by_hue = hue_step / (1 + 0.015 * reference_chroma) ** 2
    return np.sqrt(step[..., 0] ** 2 + by_chroma**2 + by_hue)


def _lightness_word(lightness: float) -> str:
    if lightness < DARK:
        return "dark"
    return "light" if lightness > LIGHT else "medium"


def _pattern(lab: np.ndarray) -> str:
    """Classifies the pattern by the share of edge pixels in the centre and how much their directions agree.

    Directions come from the structure tensor summed over L, a and b (Di Zenzo, 1986), so that stripes of
    equal lightness count too. Their doubled angles cluster for stripes, quadrupled ones for checks.
    """
    centre = lab[BORDER:-BORDER, BORDER:-BORDER]
    dx = cv2.Scharr(centre, cv2.CV_32F, 1, 0) / 32
    dy = cv2.Scharr(centre, cv2.CV_32F, 0, 1) / 32
    along, across = (dx * dx - dy * dy).sum(axis=2), 2 * (dx * dy).sum(axis=2)
    energy = (dx * dx + dy * dy).sum(axis=2)
    on_edge = energy > EDGE_STEP**2
    if on_edge.mean() < BUSY_EDGES:
        return "plain"
    doubled = np.exp(1j * np.arctan2(across[on_edge], along[on_edge]))
    weights = np.sqrt(energy[on_edge])
    if abs(np.average(doubled, weights=weights)) > ONE_DIRECTION:
        return "striped"
    if abs(np.average(doubled**2, weights=weights)) > TWO_DIRECTIONS:
        return "checked"
    return "patterned"
