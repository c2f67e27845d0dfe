"""Synthetic photos: what they show, where, and that a seed decides every byte."""

import numpy as np
import pytest

from skufp_pipeline.camera.settings import CameraSettings
from skufp_pipeline.camera.synthetic import (
    CataloguePicture,
    light_crop,
    procedural_background,
    product_mask,
    synthetic_photo,
)
from skufp_pipeline.randomness import generator

SIDE = 96
CLEAN = CameraSettings(
    severity=0, size=(0.5, 0.5), turn=0, tilt=0, cut_out=1, pieces=0, occluder=0, glare=0, jpeg=(95, 95)
)


def a_disc(side: int = 128) -> np.ndarray:
    """A red disc of half the side on white."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    picture = np.full((side, side, 3), 255, np.uint8)
    picture[np.hypot(x, y) < side / 4] = (200, 20, 20)
    return picture


def redness(pixels: np.ndarray) -> np.ndarray:
    red, green = pixels[..., 0].astype(int), pixels[..., 1].astype(int)
    return red - green > 60


def test_a_plain_background_is_told_from_the_product() -> None:
    mask = product_mask(a_disc())
    assert mask is not None
    assert mask[64, 64] == 255
    assert mask[3, 3] == 0
    assert mask.mean() / 255 == pytest.approx(np.pi / 16, abs=0.03)


def test_a_hole_in_the_product_is_no_background() -> None:
    ring = a_disc()
    ring[60:68, 60:68] = 255
    mask = product_mask(ring)
    assert mask is not None
    assert mask[64, 64] == 255


def test_a_picture_without_a_plain_border_has_no_mask() -> None:
    noise = generator(0, "noise").integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert product_mask(noise) is None
    assert product_mask(np.full((64, 64, 3), 255, np.uint8)) is None  # nothing but background


def test_the_box_holds_the_product_and_little_else() -> None:
    picture, grey = CataloguePicture(a_disc()), np.full((50, 70, 3), 128, np.uint8)
    for number in range(12):
        photo = synthetic_photo(generator(number, "box"), picture, grey, SIDE, CLEAN)
        seen = redness(photo.pixels)
        x1, y1, x2, y2 = photo.box
        x1, y1, x2, y2 = max(x1 - 1, 0), max(y1 - 1, 0), x2 + 1, y2 + 1  # the camera is a little out of focus
        assert seen.any()
        assert seen[y1:y2, x1:x2].sum() >= 0.97 * seen.sum()
        assert seen[y1:y2, x1:x2].mean() > 0.5


def test_a_wide_product_stays_wide() -> None:
    def shape(aspect: float) -> float:
        boxes = [
            synthetic_photo(generator(n, "shape"), CataloguePicture(a_disc(), aspect), None, 192, CLEAN).box
            for n in range(30)
        ]
        inside = [
            (x2 - x1) / (y2 - y1) for x1, y1, x2, y2 in boxes if x1 > 0 and y1 > 0 and x2 < 192 and y2 < 192
        ]
        return float(np.median(inside))

    assert shape(2.0) == pytest.approx(2 * shape(1.0), rel=0.2)
    assert shape(0.5) == pytest.approx(0.5 * shape(1.0), rel=0.2)


def test_a_seed_decides_every_byte() -> None:
    picture, other = CataloguePicture(a_disc()), procedural_background(generator(1, "other"), 80)
    one, same, another = (
        synthetic_photo(generator(seed, "bytes"), picture, other, SIDE, CameraSettings())
        for seed in (1, 1, 2)
    )
    assert np.array_equal(one.pixels, same.pixels)
    assert one.box == same.box
    assert not np.array_equal(one.pixels, another.pixels)


@pytest.mark.parametrize("severity", [0.0, 0.5, 1.0])
def test_every_photo_is_whole_and_its_box_inside(severity: float) -> None:
    settings = CameraSettings(severity=severity, pieces=0.5, occluder=0.5, glare=0.5)
    picture = CataloguePicture(a_disc(40), 0.3)
    for number in range(40):
        background = None if number % 2 else a_disc(30 + number)
        photo = synthetic_photo(generator(number, "whole"), picture, background, 64, settings)
        x1, y1, x2, y2 = photo.box
        assert photo.pixels.shape == (64, 64, 3)
        assert photo.pixels.dtype == np.uint8
        assert 0 <= x1 < x2 <= 64
        assert 0 <= y1 < y2 <= 64


def test_severity_moves_photos_away_from_the_picture() -> None:
    picture, grey = CataloguePicture(a_disc()), np.full((8, 8, 3), 128, np.uint8)

    def distance(severity: float) -> float:
        settings = CLEAN.model_copy(update={"severity": severity})
        pairs = [
            (
                synthetic_photo(generator(n, "far"), picture, grey, SIDE, settings).pixels,
                synthetic_photo(generator(n, "far"), picture, grey, SIDE, CLEAN).pixels,
            )
            for n in range(10)
        ]
        return float(np.mean([np.abs(a.astype(int) - b).mean() for a, b in pairs]))

    assert distance(1.0) > distance(0.4) > 2


def test_a_light_crop_is_nearly_the_picture() -> None:
    picture = CataloguePicture(a_disc())
    crop = light_crop(generator(0, "light"), picture, 128)
    assert crop.shape == (128, 128, 3)
    assert (redness(crop) == redness(picture.pixels)).mean() > 0.85


def test_ranges_must_be_ordered() -> None:
    with pytest.raises(ValueError, match="size"):
        CameraSettings(size=(1.0, 0.5))
