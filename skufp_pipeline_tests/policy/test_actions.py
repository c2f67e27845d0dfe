"""Seven pure functions of a photo: shapes, range, the same bytes twice, and what each is there for."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skufp_pipeline.policy.actions import ACTIONS, IDENTITY, apply_action, luminance, smart_crop
from skufp_pipeline.policy.settings import ActionSettings

from .examples import garment, off_centre

SETTINGS = ActionSettings()
CROPS = {"smart_crop", "centre_crop"}
DONE = ActionSettings(exposure=0.5, exposure_share=1, white_balance=1, contrast=0)


def test_there_are_seven_and_identity_is_the_first() -> None:
    assert ACTIONS == (
        "identity", "smart_crop", "centre_crop", "denoise", "sharpen", "exposure", "white_balance",
    )  # fmt: skip


def test_identity_is_the_identity() -> None:
    photo = garment()
    assert apply_action(IDENTITY, photo, SETTINGS) is photo


@pytest.mark.parametrize("action", ACTIONS)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 3))
def test_a_photo_of_any_size_stays_a_photo(action: str, height: int, width: int, seed: int) -> None:
    photo = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = photo.copy()
    changed = apply_action(action, photo, SETTINGS)
    assert changed.dtype == np.uint8
    if action in CROPS:
        assert 1 <= changed.shape[0] <= height
        assert 1 <= changed.shape[1] <= width
    else:
        assert changed.shape == photo.shape
    assert np.array_equal(photo, before), "the photo itself is left alone"
    assert np.array_equal(apply_action(action, photo, SETTINGS), changed), "twice the same bytes"


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_photo_of_one_colour_stays_one(action: str, level: int) -> None:
    changed = apply_action(action, np.full((20, 30, 3), level, np.uint8), SETTINGS)
    assert len(np.unique(changed.reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize(
    ("action", "photo"),
    [
        ("blur", np.zeros((4, 4, 3), np.uint8)),
        ("denoise", np.zeros((4, 4), np.uint8)),
        ("denoise", np.zeros((4, 4, 3), np.float32)),
        ("denoise", np.zeros((0, 4, 3), np.uint8)),
    ],
)
def test_what_is_no_action_or_no_photo_is_refused(action: str, photo: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        apply_action(action, photo, SETTINGS)


def test_crops_keep_the_share_they_are_told_to() -> None:
    settings = ActionSettings(smart_crop=0.5, centre_crop=0.25)
    photo = garment(height=80, width=60)
    assert apply_action("smart_crop", photo, settings).shape == (40, 30, 3)
    assert apply_action("centre_crop", photo, settings).shape == (20, 15, 3)


def test_a_centre_crop_is_the_middle() -> None:
    photo = np.zeros((8, 8, 3), np.uint8)
    photo[2:6, 2:6] = 9
    assert (apply_action("centre_crop", photo, ActionSettings(centre_crop=0.5)) == 9).all()


def test_a_smart_crop_goes_where_something_is() -> None:
    photo = off_centre(top=40, left=2)
    kept = smart_crop(photo, ActionSettings(smart_crop=0.5))
    red = (photo[..., 0] == 220).sum()
    assert (kept[..., 0] == 220).sum() == red, "the whole square"
    assert (apply_action("centre_crop", photo, ActionSettings(centre_crop=0.5))[..., 0] == 220).sum() < red


def test_denoising_takes_noise_away_and_leaves_edges() -> None:
    clean = off_centre()
    noisy = np.clip(clean + np.random.default_rng(0).normal(0, 6, clean.shape), 0, 255).astype(np.uint8)
    better = apply_action("denoise", noisy, SETTINGS)
    flat = np.s_[:30, 30:]
    assert better[flat].std() < 0.6 * noisy[flat].std()
    edge = better[44, 19:21, 0].astype(int)  # the square's last column and the ground
    assert edge[0] - edge[1] > 80


def test_sharpening_makes_edges_steeper() -> None:
    soft = cv2.GaussianBlur(garment(), (0, 0), 1.5)
    steeper = apply_action("sharpen", soft, SETTINGS)
    assert (
        cv2.Laplacian(luminance(steeper), cv2.CV_32F).var() > cv2.Laplacian(luminance(soft), cv2.CV_32F).var()
    )


@pytest.mark.parametrize("gain", [0.5, 0.65, 1.3])
def test_exposure_brings_brightness_nearer_to_what_is_aimed_at(gain: float) -> None:
    photo = np.clip(garment() * gain, 0, 255).astype(np.uint8)
    before, after = (
        abs(luminance(p).mean() / 255 - 0.5) for p in (photo, apply_action("exposure", photo, DONE))
    )
    assert after < before


def test_white_balance_takes_a_cast_away() -> None:
    photo = garment()
    cast = np.clip(photo * np.array([1.25, 1.0, 0.8]), 0, 255).astype(np.uint8)
    balanced = apply_action("white_balance", cast, DONE)
    ground = np.s_[:15, :15]
    assert np.ptp(cast[ground].mean(axis=(0, 1))) > 60
    assert np.ptp(balanced[ground].mean(axis=(0, 1))) < 20


def test_contrast_stretches_a_hazy_photo() -> None:
    hazy = (garment() * 0.4 + 120).astype(np.uint8)
    clear = apply_action("white_balance", hazy, ActionSettings(white_balance=0, contrast=1))
    assert clear.std() > 1.5 * hazy.std()


def test_without_strength_nothing_changes() -> None:
    nothing = ActionSettings(
        smart_crop=1, centre_crop=1, sharpen=0, exposure_share=0, white_balance=0, contrast=0
    )
    photo = garment()
    for action in set(ACTIONS) - {"denoise"}:
        assert np.array_equal(apply_action(action, photo, nothing), photo), action
