"""Training augmentations (App. B) on batches of tensors, on the device that holds them.

Every random number comes from the given generator, so an epoch can be repeated exactly.
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from skufp_pipeline.training.settings import AugmentationSettings

_LUMA = (0.299, 0.587, 0.114)


def augment(
    pixels: Tensor,
    size: tuple[int, int],
    settings: AugmentationSettings,
    generator: Generator,
    boxed: Tensor | None = None,
) -> Tensor:
    """Augments images (B, 3, S, S) in [0, 1] to (B, 3, *size) in [0, 1]; `size` is height, width in pixels.

    Crop, flip, rotation and resizing are one affine sampling; the aspect ratio is not kept.

    Args:
        boxed: (B,) whether an image's item has a box, whose edges are moved; None if the images are items
            alone. Otherwise the item is in the middle, with the share `box_jitter` of it around at each side.
    """
    theta = _affine(len(pixels), settings, generator)
    if boxed is not None:
        theta = _within_moved_boxes(theta, settings.box_jitter, boxed, generator)
    theta = theta.to(pixels.device)
    grid = F.affine_grid(theta, [len(pixels), 3, *size], align_corners=False)
    images = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    images = _jitter(images, settings, generator)
    if settings.blur:
        images = _blur(images, settings.blur, generator)
    if settings.erasing:
        images = _erase(images, settings.erasing, generator)
    return images.clamp_(0, 1)


def _uniform(low: float, high: float, count: int, generator: Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def _affine(count: int, settings: AugmentationSettings, generator: Generator) -> Tensor:
    """Returns (B, 2, 3) affine maps from output to input coordinates in [-1, 1]."""
    area = _uniform(*settings.crop_scale, count, generator)
    log_ratio = _uniform(math.log(settings.crop_ratio[0]), math.log(settings.crop_ratio[1]), count, generator)
    width = (area * log_ratio.exp()).sqrt().clamp(max=1)
    height = (area / log_ratio.exp()).sqrt().clamp(max=1)
    x = _uniform(-1, 1, count, generator) * (1 - width)
    y = _uniform(-1, 1, count, generator) * (1 - height)
    mirror = 1 - 2 * (torch.rand(count, generator=generator) < settings.flip).float()
    angle = torch.deg2rad(_uniform(-settings.rotation, settings.rotation, count, generator))
    cos, sin = angle.cos(), angle.sin()
    rows = torch.stack([width * mirror * cos, -width * sin, x, height * mirror * sin, height * cos, y], dim=1)
    return rows.view(count, 2, 3)


def _within_moved_boxes(theta: Tensor, jitter: float, boxed: Tensor, generator: Generator) -> Tensor:
    """Returns maps that sample of moved boxes what `theta` samples of whole images."""
    moves = 2 * jitter * (2 * torch.rand(len(theta), 2, 2, generator=generator) - 1)  # (B, low and high, x y)
    low, high = (moves * boxed[:, None, None] + torch.tensor([[-1.0], [1.0]])).unbind(dim=1)
    centre, half = ((low + high) / 2)[:, :, None], ((high - low) / 2)[:, :, None]
    moved = torch.cat([half * theta[:, :, :2], half * theta[:, :, 2:] + centre], dim=2)
    return moved / (1 + 2 * jitter)


def _factors(strength: float, images: Tensor, generator: Generator) -> Tensor:
    factors = _uniform(1 - strength, 1 + strength, len(images), generator)
    return factors.to(images.device).view(-1, 1, 1, 1)


def _jitter(images: Tensor, settings: AugmentationSettings, generator: Generator) -> Tensor:
    """Changes brightness, contrast and saturation of (B, 3, H, W) in place."""
    images.mul_(_factors(settings.brightness, images, generator))
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images.sub_(mean).mul_(_factors(settings.contrast, images, generator)).add_(mean)
    luma = images.new_tensor(_LUMA).view(1, 3, 1, 1)
    grey = (images * luma).sum(dim=1, keepdim=True)
    return images.sub_(grey).mul_(_factors(settings.saturation, images, generator)).add_(grey)


def _blur(images: Tensor, probability: float, generator: Generator) -> Tensor:
    chosen = (torch.rand(len(images), generator=generator) < probability).to(images.device)
    small = F.avg_pool2d(images, 2)
    coarse = F.interpolate(small, size=images.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(chosen.view(-1, 1, 1, 1), coarse, images)


def _erase(images: Tensor, probability: float, generator: Generator) -> Tensor:
    """Random erasing (Zhong et al., 2017): fills a random rectangle with the image's mean colour."""
    count, (height, width) = len(images), images.shape[-2:]
    chosen = torch.rand(count, generator=generator) < probability
    share = _uniform(0.15, 0.45, count, generator)
    columns = _span(width, share, torch.rand(count, generator=generator))
    rows = _span(height, share, torch.rand(count, generator=generator))
    hole = (rows[:, :, None] & columns[:, None, :] & chosen[:, None, None]).to(images.device)
    return torch.where(hole[:, None], images.mean(dim=(2, 3), keepdim=True), images)


def _span(length: int, share: Tensor, position: Tensor) -> Tensor:
    """Returns (B, length) masks of one interval each: `share` of the length, at relative `position`."""
    size = share * length
    first = position * (length - size)
    positions = torch.arange(length)
    return (positions >= first[:, None]) & (positions < (first + size)[:, None])
