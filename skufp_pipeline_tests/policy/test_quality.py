"""Each quality feature answers the degradation that it is there for."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skufp_pipeline.policy.quality import FEATURES, noise_level, quality_features

from .examples import Photo, garment


def feature(name: str, photo: Photo) -> float:
    height, width = photo.shape[:2]
    return float(quality_features(photo, width, height)[FEATURES.index(name)])


def as_photo(values: np.ndarray) -> Photo:
    return np.clip(values, 0, 255).astype(np.uint8)


SPOILT = {
    "blur": lambda photo: cv2.GaussianBlur(photo, (0, 0), 2),
    "noise": lambda photo: as_photo(photo + np.random.default_rng(0).normal(0, 12, photo.shape)),
    "dark": lambda photo: as_photo(photo * 0.4),
    "bright": lambda photo: as_photo(photo * 1.8),
    "haze": lambda photo: as_photo(photo * 0.5 + 100),
    "grey": lambda photo: np.repeat(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2),
    "warm": lambda photo: as_photo(photo * [1.2, 1.0, 0.75]),
    "green": lambda photo: as_photo(photo * [0.8, 1.1, 0.9]),
}


@pytest.mark.parametrize(
    ("spoilt", "name", "direction"),
    [
        ("blur", "sharpness", -1),
        ("noise", "sharpness", 1),
        ("noise", "noise", 1),
        ("blur", "noise", -1),
        ("dark", "brightness", -1),
        ("dark", "clipped_dark", 0),
        ("bright", "brightness", 1),
        ("bright", "clipped_bright", 1),
        ("haze", "contrast", -1),
        ("haze", "saturation", -1),
        ("grey", "saturation", -1),
        ("warm", "cast_yellow_blue", 1),
        ("green", "cast_red_green", -1),
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_degradation_moves_its_feature(spoilt: str, name: str, direction: int, seed: int) -> None:
    photo = garment(seed)
    before, after = feature(name, photo), feature(name, SPOILT[spoilt](photo))
    assert np.sign(round(after - before, 6)) == direction, (before, after)


def test_the_noise_estimate_is_in_grey_levels() -> None:
    for deviation in (3.0, 8.0, 15.0):
        grey = 128 + np.random.default_rng(0).normal(0, deviation, (128, 128))
        assert noise_level(grey.astype(np.float32)) == pytest.approx(deviation, rel=0.1)


def test_features_of_a_grey_card_are_known() -> None:
    card = np.full((40, 80, 3), 51, np.uint8)
    found = dict(zip(FEATURES, quality_features(card, 800, 400).tolist(), strict=True))
    assert found["brightness"] == pytest.approx(0.2, abs=1e-6)
    for name in (
        "sharpness",
        "contrast",
        "saturation",
        "noise",
        "clipped_dark",
        "clipped_bright",
        "border_edges",
    ):
        assert found[name] == 0, name
    assert (found["cast_red_green"], found["cast_yellow_blue"]) == (0, 0)
    assert found["aspect"] == pytest.approx(np.log(2))
    assert found["size"] == pytest.approx(np.log2(np.sqrt(800 * 400)))


def test_shares_of_clipped_pixels_are_counted() -> None:
    photo = np.full((10, 10, 3), 128, np.uint8)
    photo[0], photo[1:3] = 0, 255
    assert feature("clipped_dark", photo) == pytest.approx(0.1)
    assert feature("clipped_bright", photo) == pytest.approx(0.2)


def test_busy_surroundings_are_told_from_a_busy_middle() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (60, 60, 3), dtype=np.uint8)
    middle, around = np.full((2, 60, 60, 3), 128, np.uint8)
    middle[15:45, 15:45] = noise[15:45, 15:45]
    around[:] = noise
    around[10:50, 10:50] = 128
    assert feature("border_edges", middle) < 0 < feature("border_edges", around)


@given(height=st.integers(1, 30), width=st.integers(1, 30), level=st.integers(0, 255))
def test_features_of_any_photo_are_finite(height: int, width: int, level: int) -> None:
    rng = np.random.default_rng(level)
    for photo in (np.full((height, width, 3), level), rng.integers(0, 256, (height, width, 3))):
        found = quality_features(photo.astype(np.uint8), width, height)
        assert found.shape == (len(FEATURES),)
        assert np.isfinite(found).all()
