import cv2
import numpy as np
import pytest

from skufp_pipeline.camera.effects import encode_jpeg, fold, phone_photo, studio_photo
from skufp_pipeline.randomness import generator

STRIPES = np.tile(np.repeat([[60, 190]], 8, axis=1).repeat(96, axis=0)[..., None], (1, 6, 3)).astype(np.uint8)


def mean_change(severity: float) -> float:
    changes = [phone_photo(generator(1, k), STRIPES, severity)[0].astype(float) - STRIPES for k in range(40)]
    return float(np.abs(changes).mean())


def test_a_phone_photo_is_spoilt_in_proportion_to_severity() -> None:
    mild, medium, severe = (mean_change(severity) for severity in (0.0, 0.5, 1.0))
    assert mild < 20
    assert mild < medium < severe


def test_a_studio_photo_changes_little() -> None:
    changes = [studio_photo(generator(1, k), STRIPES).astype(float) - STRIPES for k in range(40)]
    assert np.abs(changes).mean() < 10


def test_folds_change_brightness_smoothly_and_not_on_average() -> None:
    grey = np.full((96, 96, 3), 120, np.uint8)
    folded = np.stack([fold(generator(1, k), grey, 0.1) for k in range(40)]).astype(float)
    assert abs(folded.mean() - 120) < 3
    assert folded.std() > 4
    assert np.abs(np.diff(folded, axis=1)).max() < 25


def test_jpeg_keeps_the_order_of_the_channels() -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    decoded = cv2.imdecode(np.frombuffer(encode_jpeg(red, 95), np.uint8), cv2.IMREAD_COLOR)
    assert decoded[8, 8, 2] > 250, "red is OpenCV's last channel"
    assert decoded[8, 8, 0] < 5


def test_the_recorded_noise_exposure_and_cast_are_those_of_the_photo() -> None:
    flat = np.full((96, 96, 3), 110, np.uint8)
    photos, told = zip(*(phone_photo(generator(1, k), flat, 0.6) for k in range(60)), strict=True)
    assert all(degradation.severity == 0.6 for degradation in told)
    grain = [np.diff(photo.astype(float), axis=1).std() / np.sqrt(2) for photo in photos]
    assert grain == pytest.approx([max(degradation.noise, 0.3) for degradation in told], rel=0.25)
    brightness = [photo.mean() for photo in photos]
    assert np.corrcoef(brightness, [degradation.exposure for degradation in told])[0, 1] > 0.6
    cast = [np.log(photo.mean(axis=(0, 1)) + 1).std() for photo in photos]
    assert np.corrcoef(cast, [degradation.cast for degradation in told])[0, 1] > 0.8


def test_the_recorded_blur_is_stronger_where_edges_are_softer() -> None:
    photos, told = zip(*(phone_photo(generator(2, k), STRIPES, 0.6) for k in range(60)), strict=True)
    soft = np.array([degradation.blur + degradation.shake for degradation in told])
    steepest = np.array([np.abs(np.diff(photo.astype(float), axis=1)).max() for photo in photos])
    assert steepest[soft == 0].mean() > steepest[soft > 0.015].mean() + 10
    assert {degradation.resolution for degradation in told if degradation.resolution > 0.92} == {1.0}
