"""Baseline 1: an image-only re-identification network with a BNNeck (App. B).

It follows Luo et al., 2019 (https://arxiv.org/abs/1903.07071): triplets use the embedding before the batch
normalisation of the neck, the classifier and the search use the one after it. The gallery has a row per
catalogue crop; the score of a SKU is the maximum over its rows.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from skufp_pipeline.encoders.clip import load_timm_weights, timm_model, unit_rows
from skufp_pipeline.encoders.settings import ReidSettings
from skufp_pipeline.errors import UserError, in_a_line
from skufp_pipeline.training.weights import resolve

CONFIG_FILE, WEIGHTS_FILE = "reid_config.json", "reid.safetensors"
SETTING = "baselines.reid.pretrained"


class ReidNetwork(nn.Module):
    """Trunk, projection to the embedding, and neck."""

    def __init__(self, trunk: nn.Module, features: int, dimension: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.projection = nn.Linear(features, dimension, bias=False)
        self.neck = nn.BatchNorm1d(dimension)
        self.neck.bias.requires_grad_(False)  # the classifier's hyperplanes pass through the origin

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the embeddings before and after the neck, (B, D) each, of images (B, 3, H, W)."""
        before = self.projection(self.trunk(pixels))
        return before, self.neck(before)


@dataclass
class ReidEncoder:
    """A network with its preprocessing."""

    network: ReidNetwork
    config: dict[str, Any]  # model, features, dimension, last_stride, image_size, mean, std
    device: torch.device

    def __post_init__(self) -> None:
        wanted = PreprocessCfg(
            size=self.image_size,
            mean=self.mean_and_std[0],
            std=self.mean_and_std[1],
            interpolation="bilinear",
            resize_mode="squash",
        )
        self.preprocess = image_transform_v2(wanted, is_train=False)

    @property
    def dimension(self) -> int:
        return int(self.config["dimension"])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.config["image_size"]
        return height, width

    @property
    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return tuple(self.config["mean"]), tuple(self.config["std"])

    @torch.inference_mode()
    def embed_pixels(self, pixels: Tensor) -> NDArray[np.float32]:
        """Returns (B, D) float32 unit rows, after the neck, of preprocessed images (B, 3, H, W)."""
        pixels = pixels.to(self.device).contiguous(memory_format=torch.channels_last)
        return unit_rows(self.network(pixels)[1])

    def save(self, directory: Path) -> None:
        """Writes a directory for `load_reid`."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / CONFIG_FILE).write_text(json.dumps(self.config, indent=1) + "\n")
        weights = self.network.state_dict().items()
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in weights}, directory / WEIGHTS_FILE
        )


def create_reid(settings: ReidSettings, device: torch.device, seed: int) -> ReidEncoder:
    """Creates the network before training; its trunk is pretrained where the settings name weights.

    Raises:
        UserError: unknown model or tag, missing or incompatible weight file, no network for a tag, or a
            trunk that does not support `last_stride`.
    """
    torch.manual_seed(seed)
    weights = None if settings.pretrained is None else resolve(settings.pretrained, SETTING)
    here = weights is not None and weights.path is not None
    trunk = timm_model(settings.model, None if here else settings.pretrained, SETTING)
    if weights is not None and here:
        load_timm_weights(trunk, settings.model, weights)
    scaling = trunk.pretrained_cfg
    config = {
        "model": settings.model,
        "features": int(trunk.num_features),
        "dimension": settings.dimension,
        "last_stride": settings.last_stride,
        "image_size": list(settings.image_size),
        "mean": list(scaling["mean"]),
        "std": list(scaling["std"]),
    }
    return _encoder(trunk, config, device)


def load_reid(directory: Path, device: torch.device) -> ReidEncoder:
    """Loads a network that `ReidEncoder.save` wrote.

    Raises:
        UserError: a file is missing or damaged.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (directory / name).is_file():
            raise UserError(f"{directory} holds no re-identification network: {name} is missing")
    try:
        config = json.loads((directory / CONFIG_FILE).read_text())
        encoder = _encoder(timm_model(config["model"], None, SETTING), config, device)
        encoder.network.load_state_dict(load_file(directory / WEIGHTS_FILE, device=str(device)))
    except UserError:
        raise
    except Exception as error:  # safetensors, torch and json each raise their own kinds
        raise UserError(f"the network in {directory} can't be read: {in_a_line(error)}") from error
    return encoder


def _encoder(trunk: Any, config: dict[str, Any], device: torch.device) -> ReidEncoder:
    if config["last_stride"] == 1:
        _set_last_stride_to_one(trunk, config["model"])
    network = ReidNetwork(trunk, config["features"], config["dimension"]).to(device)
    return ReidEncoder(network.to(memory_format=torch.channels_last).eval(), config, device)


def _set_last_stride_to_one(trunk: Any, model: str) -> None:
    """Sets the stride of a ResNet's last stage to 1; its weights do not change."""
    if not hasattr(trunk, "layer4"):
        raise UserError(f"baselines.reid.last_stride 1 is for ResNets; set it to 2 for {model!r}")
    for module in trunk.layer4[0].modules():
        if isinstance(module, nn.Conv2d | nn.AvgPool2d) and module.stride in ((2, 2), 2):
            module.stride = (1, 1)
            if isinstance(module, nn.AvgPool2d):
                module.kernel_size = 1
