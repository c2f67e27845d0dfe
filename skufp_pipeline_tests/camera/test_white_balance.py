"""The colour cast of a picture: estimated and removed as can be worked out by hand."""

import numpy as np
import pytest

from skufp_pipeline.camera.white_balance import balanced, cast_gains


def plain(*colour: int) -> np.ndarray:
    return np.full((3, 5, 3), colour, np.uint8)


def test_the_gains_make_a_plain_picture_grey_and_keep_its_brightness() -> None:
    assert cast_gains(plain(100, 120, 80)) == pytest.approx([1, 100 / 120, 100 / 80])
    assert balanced(plain(100, 120, 80), 1.0)[1, 2].tolist() == [100, 100, 100]


def test_a_strong_tint_is_taken_for_the_garments_own() -> None:
    assert cast_gains(plain(200, 10, 10)).max() == 1.6
    assert balanced(plain(200, 10, 10), 1.0)[0, 0].tolist() == [round(200 / 1.6), 16, 16]


def test_a_share_is_removed_in_the_logarithm_of_the_gains() -> None:
    half = balanced(plain(100, 121, 100), 0.5)[0, 0]
    light = 107 / np.array([100, 121, 100])
    assert half.tolist() == np.round(np.array([100, 121, 100]) * np.sqrt(light)).tolist()
    picture = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    assert np.array_equal(balanced(picture, 0.0), picture)


def test_a_grey_and_a_black_picture_stay_as_they_are() -> None:
    for picture in (plain(90, 90, 90), plain(0, 0, 0)):
        assert np.array_equal(balanced(picture, 1.0), picture)
