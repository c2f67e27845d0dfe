"""Shared parts of diffusion training: latents of crops, noise at random timesteps, noise-prediction loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from skufp_pipeline.progress import Progress
from skufp_pipeline.training.pixels import decode_squares
from skufp_pipeline.views.pipeline import Pipeline, encode_prompts

_ENCODE_BATCH = 16


@dataclass(frozen=True)
class PromptedCrops:
    """Decoded crops (N, S, S, 3) uint8 and a prompt for each."""

    pixels: NDArray[np.uint8]
    prompts: Sequence[str]


@dataclass(frozen=True)
class Latents:
    """Mean and standard deviation, (N, C, s, s) each, of the VAE posterior of crops, scaled for the UNet."""

    mean: Tensor
    deviation: Tensor

    def draw(self, chosen: Tensor, generator: Generator) -> Tensor:
        """Samples (B, C, s, s) latents on the CPU."""
        mean = self.mean[chosen]
        return mean + self.deviation[chosen] * torch.randn(mean.shape, generator=generator)


def prompted_crops(
    views: pl.DataFrame, side: int, target: Path, progress: Progress | None = None
) -> PromptedCrops:
    """Decodes the crops of `views` (`path`, `prompt`) to squares, once, into the file `target`."""
    pixels = decode_squares([Path(path) for path in views["path"]], side, target, progress)
    return PromptedCrops(pixels, views["prompt"].to_list())


def unit_range(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Converts (B, S, S, 3) uint8 to (B, 3, S, S) in [-1, 1]."""
    tensor = torch.from_numpy(np.array(pixels)).to(device)
    return tensor.permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def encode_latents(pipeline: Pipeline, pixels: NDArray[np.uint8]) -> Latents:
    """Encodes every crop once, because training reads each many times; keeps the latents on the CPU."""
    means, deviations = [], []
    for start in range(0, len(pixels), _ENCODE_BATCH):
        images = unit_range(pixels[start : start + _ENCODE_BATCH], pipeline.device)
        posterior = pipeline.vae.encode(images.to(pipeline.vae.dtype)).latent_dist
        means.append(posterior.mean.float().cpu())
        deviations.append(posterior.std.float().cpu())
    scale = pipeline.vae.config.scaling_factor
    return Latents(torch.cat(means) * scale, torch.cat(deviations) * scale)


def noise_loss(
    pipeline: Pipeline,
    latents: Tensor,
    prompts: Sequence[str],
    generator: Generator,
    largest_timestep: float = 1.0,
    snr_gamma: float | None = None,
) -> Tensor:
    """Returns the MSE of the predicted noise, weighted by min(SNR, gamma) / SNR (Hang et al., 2023).

    Args:
        latents: (B, C, s, s) on the CPU, like the random numbers, which are thus equal on every device.
        largest_timestep: fraction of the noise schedule, from the clean end, to draw timesteps from.
        snr_gamma: None weights all timesteps equally.
    """
    device, scheduler = pipeline.device, pipeline.scheduler
    last = max(1, round(scheduler.config.num_train_timesteps * largest_timestep))
    times = torch.randint(last, (len(latents),), generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    noisy = scheduler.add_noise(latents, noise, times)
    states = encode_prompts(pipeline, list(prompts))
    predicted = pipeline.unet(noisy.to(device), times.to(device), states).sample
    error = (predicted.float() - noise.to(device)).square().mean(dim=(1, 2, 3))
    if snr_gamma is None:
        return error.mean()
    return (error * min_snr_weight(scheduler.alphas_cumprod[times], snr_gamma).to(device)).mean()


def min_snr_weight(alphas_cumprod: Tensor, gamma: float) -> Tensor:
    """Returns min(SNR, gamma) / SNR for a model that predicts noise; SNR = a / (1 - a)."""
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return snr.clamp(max=gamma) / snr
