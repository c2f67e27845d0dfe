"""Silhouettes as polygons in body units, front or back, with the arms at a given angle.

Body units: x to the right from the middle of the body, y down from the base of the neck. Shoulders are
at (+-0.42, 0.09), the waist at 0.85, the hips at 1.2, the knees at 2.05, the ankles at 2.85.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from skufp_pipeline.datasets.sample.garments import DRESSES, LOWER, SLINGS, Garment, Silhouette

ARMPIT_Y, WAIST_Y, HIP_Y, CROTCH_Y, SHOULDER_Y = 0.45, 0.85, 1.2, 1.38, 0.09
SLING_TOP_Y = 0.2

Points = np.ndarray  # (N, 2) float64


@dataclass(frozen=True)
class Outline:
    """A garment's shape."""

    torso: Points  # polygon of the trunk, or of the whole of a lower garment
    limbs: tuple[Points, ...]  # polygons of sleeves or straps, separate since they may overlap the trunk
    path: Points  # closed line around everything, starting at the top centre; landmarks lie on it
    neck: Points  # open line of the neckline or waistband, left to right
    hems: tuple[Points, ...]  # open lines of the hem and cuffs


def outline_of(garment: Garment, arm_angle: float, is_back: bool) -> Outline:
    """Returns the outline of a garment whose sleeves hang at `arm_angle` radians from the vertical."""
    shape = garment.silhouette
    if garment.category_id == 9:
        return _skirt(shape)
    if garment.category_id in LOWER:
        return _trousers(shape, spread=0.12 * arm_angle)
    if garment.category_id in SLINGS:
        return _sling(shape, garment.category_id in DRESSES)
    return _top(shape, garment.category_id in DRESSES, arm_angle, is_back)


def _top(shape: Silhouette, is_dress: bool, arm_angle: float, is_back: bool) -> Outline:
    neck = _neckline(shape, is_back)
    tip, armpit = np.array([shape.shoulder, SHOULDER_Y]), np.array([shape.chest, ARMPIT_Y])
    side, hem = _side(shape, armpit, is_dress), _hem(shape)
    armhole = _curve(tip, [min(shape.shoulder, shape.chest) * 0.88, 0.36], armpit)
    torso = np.concatenate([neck, armhole, side, hem])
    sleeve = _sleeve(shape, tip, armpit, arm_angle)
    edge = armhole if sleeve is None else sleeve[1:]
    path = np.concatenate([neck, edge, side, hem])
    cuffs = () if sleeve is None else (sleeve[2:4], _mirror(sleeve[2:4]))
    return Outline(
        torso=_closed(torso),
        limbs=() if sleeve is None else (sleeve, _mirror(sleeve)),
        path=_closed(path),
        neck=np.concatenate([_mirror(neck)[::-1], neck]),
        hems=(np.concatenate([hem, _mirror(hem)[::-1]]), *cuffs),
    )


def _sleeve(shape: Silhouette, tip: Points, armpit: Points, angle: float) -> Points | None:
    """Returns the corners: inside the shoulder, its tip, outer cuff, inner cuff, inside the armpit."""
    if shape.sleeve_length == 0:
        return None
    along, across = np.array([np.sin(angle), np.cos(angle)]), np.array([-np.cos(angle), np.sin(angle)])
    outer = tip + shape.sleeve_length * along
    inside_shoulder, inside_armpit = tip - np.array([0.06, 0.03]), armpit + np.array([-0.04, 0.03])
    return np.stack([inside_shoulder, tip, outer, outer + shape.cuff * across, inside_armpit])


def _sling(shape: Silhouette, is_dress: bool) -> Outline:
    strap_x, armpit = shape.chest * 0.62, np.array([shape.chest, ARMPIT_Y])
    dip = [0.0, SLING_TOP_Y + shape.neck_depth * 0.6]
    neck = _curve(dip, [strap_x * 0.5, dip[1]], [strap_x - 0.03, SLING_TOP_Y])
    armhole = _curve([strap_x + 0.03, SLING_TOP_Y], [strap_x + 0.06, 0.38], armpit)
    side, hem = _side(shape, armpit, is_dress), _hem(shape)
    shoulder_x = strap_x * 0.85
    strap = np.array(
        [[strap_x - 0.03, 0.24], [shoulder_x - 0.03, 0.0], [shoulder_x + 0.03, 0.0], [strap_x + 0.03, 0.24]]
    )
    return Outline(
        torso=_closed(np.concatenate([neck, armhole, side, hem])),
        limbs=(strap, _mirror(strap)),
        path=_closed(np.concatenate([neck, strap[1:3], armhole, side, hem])),
        neck=np.concatenate([_mirror(neck)[::-1], neck]),
        hems=(np.concatenate([hem, _mirror(hem)[::-1]]),),
    )


def _skirt(shape: Silhouette) -> Outline:
    waistband = np.array([[0.0, shape.top], [shape.waist, shape.top]])
    side = _curve(waistband[1], [max(0.4, shape.waist), HIP_Y], [shape.hem, shape.length])
    return _lower_outline(waistband, np.concatenate([side, _hem(shape)]), _hem(shape))


def _trousers(shape: Silhouette, spread: float) -> Outline:
    waistband = np.array([[0.0, shape.top], [shape.waist, shape.top]])
    centre = 0.2 + spread * (shape.length - CROTCH_Y)
    outer = np.array([max(centre, shape.hem + 0.02) + shape.hem, shape.length])
    inner = outer - [2 * shape.hem, 0]
    side = _curve(waistband[1], [0.42, HIP_Y], outer)
    leg_end = np.stack([outer, inner])
    return _lower_outline(waistband, np.concatenate([side, [inner], [[0.0, CROTCH_Y]]]), leg_end)


def _lower_outline(waistband: Points, rest: Points, hem: Points) -> Outline:
    torso = _closed(np.concatenate([waistband, rest]))
    band = np.concatenate([_mirror(waistband)[::-1], waistband])
    return Outline(torso=torso, limbs=(), path=torso, neck=band, hems=(hem, _mirror(hem)))


def _neckline(shape: Silhouette, is_back: bool) -> Points:
    """Returns the neckline from its centre to its right end."""
    width, depth = shape.neck_width, 0.05 if is_back else shape.neck_depth
    end = [width, 0.0]
    if shape.neckline == "high":
        return np.array([[0.0, -0.09], [width * 0.75, -0.09], end])
    if is_back or shape.neckline == "round":
        return _curve([0.0, depth], [width * 0.95, depth], end)
    if shape.neckline == "v":
        return np.array([[0.0, depth * 1.35], end])
    if shape.neckline == "square":
        return np.array([[0.0, depth], [width * 0.9, depth], end])
    return _curve([0.0, 0.07], [width * 1.2, 0.07], [width * 1.45, 0.02])


def _side(shape: Silhouette, armpit: Points, is_dress: bool) -> Points:
    """Returns the side from the armpit down to the hem."""
    hem = [shape.hem, shape.length]
    if not is_dress:
        return _curve(armpit, [shape.waist, WAIST_Y], hem)
    waist = [shape.waist, WAIST_Y]
    bodice = _curve(armpit, [(armpit[0] + shape.waist) / 2 - 0.02, 0.7], waist)
    return np.concatenate([bodice, _curve(waist, [max(0.42, shape.waist), HIP_Y], hem)])


def _hem(shape: Silhouette) -> Points:
    """Returns the hem from its right end to its centre."""
    bottom = shape.length + shape.hem_curve
    return _curve([shape.hem, shape.length], [shape.hem * 0.5, bottom], [0.0, bottom])


def _curve(start: ArrayLike, control: ArrayLike, end: ArrayLike, steps: int = 6) -> Points:
    """Returns points of a quadratic Bezier curve, both ends included: (steps, 2)."""
    t = np.linspace(0, 1, steps)[:, None]
    return (1 - t) ** 2 * np.asarray(start) + 2 * t * (1 - t) * np.asarray(control) + t**2 * np.asarray(end)


def _mirror(points: Points) -> Points:
    return points * [-1.0, 1.0]


def _closed(right_half: Points) -> Points:
    """Completes a polygon from its right half, which runs from the top centre to the bottom centre."""
    return np.concatenate([right_half, _mirror(right_half)[::-1]])
