"""The small base learns its crops, part after part."""

from pathlib import Path

import numpy as np
import pytest
import torch

from skufp_pipeline.errors import UserError
from skufp_pipeline.views.base import colour_loss, edge_loss, set_latent_scale, train_base
from skufp_pipeline.views.noise import PromptedCrops, encode_latents
from skufp_pipeline.views.pipeline import Pipeline
from skufp_pipeline.views.settings import SmallBaseSettings

from .examples import crops

SETTINGS = SmallBaseSettings(
    vae_steps=6, unet_steps=6, vae_batch_size=4, unet_batch_size=4, checkpoint_every=2
)


def quiet(line: str) -> None:
    return None


def weights(pipeline: Pipeline) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": value
        for part in ("vae", "unet", "text_encoder")
        for name, value in getattr(pipeline, part).state_dict().items()
    }


def test_all_three_parts_are_trained_and_told_with_a_rate(pipeline: Pipeline, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in weights(pipeline).items()}
    lines: list[str] = []
    curves = train_base(pipeline, crops(), SETTINGS, 3, tmp_path, lines.append)
    changed = {
        name.split(".")[0] for name, value in weights(pipeline).items() if not value.equal(before[name])
    }
    assert changed == {"vae", "unet", "text_encoder"}
    assert {part: len(curve) for part, curve in curves.items()} == {"vae": 6, "unet": 6}
    assert any(line.startswith("vae: step 6/6, loss ") and line.endswith(" steps/s") for line in lines)
    assert not any(parameter.requires_grad for parameter in pipeline.unet.parameters())


def test_the_vae_learns_its_crops(pipeline: Pipeline, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"vae_steps": 120, "vae_learning_rate": 0.01})
    (*_, last) = curve = train_base(pipeline, crops(), settings, 3, tmp_path, quiet)["vae"]
    assert last["loss"] < 0.5 * curve[0]["loss"]


def test_latents_have_unit_variance_after_scaling(pipeline: Pipeline) -> None:
    set_latent_scale(pipeline, crops(20))
    assert encode_latents(pipeline, crops(20).pixels).mean.std().item() == pytest.approx(1, rel=1e-4)


def test_colour_loss_counts_colour_more_than_lightness() -> None:
    image = torch.zeros(1, 3, 2, 2)
    lighter = image + 0.1
    redder = image + torch.tensor([0.1, -0.1, 0.0]).view(1, 3, 1, 1)
    assert colour_loss(image, image).item() == 0
    assert colour_loss(lighter, image).item() == pytest.approx(0.01)
    assert colour_loss(redder, image).item() == pytest.approx(4 * 0.02 / 3)


def test_edge_loss_is_of_differences_of_neighbours() -> None:
    image = torch.zeros(1, 1, 2, 2)
    line = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    assert edge_loss(image + 5, image).item() == 0
    assert edge_loss(line, image).item() == pytest.approx(1)  # across; nothing changes downwards


def test_no_crops_is_a_users_mistake(pipeline: Pipeline, tmp_path: Path) -> None:
    none = PromptedCrops(np.empty((0, 16, 16, 3), np.uint8), [])
    with pytest.raises(UserError, match="sd_base needs catalog crops"):
        train_base(pipeline, none, SETTINGS, 0, tmp_path, quiet)
