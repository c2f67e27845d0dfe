"""Towers of timm: their weights, and a trunk with or without a projection."""

from typing import Any

from torch import Tensor, nn

from skufp_pipeline.encoders.clip import load_timm_weights, timm_model
from skufp_pipeline.extractors.extractor import Parts, Tower
from skufp_pipeline.extractors.settings import TimmSettings
from skufp_pipeline.training.weights import resolve


class TimmTower(Tower):
    """A trunk of timm; `projection` maps its F features to the embedding."""

    def __init__(self, trunk: Any, dimension: int | None = None) -> None:
        super().__init__()
        self.trunk: Any = trunk
        features = int(trunk.num_features)
        self.projection: nn.Module = nn.Identity() if dimension is None else nn.Linear(features, dimension)
        self.dimension = dimension or features

    @property
    def pretrained_part(self) -> nn.Module:
        trunk: nn.Module = self.trunk
        return trunk

    def embed(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.projection(self.trunk(pixels))
        return found


def timm_trunk(model: str, setting: str, **options: Any) -> Any:
    """Builds a trunk with random weights; raises UserError for an unknown model."""
    return timm_model(model, None, setting, **options)


def timm_parts(
    tower: Tower, settings: TimmSettings, arguments: dict[str, Any], dimension: int, **options: Any
) -> Parts:
    """Loads the weights that the settings name into the tower's trunk, and takes its statistics from timm.

    Args:
        options: further arguments of `timm.create_model` that the trunk was made with.

    Raises:
        UserError: unknown tag, missing or incompatible weight file, no network for a tag.
    """
    trunk: Any = tower.pretrained_part
    if settings.pretrained is not None:
        weights = resolve(settings.pretrained, f"{settings.prefix}.pretrained")
        load_timm_weights(trunk, settings.model, weights, **options)
    statistics = trunk.pretrained_cfg
    mean, std = tuple(statistics["mean"]), tuple(statistics["std"])
    return Parts(tower, arguments, settings.image_size, dimension, mean, std)
