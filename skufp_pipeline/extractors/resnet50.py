"""A ResNet without its head, trained by triplets with the hardest positive and negative of each batch."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from skufp_pipeline.errors import TooLittleError
from skufp_pipeline.extractors.extractor import Extractor, Family, Parts
from skufp_pipeline.extractors.losses import batch_hard_triplet
from skufp_pipeline.extractors.objective import ExtractorData, Measured, Objective, classes_of
from skufp_pipeline.extractors.settings import Resnet50Settings
from skufp_pipeline.extractors.timm_towers import TimmTower, timm_parts, timm_trunk
from skufp_pipeline.training.images import Batch, LabelledImages
from skufp_pipeline.training.sampling import epoch_batches


class Resnet50Family(Family[Resnet50Settings]):
    def create(self, settings: Resnet50Settings, device: torch.device, seed: int) -> Parts:
        arguments = settings.model_dump(include={"model"})
        tower = self.build(arguments)
        return timm_parts(tower, settings, arguments, tower.dimension)

    def build(self, arguments: dict[str, Any]) -> TimmTower:
        return TimmTower(timm_trunk(arguments["model"], "extractors.resnet50.model"))

    def objective(self, extractor: Extractor, data: ExtractorData, settings: Resnet50Settings) -> Objective:
        training, positives = settings.training, settings.positives
        if positives == "category" and len(np.unique(data.categories)) < 2:
            raise TooLittleError(
                "extractors.resnet50.positives is category, and the training SKUs have one category alone; "
                "set it to sku"
            )

        def measure(learner: nn.Module, batch: Batch, images: LabelledImages) -> Measured:
            trained: Any = learner
            classes = torch.from_numpy(classes_of(data, images, positives)[batch.rows.numpy()])
            rows = F.normalize(trained.embed(batch.pixels).float(), dim=-1)
            loss = batch_hard_triplet(rows, classes.to(rows.device), training.margin)
            return loss, {"triplet_loss": loss}

        def sampler(images: LabelledImages, generator: Generator) -> list[Tensor]:
            classes = classes_of(data, images, positives)
            groups = data.categories if positives == "sku" else np.arange(data.categories.max() + 1)
            return epoch_batches(classes, groups, training, generator)

        return Objective(extractor.tower, measure, sampler=sampler)


FAMILY = Resnet50Family()
