from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from skufp_pipeline.training.augment import augment
from skufp_pipeline.training.settings import AugmentationSettings

NOTHING: dict[str, Any] = {
    "crop_scale": (1.0, 1.0),
    "crop_ratio": (1.0, 1.0),
    "flip": 0.0,
    "rotation": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "blur": 0.0,
    "erasing": 0.0,
}
EVERYTHING: dict[str, Any] = {
    "crop_scale": (0.3, 1.0),
    "crop_ratio": (0.5, 2.0),
    "flip": 0.5,
    "rotation": 45.0,
    "brightness": 0.5,
    "contrast": 0.5,
    "saturation": 0.5,
    "blur": 0.5,
    "erasing": 0.5,
}


def change(pixels: Tensor, side: int = 8, seed: int = 0, **settings: Any) -> Tensor:
    chosen = AugmentationSettings(**NOTHING | settings)
    return augment(pixels, (side, side), chosen, Generator().manual_seed(seed))


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(16, 3, 8, 8, generator=Generator().manual_seed(1))


def test_without_augmentations_the_image_stays(pixels: Tensor) -> None:
    torch.testing.assert_close(change(pixels), pixels, atol=1e-5, rtol=0)


def test_the_same_seed_gives_the_same_images_and_another_others(pixels: Tensor) -> None:
    assert change(pixels, **EVERYTHING).equal(change(pixels, **EVERYTHING))
    assert not change(pixels, **EVERYTHING).equal(change(pixels, seed=1, **EVERYTHING))


@pytest.mark.parametrize("side", [5, 8, 13])
def test_images_have_the_side_asked_for_and_stay_in_range(pixels: Tensor, side: int) -> None:
    changed = change(pixels, side, **EVERYTHING)
    assert changed.shape == (16, 3, side, side)
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_the_input_is_not_changed(pixels: Tensor) -> None:
    before = pixels.clone()
    change(pixels, **EVERYTHING)
    assert pixels.equal(before)


def test_a_flip_mirrors_left_and_right(pixels: Tensor) -> None:
    torch.testing.assert_close(change(pixels, flip=1.0), pixels.flip(-1), atol=1e-5, rtol=0)


def test_half_the_images_are_flipped(pixels: Tensor) -> None:
    changed = change(pixels.repeat(10, 1, 1, 1), flip=0.5)
    kept = torch.isclose(changed, pixels.repeat(10, 1, 1, 1), atol=1e-4).flatten(1).all(dim=1)
    assert 60 < int(kept.sum()) < 100


def test_a_crop_keeps_its_share_and_lies_inside_the_image() -> None:
    """On an image whose value is the place, the crop's extent can be read off."""
    ramp = (torch.arange(64) + 0.5).div(64).expand(1, 3, 64, 64)
    for seed in range(20):
        row = change(ramp, side=64, seed=seed, crop_scale=(0.25, 0.25))[0, 0, 32]
        assert (row[-1] - row[0]).item() == pytest.approx(0.5 * 63 / 64, abs=1e-3)
        assert row[0] > 0
        assert row[-1] < 1


def test_rotation_turns_about_the_middle() -> None:
    image = torch.zeros(1, 3, 9, 9)
    image[0, :, 4, 4] = 1
    turned = change(image, side=9, rotation=40.0)
    torch.testing.assert_close(turned[0, :, 4, 4], torch.ones(3))
    dot = torch.zeros(1, 3, 9, 9)
    dot[0, :, 4, 8] = 1
    assert change(dot, side=9, rotation=40.0)[0, 0, 4, 8] < 1


def test_brightness_scales_each_image_by_one_factor(pixels: Tensor) -> None:
    changed = change(0.5 * pixels + 0.1, brightness=0.4) / (0.5 * pixels + 0.1)
    factors = changed.flatten(1)
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors), atol=1e-4, rtol=0)
    assert factors.min() >= 0.6 - 1e-4
    assert factors.max() <= 1.4 + 1e-4
    assert factors[:, 0].std() > 0.1


def test_contrast_keeps_the_mean_and_saturation_keeps_grey() -> None:
    calm = 0.4 + 0.2 * torch.rand(8, 3, 8, 8, generator=Generator().manual_seed(2))
    changed = change(calm, contrast=0.5)
    torch.testing.assert_close(changed.mean(dim=(1, 2, 3)), calm.mean(dim=(1, 2, 3)))
    assert not torch.allclose(changed, calm, atol=1e-2)
    grey = calm[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(change(grey, saturation=0.5), grey, atol=1e-5, rtol=0)
    assert not torch.allclose(change(calm, saturation=0.5), calm, atol=1e-2)


def test_blur_halves_the_resolution() -> None:
    checks = torch.zeros(1, 3, 8, 8)
    checks[..., ::2, ::2] = 1
    checks[..., 1::2, 1::2] = 1
    torch.testing.assert_close(change(checks, blur=1.0), torch.full_like(checks, 0.5), atol=1e-5, rtol=0)


def test_erasing_covers_a_rectangle_with_the_mean_colour() -> None:
    image = torch.rand(1, 3, 32, 32, generator=Generator().manual_seed(3))
    changed = change(image, side=32, erasing=1.0)
    hole = ~torch.isclose(changed, image, atol=1e-4).all(dim=1)[0]
    rows, columns = hole.any(dim=1).nonzero().flatten(), hole.any(dim=0).nonzero().flatten()
    assert 4 <= len(rows) <= 15
    assert 4 <= len(columns) <= 15
    inside = changed[0, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    mean = image.mean(dim=(2, 3))[0, :, None, None].expand_as(inside)
    torch.testing.assert_close(inside, mean, atol=1e-4, rtol=0)


def test_the_output_may_be_a_rectangle_that_holds_the_whole_image() -> None:
    ramp = (torch.arange(32) + 0.5).div(32).view(1, 1, 32, 1).expand(1, 3, 32, 32)
    tall = augment(ramp, (64, 16), AugmentationSettings(**NOTHING), Generator().manual_seed(0))
    assert tall.shape == (1, 3, 64, 16)
    assert tall[0, 0, 0, 0] < 0.02
    assert tall[0, 0, -1, 0] > 0.98


def test_the_erased_part_has_the_shape_of_the_image() -> None:
    image = torch.rand(1, 3, 32, 32, generator=Generator().manual_seed(3))
    settings = [AugmentationSettings(**NOTHING | {"erasing": share}) for share in (0.0, 1.0)]
    plain, erased = (augment(image, (64, 32), chosen, Generator().manual_seed(0)) for chosen in settings)
    hole = ~torch.isclose(plain, erased, atol=1e-4).all(dim=1)[0]
    rows, columns = hole.any(dim=1).sum().item(), hole.any(dim=0).sum().item()
    assert abs(rows - 2 * columns) <= 2


def test_edges_of_a_box_are_moved_and_of_an_item_without_one_are_not() -> None:
    """The item is the middle half of the image: 0 to 1 on it, a ramp from -0.5 to 1.5 over all."""
    ramp = ((torch.arange(64) + 0.5) / 32 - 0.5).view(1, 1, 1, 64).expand(200, 3, 64, 64)
    settings = AugmentationSettings(**NOTHING | {"box_jitter": 0.5})
    boxed = torch.arange(200) < 100

    def ends(boxed: Tensor) -> Tensor:
        """Where the first and the last of 16 columns lie on the ramp, before it is clamped."""
        grid = augment(ramp / 4 + 0.25, (16, 16), settings, Generator().manual_seed(0), boxed)
        return ((grid - 0.25) * 4)[:, 0, 0, [0, -1]]

    found = ends(boxed)
    torch.testing.assert_close(found[~boxed], torch.tensor([[1 / 32, 31 / 32]]).expand(100, 2))
    low, high = found[boxed].unbind(dim=1)
    assert -0.5 < low.min() < -0.4
    assert 0.4 < low.max() < 0.56, "by half of the item at most, and half a pixel of the output"
    assert 0.44 < high.min() < 0.6
    assert 1.4 < high.max() < 1.5
    assert abs(float(np.corrcoef(low, high)[0, 1])) < 0.4, "each edge by itself"
