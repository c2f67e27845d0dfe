"""An image model of timm without its classifier, as it is: no training, no class logits.

Its pooled features, of norm 1, compare pictures.
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
from torch import Tensor

from skufp_pipeline.encoders.clip import load_timm_weights, timm_model, unit_rows
from skufp_pipeline.encoders.stage_settings import RERANKER, RerankSettings
from skufp_pipeline.errors import UserError, in_a_line
from skufp_pipeline.training.weights import resolve

CONFIG_FILE, WEIGHTS_FILE = "timm_config.json", "timm.safetensors"


@dataclass
class TimmTower:
    """A model with its preprocessing; an `ImageEncoder`."""

    model: Any
    config: dict[str, Any]  # model, image_size, mean, std
    device: torch.device

    def __post_init__(self) -> None:
        height, width = self.config["image_size"]
        wanted = PreprocessCfg(
            size=(height, width),
            mean=tuple(self.config["mean"]),
            std=tuple(self.config["std"]),
            interpolation="bilinear",
            resize_mode="squash",
        )
        self.preprocess = image_transform_v2(wanted, is_train=False)

    @property
    def dimension(self) -> int:
        return int(self.model.num_features)

    @torch.inference_mode()
    def embed_pixels(self, pixels: Tensor) -> NDArray[np.float32]:
        """Returns (B, D) float32 unit rows of preprocessed images (B, 3, H, W)."""
        return unit_rows(self.model(pixels.to(self.device)))

    def save(self, directory: Path) -> None:
        """Writes a directory for `load_timm_tower`."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / CONFIG_FILE).write_text(json.dumps(self.config, indent=1) + "\n")
        weights = {name: value.cpu().contiguous() for name, value in self.model.state_dict().items()}
        save_file(weights, directory / WEIGHTS_FILE)


def create_timm_tower(settings: RerankSettings, device: torch.device, seed: int) -> TimmTower:
    """Creates the model with the weights that the settings name, or random ones.

    Raises:
        UserError: unknown model or tag, missing or incompatible weight file, or no network for a tag.
    """
    torch.manual_seed(seed)
    weights = None if settings.pretrained is None else resolve(settings.pretrained, RERANKER)
    here = weights is not None and weights.path is not None
    model = timm_model(settings.model, None if here else settings.pretrained, RERANKER)
    if weights is not None and here:
        load_timm_weights(model, settings.model, weights)
    own = model.pretrained_cfg
    size = settings.image_size or own["input_size"][1:]
    scaling = {name: list(own[name]) for name in ("mean", "std")}
    return _tower(model, {"model": settings.model, "image_size": list(size), **scaling}, device)


def load_timm_tower(directory: Path, device: torch.device) -> TimmTower:
    """Loads a model that `TimmTower.save` wrote; raises UserError if a file is missing or damaged."""
    try:
        config = json.loads((directory / CONFIG_FILE).read_text())
        model = timm_model(config["model"], None, RERANKER)
        model.load_state_dict(load_file(directory / WEIGHTS_FILE))
    except UserError:
        raise
    except Exception as error:  # safetensors, torch and json each raise their own kinds
        raise UserError(f"the model in {directory} can't be read: {in_a_line(error)}") from error
    return _tower(model, config, device)


def _tower(model: Any, config: dict[str, Any], device: torch.device) -> TimmTower:
    return TimmTower(model.eval().to(device), config, device)
