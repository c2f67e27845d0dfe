"""The query after an action: the working copy, the processed picture, and the two embeddings together."""

import numpy as np
import pytest
from PIL import Image

from skufp_pipeline.policy.enhance import fuse, processed, working_copy
from skufp_pipeline.policy.settings import ActionSettings

from .examples import garment


def test_a_small_photo_is_its_own_working_copy() -> None:
    photo = garment()
    assert np.array_equal(working_copy(Image.fromarray(photo), ActionSettings(side=96)), photo)


@pytest.mark.parametrize(("size", "shape"), [((1000, 500), (128, 256, 3)), ((300, 4000), (256, 19, 3))])
def test_a_large_photo_keeps_its_proportions(size: tuple[int, int], shape: tuple[int, int, int]) -> None:
    assert working_copy(Image.new("RGB", size, "red"), ActionSettings(side=256)).shape == shape


def test_a_line_of_pixels_stays_a_photo() -> None:
    assert working_copy(Image.new("RGB", (5000, 1)), ActionSettings(side=100)).shape == (1, 100, 3)


def test_the_processed_photo_is_mirrored_where_the_settings_say_so() -> None:
    photo = garment()
    plain, mirrored = (
        np.asarray(processed(photo, "denoise", ActionSettings(mirror=mirror))) for mirror in (False, True)
    )
    assert np.array_equal(mirrored, plain[:, ::-1])
    assert np.array_equal(np.asarray(processed(photo, "identity", ActionSettings())), photo)


def test_two_embeddings_are_weighed_and_of_unit_norm() -> None:
    plain, changed = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert fuse(plain, changed, ActionSettings(weight=0.5)) == pytest.approx(np.full((1, 2), 0.5**0.5))
    assert fuse(plain, changed, ActionSettings(weight=1)) == pytest.approx(changed)
    quarter = fuse(plain, changed, ActionSettings(weight=0.25))
    assert quarter[0, 0] == pytest.approx(3 * quarter[0, 1])
    assert fuse(plain, plain, ActionSettings(weight=0.3)) == pytest.approx(plain)
