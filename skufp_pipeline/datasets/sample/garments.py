"""Derives the garment of a SKU: category, silhouette, texture, colours, print and details.

A design fixes the category, the silhouette, the kind of texture and the range of colours. Its variants, the
SKUs, differ in shade or colourway, texture scale, print and small lengths, as in a real catalogue.
"""

import colorsys
from dataclasses import dataclass, replace

import numpy as np

from skufp_pipeline.datasets.sample.plan import design_of, is_coordinated
from skufp_pipeline.datasets.sample.settings import SampleSettings
from skufp_pipeline.randomness import chance, choose, generator

Colour = tuple[int, int, int]  # RGB, 0..255
Hsv = tuple[float, float, float]  # each 0..1


@dataclass(frozen=True)
class Category:
    """One of DeepFashion2's 13 categories."""

    name: str
    landmarks: int  # number in DeepFashion2
    weight: float  # relative frequency, roughly as in DeepFashion2


CATEGORIES: dict[int, Category] = {
    1: Category("short sleeve top", 25, 62),
    2: Category("long sleeve top", 33, 36),
    3: Category("short sleeve outwear", 31, 5),
    4: Category("long sleeve outwear", 39, 16),
    5: Category("vest", 15, 18),
    6: Category("sling", 15, 7),
    7: Category("shorts", 10, 34),
    8: Category("trousers", 14, 44),
    9: Category("skirt", 8, 30),
    10: Category("short sleeve dress", 29, 18),
    11: Category("long sleeve dress", 37, 12),
    12: Category("vest dress", 19, 18),
    13: Category("sling dress", 19, 9),
}
UPPER, LOWER, DRESSES = (1, 2, 3, 4, 5, 6), (7, 8, 9), (10, 11, 12, 13)
SHORT_SLEEVES, LONG_SLEEVES = (1, 3, 10), (2, 4, 11)
OUTWEAR, SLEEVELESS, SLINGS = (3, 4), (5, 12), (6, 13)

NECKLINES = ("round", "v", "square", "boat", "high")
TEXTURES = {
    "plain": 5.0,
    "horizontal_stripes": 2.0,
    "vertical_stripes": 1.2,
    "diagonal_stripes": 0.6,
    "checks": 1.2,
    "gingham": 0.8,
    "dots": 1.2,
    "gradient": 0.8,
    "blocks": 1.2,
    "side_panels": 0.8,
    "denim": 1.0,
    "floral": 1.6,
    "zigzag": 0.6,
    "diamonds": 0.6,
    "camouflage": 0.6,
    "melange": 0.8,
}
PRINTS = ("disc", "ring", "square", "triangle", "star", "heart", "cross", "bars", "letters", "band")


@dataclass(frozen=True)
class Silhouette:
    """The garment's outline in body units (see outlines.py): half widths, lengths down from the neck."""

    top: float  # where a lower garment begins; 0 for others
    length: float  # where it ends
    shoulder: float
    chest: float
    waist: float
    hem: float
    hem_curve: float
    sleeve_length: float
    sleeve_width: float
    cuff: float
    neckline: str
    neck_width: float
    neck_depth: float


@dataclass(frozen=True)
class Texture:
    """The look of the cloth; lengths are fractions of the garment's length."""

    kind: str
    colours: tuple[Colour, Colour, Colour]  # ground, figure, accent
    period: float
    duty: float  # the figure's share of a period
    seed: int  # of the randomly placed parts


@dataclass(frozen=True)
class Print:
    """A motif on the front."""

    kind: str
    colour: Colour
    size: float  # fraction of the garment's length
    place: tuple[float, float]  # right of and below the chest's centre, fractions of the length
    text: str
    is_double: bool  # a second, smaller motif of the accent colour inside


@dataclass(frozen=True)
class Details:
    """Trims and closures."""

    has_trim: bool  # cuffs, hem and neck in the accent colour
    has_contrast_sleeves: bool
    has_collar: bool
    closure: str  # none | buttons | zip
    pockets: str  # none | chest | sides
    has_belt: bool


@dataclass(frozen=True)
class Garment:
    """What all pictures of a garment have in common."""

    category_id: int
    silhouette: Silhouette
    texture: Texture
    print: Print | None
    details: Details


@dataclass(frozen=True)
class Design:
    """What all variants of a design have in common."""

    base: Garment
    palette: tuple[Hsv, Hsv, Hsv]
    is_printed: bool


def sku_garment(settings: SampleSettings, index: int) -> Garment:
    """Returns the garment of the SKU with this index."""
    block, side, _ = design_of(index, settings.variants)
    rng = generator(settings.seed, "design", block, side)
    design = _draw_design(rng, _design_category(rng, is_coordinated(settings.seed, block), side))
    return _draw_variant(generator(settings.seed, "sku", index), design)


def stray_garment(rng: np.random.Generator, categories: tuple[int, ...]) -> Garment:
    """Returns a garment of one of the given categories that belongs to no SKU."""
    return _draw_variant(rng, _draw_design(rng, _category(rng, categories)))


def companions(category_id: int) -> tuple[int, ...]:
    """Returns the categories that can be worn with `category_id`, or hang beside it."""
    if category_id in UPPER:
        return LOWER
    return (1, 2, 5) if category_id in LOWER else OUTWEAR


def _design_category(rng: np.random.Generator, coordinated: bool, side: int) -> int:
    if coordinated:
        return _category(rng, (UPPER, LOWER)[side])
    return _category(rng, tuple(CATEGORIES))


def _category(rng: np.random.Generator, categories: tuple[int, ...]) -> int:
    return choose(rng, categories, [CATEGORIES[category].weight for category in categories])


def _draw_design(rng: np.random.Generator, category_id: int) -> Design:
    palette = _draw_palette(rng)
    kind = choose(rng, tuple(TEXTURES), list(TEXTURES.values()))
    texture = Texture(kind, _colours(palette), rng.uniform(0.1, 0.26), rng.uniform(0.3, 0.6), 0)
    base = Garment(
        category_id, _draw_silhouette(rng, category_id), texture, None, _draw_details(rng, category_id)
    )
    return Design(
        base, palette, chance(rng, 0.6 if kind in ("plain", "melange", "gradient", "blocks") else 0.3)
    )


def _draw_variant(rng: np.random.Generator, design: Design) -> Garment:
    base, palette = design.base, _vary_palette(rng, design.palette)
    texture = replace(
        base.texture,
        colours=_colours(palette),
        period=float(np.clip(base.texture.period * rng.uniform(0.7, 1.4), 0.09, 0.34)),
        duty=float(np.clip(base.texture.duty + rng.uniform(-0.14, 0.14), 0.22, 0.72)),
        seed=int(rng.integers(2**31)),
    )
    flips = {"has_trim": 0.2, "has_contrast_sleeves": 0.12}
    details = replace(
        base.details,
        **{name: getattr(base.details, name) != chance(rng, odds) for name, odds in flips.items()},
    )
    motif = (
        _draw_print(rng, texture, base.category_id)
        if chance(rng, 0.9 if design.is_printed else 0.15)
        else None
    )
    return replace(
        base, silhouette=_vary_silhouette(rng, base.silhouette), texture=texture, print=motif, details=details
    )


def _draw_silhouette(rng: np.random.Generator, category_id: int) -> Silhouette:
    is_lower, is_dress = category_id in LOWER, category_id in DRESSES
    width = rng.uniform(0.9, 1.12) * (1.1 if category_id in OUTWEAR else 1.0)
    waist = 0.31 * width * (rng.uniform(0.9, 1.05) if is_lower or is_dress else rng.uniform(0.98, 1.25))
    length, hem = _draw_length_and_hem(rng, category_id, width)
    sleeve_length = 0.0
    if category_id in SHORT_SLEEVES:
        sleeve_length = rng.uniform(0.24, 0.52)
    elif category_id in LONG_SLEEVES:
        sleeve_length = rng.uniform(0.9, 1.2)
    shoulder = {True: rng.uniform(0.25, 0.34), False: 0.42 * width}[category_id in SLEEVELESS]
    return Silhouette(
        top=rng.uniform(0.84, 1.0) if is_lower else 0.0,
        length=length,
        shoulder=shoulder,
        chest=0.4 * width,
        waist=waist,
        hem=hem,
        hem_curve=rng.uniform(-0.04, 0.1),
        sleeve_length=sleeve_length,
        sleeve_width=rng.uniform(0.2, 0.27),
        cuff=rng.uniform(0.12, 0.24) if category_id in LONG_SLEEVES else rng.uniform(0.2, 0.3),
        neckline=choose(rng, NECKLINES, (5, 3, 1.2, 1.5, 1.5)),
        neck_width=rng.uniform(0.14, 0.22),
        neck_depth=rng.uniform(0.1, 0.3),
    )


def _draw_length_and_hem(rng: np.random.Generator, category_id: int, width: float) -> tuple[float, float]:
    """Returns where the garment ends and half its hem's width there (of one leg, for shorts and trousers)."""
    if category_id == 7:
        return rng.uniform(1.5, 1.95), rng.uniform(0.17, 0.25)
    if category_id == 8:
        return rng.uniform(2.4, 2.85), rng.uniform(0.1, 0.25)
    if category_id == 9:
        return rng.uniform(1.55, 2.6), rng.uniform(0.34, 0.75)
    if category_id in DRESSES:
        return rng.uniform(1.55, 2.7), rng.uniform(0.36, 0.75)
    return rng.uniform(0.9, 1.35) + (0.2 if category_id in OUTWEAR else 0), 0.38 * width * rng.uniform(
        0.92, 1.2
    )


def _vary_silhouette(rng: np.random.Generator, base: Silhouette) -> Silhouette:
    def near(value: float, spread: float) -> float:
        return value * rng.uniform(1 - spread, 1 + spread)

    return replace(
        base,
        length=base.top + near(base.length - base.top, 0.08),
        hem=near(base.hem, 0.08),
        sleeve_length=near(base.sleeve_length, 0.08),
        neck_depth=near(base.neck_depth, 0.2),
        neckline=base.neckline if chance(rng, 0.85) else choose(rng, NECKLINES),
    )


def _draw_details(rng: np.random.Generator, category_id: int) -> Details:
    opens = category_id in OUTWEAR or (category_id in UPPER + DRESSES and chance(rng, 0.2))
    pockets = ("none", "sides") if category_id in LOWER else ("none", "none", "chest", "sides")
    return Details(
        has_trim=chance(rng, 0.25),
        has_contrast_sleeves=chance(rng, 0.12),
        has_collar=category_id not in SLINGS + LOWER and chance(rng, 0.6 if opens else 0.1),
        closure=choose(rng, ("buttons", "zip")) if opens else "none",
        pockets=choose(rng, pockets),
        has_belt=category_id in LOWER + DRESSES and chance(rng, 0.35),
    )


def _draw_print(rng: np.random.Generator, texture: Texture, category_id: int) -> Print:
    is_logo = category_id in LOWER or chance(rng, 0.3)
    ground = np.array(texture.colours[0])
    candidates = [texture.colours[2], _rgb(_bright(rng)), (245, 245, 240), (20, 20, 24)]
    contrast = [float(np.abs(ground - candidate).sum()) for candidate in candidates]
    return Print(
        kind=choose(rng, PRINTS),
        colour=candidates[int(np.argmax(contrast))]
        if chance(rng, 0.4)
        else _readable(rng, candidates, contrast),
        size=rng.uniform(0.1, 0.14) if is_logo else rng.uniform(0.2, 0.36),
        place=_draw_place(rng, is_logo, category_id),
        text="".join(chr(65 + int(letter)) for letter in rng.integers(0, 26, 3 if chance(rng, 0.5) else 2)),
        is_double=chance(rng, 0.4),
    )


def _draw_place(rng: np.random.Generator, is_logo: bool, category_id: int) -> tuple[float, float]:
    if category_id in LOWER:
        return float(choose(rng, (-0.12, 0.12))), rng.uniform(-0.05, 0.3)
    if is_logo:
        return float(choose(rng, (-0.14, 0.14))), rng.uniform(-0.05, 0.05)
    return 0.0, rng.uniform(0.0, 0.14)


def _readable(rng: np.random.Generator, candidates: list[Colour], contrast: list[float]) -> Colour:
    return choose(
        rng, [colour for colour, distance in zip(candidates, contrast, strict=True) if distance > 150]
    )


def _draw_palette(rng: np.random.Generator) -> tuple[Hsv, Hsv, Hsv]:
    ground = _neutral(rng) if chance(rng, 0.45) else _bright(rng)
    lighter_or_darker = 0.95 if ground[2] < 0.55 else rng.uniform(0.12, 0.4)
    figure = (
        (ground[0], ground[1] * rng.uniform(0.2, 1), lighter_or_darker) if chance(rng, 0.5) else _bright(rng)
    )
    return ground, figure, _neutral(rng) if chance(rng, 0.4) else _bright(rng)


def _vary_palette(rng: np.random.Generator, palette: tuple[Hsv, Hsv, Hsv]) -> tuple[Hsv, Hsv, Hsv]:
    """Returns the palette of a variant: another shade, or another colourway."""
    if chance(rng, 0.4):
        return _draw_palette(rng)
    ground, figure, accent = (_shade(rng, colour) for colour in palette)
    return ground, figure, accent if chance(rng, 0.6) else _bright(rng)


def _shade(rng: np.random.Generator, colour: Hsv) -> Hsv:
    hue, saturation, value = colour
    return (
        (hue + rng.normal(0, 0.025)) % 1.0,
        float(np.clip(saturation + rng.normal(0, 0.08), 0, 1)),
        float(np.clip(value + rng.normal(0, 0.1), 0.06, 0.98)),
    )


def _neutral(rng: np.random.Generator) -> Hsv:
    """Returns black, white, grey, navy or beige, the colours of most clothes."""
    black, white, grey = (0.6, 0.1, 0.1), (0.1, 0.03, 0.96), (0.6, 0.04, rng.uniform(0.3, 0.75))
    navy, beige = (0.62, 0.6, 0.25), (0.1, 0.25, 0.85)
    return choose(rng, (black, white, grey, navy, beige), (3, 3, 2, 2, 2))


def _bright(rng: np.random.Generator) -> Hsv:
    return rng.uniform(0, 1), rng.uniform(0.3, 0.95), rng.uniform(0.4, 0.95)


def _colours(palette: tuple[Hsv, Hsv, Hsv]) -> tuple[Colour, Colour, Colour]:
    ground, figure, accent = (_rgb(colour) for colour in palette)
    return ground, figure, accent


def _rgb(colour: Hsv) -> Colour:
    red, green, blue = (round(255 * channel) for channel in colorsys.hsv_to_rgb(*colour))
    return red, green, blue
