import cv2
import numpy as np

from skufp_pipeline.datasets.sample.camera import encode_jpeg, fold, phone_photo, studio_photo
from skufp_pipeline.datasets.sample.randomness import generator

STRIPES = np.tile(np.repeat([[60, 190]], 8, axis=1).repeat(96, axis=0)[..., None], (1, 6, 3)).astype(np.uint8)


def mean_change(severity: float) -> float:
    changes = [phone_photo(generator(1, k), STRIPES, severity).astype(float) - STRIPES for k in range(40)]
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
