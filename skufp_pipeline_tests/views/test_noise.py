"""Latents, noise and the weight of each noise level."""

import numpy as np
import pytest
import torch

from skufp_pipeline.views.noise import Latents, encode_latents, min_snr_weight, noise_loss, unit_range
from skufp_pipeline.views.pipeline import Pipeline

from .examples import CPU, crops


@pytest.mark.parametrize(("alpha", "expected"), [(0.5, 1.0), (0.9, 5 / 9), (0.99, 5 / 99), (0.1, 1.0)])
def test_min_snr_weight_is_gamma_over_snr_where_snr_is_larger(alpha: float, expected: float) -> None:
    assert min_snr_weight(torch.tensor([alpha]), 5.0).item() == pytest.approx(expected, rel=1e-4)


def test_pixels_become_numbers_from_minus_one_to_one() -> None:
    pixels = np.array([[[[0, 255, 51]]]], dtype=np.uint8)
    assert unit_range(pixels, CPU).flatten().tolist() == pytest.approx([-1, 1, -0.6])


def test_a_drawn_latent_is_its_mean_and_a_deviation() -> None:
    latents = Latents(torch.tensor([[1.0], [5.0]]), torch.tensor([[0.0], [0.5]]))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((2, 1), generator=torch.Generator().manual_seed(0))
    drawn = latents.draw(torch.tensor([1, 0]), generator)
    assert drawn.flatten().tolist() == pytest.approx([5 + 0.5 * noise[0].item(), 1.0])


def test_latents_are_the_vaes_own_times_its_scale(pipeline: Pipeline) -> None:
    pixels = crops(3).pixels
    pipeline.vae.register_to_config(scaling_factor=2.0)
    found = encode_latents(pipeline, pixels)
    with torch.no_grad():
        expected = pipeline.vae.encode(unit_range(pixels, CPU)).latent_dist
    assert torch.allclose(found.mean, 2 * expected.mean, atol=1e-5)
    assert torch.allclose(found.deviation, 2 * expected.std, atol=1e-5)


def test_the_loss_is_the_error_of_the_noise_weighted_by_hand(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A UNet that predicts zero errs by the noise's own square."""

    class Zero:
        def __init__(self, noisy: torch.Tensor) -> None:
            self.sample = torch.zeros_like(noisy)

    monkeypatch.setattr(pipeline.unet, "forward", lambda noisy, times, states: Zero(noisy))
    latents = torch.zeros(4, 4, 8, 8)

    def loss(**options: float) -> float:
        return noise_loss(pipeline, latents, ["a"] * 4, torch.Generator().manual_seed(3), **options).item()

    generator = torch.Generator().manual_seed(3)
    times = torch.randint(100, (4,), generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    error = noise.square().mean(dim=(1, 2, 3))
    assert loss(largest_timestep=0.1) == pytest.approx(error.mean().item(), rel=1e-5)
    weight = min_snr_weight(pipeline.scheduler.alphas_cumprod[times], 5.0)
    assert loss(largest_timestep=0.1, snr_gamma=5.0) == pytest.approx(
        (weight * error).mean().item(), rel=1e-5
    )
