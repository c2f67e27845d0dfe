"""Renders one photo: the garments of a shot, their surroundings, and the visible part of each garment."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from skufp_pipeline.camera import effects
from skufp_pipeline.datasets.sample import scenery
from skufp_pipeline.datasets.sample.drawing import Flat, draw_flat
from skufp_pipeline.datasets.sample.garments import (
    DRESSES,
    LOWER,
    Garment,
    companions,
    sku_garment,
    stray_garment,
)
from skufp_pipeline.datasets.sample.outlines import Points
from skufp_pipeline.datasets.sample.plan import Shot, has_query
from skufp_pipeline.datasets.sample.settings import SampleSettings
from skufp_pipeline.datasets.sample.views import (
    Projection,
    shop_pose,
    shop_projection,
    user_pose,
    user_projection,
)
from skufp_pipeline.randomness import generator

FLATS_KEPT = 64  # per process; a pair's SKUs need no more than a few dozen


@dataclass(frozen=True)
class Piece:
    """A garment in a photo; `sku` is its index, None if it belongs to no SKU."""

    garment: Garment
    sku: int | None


@dataclass(frozen=True)
class SeenPiece:
    """A garment as the photo shows it."""

    piece: Piece
    alpha: np.ndarray  # (S, S) uint8, all of it that lies in the frame
    visible: np.ndarray  # (S, S) uint8, the part that nothing hides
    landmarks: Points  # (N, 2) pixels, which may lie outside the frame


@dataclass(frozen=True)
class Scene:
    """A finished photo, (S, S, 3) uint8 RGB, with its ground truth."""

    image: np.ndarray
    jpeg_quality: int
    viewpoint: int
    pieces: list[SeenPiece]  # the first is the shot's own
    degradation: effects.Degradation | None = None  # None for a shop's photo


def render_scene(settings: SampleSettings, shot: Shot) -> Scene:
    """Draws a shot; the result depends only on settings and shot, not on what was drawn before."""
    rng = generator(settings.seed, "shot", shot.source, shot.sku.index, shot.number, shot.is_stray)
    pieces = _pieces(settings, shot, rng)
    return (_shop_scene if shot.source == "shop" else _user_scene)(settings, rng, shot, pieces)


def _pieces(settings: SampleSettings, shot: Shot, rng: np.random.Generator) -> list[Piece]:
    own = sku_garment(settings, shot.sku.index)
    if shot.is_stray:
        return [Piece(stray_garment(rng, (own.category_id, *companions(own.category_id))), None)]
    pieces = [Piece(own, shot.sku.index)]
    if shot.has_second_item:
        partner = shot.sku.partner
        if partner is not None and (shot.source == "shop" or has_query(settings, partner)):
            pieces.append(Piece(sku_garment(settings, partner), partner))
        else:
            pieces.append(Piece(stray_garment(rng, companions(own.category_id)), None))
    return pieces


def _shop_scene(settings: SampleSettings, rng: np.random.Generator, shot: Shot, pieces: list[Piece]) -> Scene:
    size, pose = settings.image_size, shop_pose(rng, shot.number)
    flats = [_flat(piece.garment, pose.arm_angle, pose.is_back, size) for piece in pieces]
    projections = _side_by_side(pieces, flats, shop_projection(rng, pose, _extent(pieces, flats), size))
    warped = [_warp(flat, place) for flat, place in zip(flats, projections, strict=True)]
    image = scenery.studio(rng, size)
    if pose.is_worn:
        scenery.draw_body(rng, image, pose, projections[0], is_shop=True, has_shirt=_needs_shirt(pieces))
    image = scenery.cast_shadow(rng, image, warped[0][..., 3])
    image = _compose(rng, image, warped, pieces, fold_depth=0.03)
    seen = _seen(pieces, flats, projections, warped, np.zeros((size, size), np.uint8))
    return Scene(effects.studio_photo(rng, image), int(rng.integers(82, 96)), pose.viewpoint, seen)


def _user_scene(settings: SampleSettings, rng: np.random.Generator, shot: Shot, pieces: list[Piece]) -> Scene:
    size, pose = settings.image_size, user_pose(rng)
    severity = float(min(1.5, settings.difficulty * rng.beta(1.5, 1.7)))
    flats = [_flat(piece.garment, pose.arm_angle, pose.is_back, size) for piece in pieces]
    extent = _extent(pieces, flats)
    main = user_projection(rng, pose, extent, flats[0].landmarks, size, severity)
    projections = _side_by_side(pieces, flats, main)
    warped = [_warp(flat, place) for flat, place in zip(flats, projections, strict=True)]
    image = scenery.room(rng, size, severity)
    if pose.is_worn:
        scenery.draw_body(rng, image, pose, main, is_shop=False, has_shirt=_needs_shirt(pieces))
    image = _compose(rng, image, warped, pieces, fold_depth=0.05 + 0.16 * severity)
    hidden = scenery.cover(rng, image, _box(warped[0][..., 3]), severity)
    seen = _seen(pieces, flats, projections, warped, hidden)
    quality = int(np.clip(80 - 50 * rng.uniform(0, 0.4 + 0.6 * severity), 30, 80))
    photo, degradation = effects.phone_photo(rng, image, severity)
    return Scene(photo, quality, pose.viewpoint, seen, degradation)


@lru_cache(maxsize=FLATS_KEPT)
def _flat(garment: Garment, arm_angle: float, is_back: bool, size: int) -> Flat:
    return draw_flat(garment, arm_angle, is_back, size)


def _needs_shirt(pieces: list[Piece]) -> bool:
    return all(piece.garment.category_id in LOWER for piece in pieces)


def _hangs_beside(pieces: list[Piece]) -> bool:
    """Whether the second garment hangs to the right: a dress leaves no room for it on the body."""
    return len(pieces) == 2 and pieces[0].garment.category_id in DRESSES


def _shift_beside(flats: list[Flat]) -> float:
    return float(flats[0].extent[2] - flats[1].extent[0] + 0.15)


def _extent(pieces: list[Piece], flats: list[Flat]) -> np.ndarray:
    """Returns what must fit in the frame, in body units: left, top, right, bottom."""
    boxes = np.stack([flat.extent for flat in flats])
    if _hangs_beside(pieces):
        boxes[1, [0, 2]] += _shift_beside(flats)
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


def _side_by_side(pieces: list[Piece], flats: list[Flat], projection: Projection) -> list[Projection]:
    if not _hangs_beside(pieces):
        return [projection] * len(pieces)
    shift = np.array([[1, 0, _shift_beside(flats)], [0, 1, 0], [0, 0, 1.0]])
    return [projection, Projection(projection.matrix @ shift, projection.bend)]


def _warp(flat: Flat, projection: Projection) -> np.ndarray:
    return projection.warp(flat.rgba, flat.canvas_from_body)


def _draw_order(pieces: list[Piece]) -> list[int]:
    """Returns positions in `pieces` from the innermost out: lower garments, then what hangs over them."""
    return sorted(range(len(pieces)), key=lambda k: pieces[k].garment.category_id not in LOWER)


def _compose(
    rng: np.random.Generator,
    image: np.ndarray,
    warped: list[np.ndarray],
    pieces: list[Piece],
    fold_depth: float,
) -> np.ndarray:
    for k in _draw_order(pieces):
        cloth = effects.fold(rng, warped[k][..., :3], fold_depth)
        alpha = warped[k][..., 3:] * np.float32(1 / 255)
        image = (image + alpha * (cloth.astype(np.float32) - image)).astype(np.uint8)
    return image


def _seen(
    pieces: list[Piece],
    flats: list[Flat],
    projections: list[Projection],
    warped: list[np.ndarray],
    hidden: np.ndarray,
) -> list[SeenPiece]:
    above, visible = hidden, [np.zeros_like(hidden)] * len(pieces)
    for k in reversed(_draw_order(pieces)):
        visible[k] = np.minimum(warped[k][..., 3], 255 - above)
        above = np.maximum(above, warped[k][..., 3])
    return [
        SeenPiece(piece, warped[k][..., 3], visible[k], projections[k].pixels(flats[k].landmarks))
        for k, piece in enumerate(pieces)
    ]


def _box(alpha: np.ndarray) -> np.ndarray:
    """Returns left, top, right, bottom of a mask; the whole frame if it is empty."""
    rows, columns = np.flatnonzero(alpha.max(axis=1) > 127), np.flatnonzero(alpha.max(axis=0) > 127)
    if len(rows) == 0:
        return np.array([0.0, 0.0, *alpha.shape[::-1]])
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
