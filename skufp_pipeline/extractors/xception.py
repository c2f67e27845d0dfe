"""Xception (Chollet, 2017, https://arxiv.org/abs/1610.02357) with a projection, trained on pairs."""

from typing import Any

import torch

from skufp_pipeline.extractors.extractor import Extractor, Family, Parts
from skufp_pipeline.extractors.objective import ExtractorData, Objective
from skufp_pipeline.extractors.pairs import pair_objective
from skufp_pipeline.extractors.settings import XceptionSettings
from skufp_pipeline.extractors.timm_towers import TimmTower, timm_parts, timm_trunk


class XceptionFamily(Family[XceptionSettings]):
    def create(self, settings: XceptionSettings, device: torch.device, seed: int) -> Parts:
        arguments = settings.model_dump(include={"model", "dimension"})
        return timm_parts(self.build(arguments), settings, arguments, settings.dimension)

    def build(self, arguments: dict[str, Any]) -> TimmTower:
        trunk = timm_trunk(arguments["model"], "extractors.xception.model")
        return TimmTower(trunk, arguments["dimension"])

    def objective(self, extractor: Extractor, data: ExtractorData, settings: XceptionSettings) -> Objective:
        return pair_objective(extractor, data, settings.training)


FAMILY = XceptionFamily()
