"""Trains a small Stable Diffusion on catalogue crops: first the VAE, then UNet and text encoder.

It replaces `stable-diffusion-v1-5` where that is not available: same classes, minutes of CPU time.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from skufp_pipeline.errors import TooLittleError
from skufp_pipeline.training.loop import Log
from skufp_pipeline.views.diffusion_train import Schedule, train
from skufp_pipeline.views.noise import PromptedCrops, encode_latents, noise_loss, unit_range
from skufp_pipeline.views.pipeline import Pipeline
from skufp_pipeline.views.settings import SmallBaseSettings

_FIRST_LOG_VARIANCE = -6.0
_CHROMA_WEIGHT = 4.0

Curves = dict[str, list[dict[str, float]]]


def train_base(
    pipeline: Pipeline, crops: PromptedCrops, settings: SmallBaseSettings, seed: int, scratch: Path, log: Log
) -> Curves:
    """Trains the parts of `pipeline` in place; returns the curves `vae` and `unet`: mean loss by step.

    Raises:
        TooLittleError: no crops to train on.
    """
    if len(crops.prompts) == 0:
        raise TooLittleError(
            "sd_base needs catalog crops of training SKUs; found none (is the train split empty?)"
        )
    curves = {"vae": _train_vae(pipeline, crops, settings, seed, scratch, log)}
    set_latent_scale(pipeline, crops)
    curves["unet"] = _train_unet(pipeline, crops, settings, seed, scratch, log)
    return curves


def _train_vae(
    pipeline: Pipeline, crops: PromptedCrops, settings: SmallBaseSettings, seed: int, scratch: Path, log: Log
) -> list[dict[str, float]]:
    vae = pipeline.vae.requires_grad_(True).train()
    with torch.no_grad():  # a wide initial posterior hides the signal in noise
        vae.quant_conv.bias[vae.config.latent_channels :] = _FIRST_LOG_VARIANCE

    def loss_of(generator: Generator) -> Tensor:
        chosen = torch.randint(len(crops.pixels), (settings.vae_batch_size,), generator=generator)
        images = unit_range(crops.pixels[chosen.sort().values.numpy()], pipeline.device)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(pipeline.device)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        loss = colour_loss(decoded, images) + settings.edge_weight * edge_loss(decoded, images)
        return loss + settings.kl_weight * posterior.kl().mean() / posterior.mean[0].numel()

    schedule = Schedule(
        settings.vae_steps,
        settings.vae_learning_rate,
        settings.warmup_fraction,
        checkpoint_every=settings.checkpoint_every,
    )
    curve = train("vae", {"vae": vae}, loss_of, schedule, seed, scratch, log)
    vae.requires_grad_(False).eval()
    return curve


def _train_unet(
    pipeline: Pipeline, crops: PromptedCrops, settings: SmallBaseSettings, seed: int, scratch: Path, log: Log
) -> list[dict[str, float]]:
    parts = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    for part in parts.values():
        part.requires_grad_(True).train()
    latents = encode_latents(pipeline, crops.pixels)

    def loss_of(generator: Generator) -> Tensor:
        chosen = torch.randint(len(crops.prompts), (settings.unet_batch_size,), generator=generator)
        dropped = torch.rand(len(chosen), generator=generator) < settings.prompt_dropout
        prompts = [
            "" if drop else crops.prompts[row] for row, drop in zip(chosen.tolist(), dropped, strict=True)
        ]
        return noise_loss(pipeline, latents.draw(chosen, generator), prompts, generator)

    schedule = Schedule(
        settings.unet_steps,
        settings.unet_learning_rate,
        settings.warmup_fraction,
        checkpoint_every=settings.checkpoint_every,
    )
    curve = train("unet", parts, loss_of, schedule, seed, scratch, log)
    for part in parts.values():
        part.requires_grad_(False).eval()
    return curve


def set_latent_scale(pipeline: Pipeline, crops: PromptedCrops, sample: int = 256) -> None:
    """Sets the VAE's scaling factor so that latents have unit variance, as the noise schedule assumes."""
    pipeline.vae.register_to_config(scaling_factor=1.0)
    spread = encode_latents(pipeline, crops.pixels[:sample]).mean.std().item()
    pipeline.vae.register_to_config(scaling_factor=1 / spread)


def edge_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Returns the mean absolute error of neighbouring pixels' differences, which penalises blur."""
    across = F.l1_loss(decoded.diff(dim=3), images.diff(dim=3))
    return across + F.l1_loss(decoded.diff(dim=2), images.diff(dim=2))


def colour_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Returns the squared error of lightness plus, with a higher weight, of chroma: colour matters more."""
    error = decoded - images
    lightness = error.mean(dim=1, keepdim=True)
    return lightness.square().mean() + _CHROMA_WEIGHT * (error - lightness).square().mean()
