"""The image tower of a CLIP, trained on pairs."""

from typing import Any

import torch
from torch import Tensor, nn

from skufp_pipeline.extractors.extractor import Extractor, Family, Parts, Tower
from skufp_pipeline.extractors.objective import ExtractorData, Objective
from skufp_pipeline.extractors.open_clip_towers import new_encoder, open_clip_model, open_clip_parts
from skufp_pipeline.extractors.pairs import pair_objective
from skufp_pipeline.extractors.settings import ClipVitSettings


class ClipImageTower(Tower):
    """The image tower of a model of open_clip, with its projection."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual

    @property
    def pretrained_part(self) -> nn.Module:
        part: nn.Module = getattr(self.visual, "trunk", self.visual)
        return part

    def embed(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.visual(pixels)
        return found


class ClipVitFamily(Family[ClipVitSettings]):
    def create(self, settings: ClipVitSettings, device: torch.device, seed: int) -> Parts:
        encoder = new_encoder(settings, device, seed)
        return open_clip_parts(ClipImageTower(encoder.model.visual), encoder)

    def build(self, arguments: dict[str, Any]) -> ClipImageTower:
        return ClipImageTower(open_clip_model(arguments["model_config"]).visual)

    def objective(self, extractor: Extractor, data: ExtractorData, settings: ClipVitSettings) -> Objective:
        return pair_objective(extractor, data, settings.training)


FAMILY = ClipVitFamily()
