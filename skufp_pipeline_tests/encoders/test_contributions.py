"""What each part of a picture adds to a cosine: the sums, for which towers they hold, and occlusion."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skufp_pipeline.encoders.clip import Encoder, create_encoder
from skufp_pipeline.encoders.contributions import contributions, occlusion
from skufp_pipeline.encoders.settings import BUNDLED_MODELS

from .conftest import CPU
from .examples import TIMM_VISION, VIT_VISION, noise, write_model

SMALL = {"image_size": 64}
TEST_VIT = {**TIMM_VISION, "timm_model_name": "test_vit", "image_size": 160}
HEAD_AFTER_POOLING = {**TIMM_VISION, **SMALL, "timm_model_name": "mobilenetv3_small_050", "timm_proj": "none"}


def tower(folder: Path, vision: dict[str, Any], dimension: int) -> Encoder:
    return create_encoder(write_model(folder / "tower.json", vision, dimension), CPU, seed=0)


def bundled(folder: Path, name: str) -> Encoder:
    """A bundled model with a text tower of a few thousand weights, and pictures of 64 pixels."""
    config = json.loads((BUNDLED_MODELS / f"{name}.json").read_text())
    return tower(folder, {**config["vision_cfg"], **SMALL}, config["embed_dim"])


def vector(encoder: Encoder) -> np.ndarray:
    return np.random.default_rng(1).normal(size=encoder.dimension).astype(np.float32)


@pytest.mark.parametrize("name", ["skufp-tiny", "skufp-efficientnet-lite0", "skufp-mobilenetv2"])
def test_the_contributions_sum_to_the_cosine(name: str, tmp_path: Path) -> None:
    encoder = bundled(tmp_path, name)
    pixels, row = encoder.preprocess(noise(3, (80, 60))), vector(encoder)
    found = contributions(encoder, pixels, row)
    assert found is not None
    assert found.shape == (2, 2)
    assert found.std() > 0
    cosine = encoder.embed_pixels(pixels[None])[0] @ (row / np.linalg.norm(row))
    assert found.sum() == pytest.approx(cosine, abs=1e-5)


def test_a_bias_of_the_projection_is_shared_by_the_cells(tmp_path: Path) -> None:
    encoder = tower(tmp_path, {**TIMM_VISION, **SMALL}, 8)
    projection = encoder.model.visual.head.proj
    projection.bias = torch.nn.Parameter(torch.arange(8.0))
    pixels, row = encoder.preprocess(noise(3)), vector(encoder)
    found = contributions(encoder, pixels, row)
    assert found is not None
    cosine = encoder.embed_pixels(pixels[None])[0] @ (row / np.linalg.norm(row))
    assert found.sum() == pytest.approx(cosine, abs=1e-5)


@pytest.mark.parametrize(
    ("vision", "dimension"),
    [
        ({**VIT_VISION, "image_size": 32}, 8),  # a class token
        ({**TEST_VIT, "timm_pool": "token"}, 8),
        ({**TEST_VIT, "timm_pool": "avg"}, 8),  # a norm after the mean
        ({**TIMM_VISION, **SMALL, "timm_proj": "mlp"}, 8),
        (HEAD_AFTER_POOLING, 1024),  # a convolution with an activation after the mean
        ({**TIMM_VISION, **SMALL, "timm_pool": "max"}, 8),
    ],
    ids=["class-token", "timm-class-token", "norm", "mlp", "activation", "maximum"],
)
def test_a_tower_whose_cells_do_not_sum_is_found_by_computing(
    vision: dict[str, Any], dimension: int, tmp_path: Path
) -> None:
    encoder = tower(tmp_path, vision, dimension)
    assert contributions(encoder, encoder.preprocess(noise(3)), vector(encoder)) is None


def test_a_plain_picture_does_not_hide_what_a_tower_is(tmp_path: Path) -> None:
    encoder = tower(tmp_path, {**TIMM_VISION, **SMALL, "timm_pool": "max"}, 8)
    assert contributions(encoder, torch.zeros(3, 64, 64), vector(encoder)) is None


class Corner(Encoder):
    """Embeds the mean of one square of a picture, and a constant."""

    def __init__(self) -> None:
        self.preprocess_config = {"mean": (0.5, 0.5, 0.5), "std": (1.0, 1.0, 1.0)}
        self.sizes: list[int] = []

    def embed_pixels(self, pixels: torch.Tensor) -> np.ndarray:
        self.sizes.append(len(pixels))
        seen = pixels[:, 0, 8:16, 24:32].mean(dim=(1, 2)).numpy()
        rows = np.stack([seen, np.full(len(seen), 0.75)], axis=1)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_occlusion_finds_the_only_square_that_counts() -> None:
    encoder = Corner()
    found = occlusion(encoder, torch.ones(3, 32, 32), np.array([2.0, 0]), cells=4, batch_size=7)
    expected = np.zeros((4, 4))
    expected[1, 3] = 0.8  # (1, 0.75) is at cosine 0.8; (0, 0.75), with the square grey, at 0
    assert found == pytest.approx(expected, abs=1e-7)
    assert encoder.sizes == [7, 7, 3]


def test_occlusion_of_a_vision_transformer_covers_every_pixel_once(tmp_path: Path) -> None:
    encoder = tower(tmp_path, VIT_VISION, 8)
    pixels, row = encoder.preprocess(noise(3)), vector(encoder)
    whole = occlusion(encoder, pixels, row, cells=1)
    mean, std = (torch.tensor(values)[:, None, None] for values in encoder.mean_and_std)
    rows = encoder.embed_pixels(torch.stack([pixels, ((0.5 - mean) / std).expand_as(pixels)]))
    cosines = rows @ (row / np.linalg.norm(row))
    assert whole.item() == pytest.approx(cosines[0] - cosines[1], abs=1e-6)
    assert occlusion(encoder, pixels, row, cells=3).shape == (3, 3)  # 32 pixels are no multiple of 3
    with pytest.raises(ValueError, match="cells must be 1 to 32"):
        occlusion(encoder, pixels, row, cells=33)
