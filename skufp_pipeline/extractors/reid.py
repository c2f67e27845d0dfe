"""Baseline 1: an image-only re-identification network with a BNNeck (App. B).

It follows Luo et al., 2019 (https://arxiv.org/abs/1903.07071): triplets use the embedding before the batch
normalisation of the neck, the classifier and the search use the one after it. It is trained by cross-entropy
over SKUs after the neck and batch-hard triplets before it. The gallery has a row per catalogue crop; a SKU
scores the maximum over its rows.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skufp_pipeline.errors import UserError
from skufp_pipeline.extractors.extractor import Extractor, Family, Parts, Tower
from skufp_pipeline.extractors.losses import batch_hard_triplet
from skufp_pipeline.extractors.objective import ExtractorData, Measured, Objective
from skufp_pipeline.extractors.settings import ReidSettings
from skufp_pipeline.extractors.timm_towers import timm_parts, timm_trunk
from skufp_pipeline.training.images import Batch, LabelledImages, accuracy


class ReidNetwork(Tower):
    """Trunk, projection to the embedding, and neck."""

    def __init__(self, trunk: Any, features: int, dimension: int) -> None:
        super().__init__()
        self.trunk: Any = trunk
        self.projection = nn.Linear(features, dimension, bias=False)
        self.neck = nn.BatchNorm1d(dimension)
        self.neck.bias.requires_grad_(False)  # the classifier's hyperplanes pass through the origin

    @property
    def pretrained_part(self) -> nn.Module:
        trunk: nn.Module = self.trunk
        return trunk

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the embeddings before and after the neck, (B, D) each, of images (B, 3, H, W)."""
        before = self.projection(self.trunk(pixels))
        return before, self.neck(before)

    def embed(self, pixels: Tensor) -> Tensor:
        after: Tensor = self(pixels)[1]
        return after


class ReidFamily(Family[ReidSettings]):
    def create(self, settings: ReidSettings, device: torch.device, seed: int) -> Parts:
        arguments = settings.model_dump(include={"model", "dimension", "last_stride"})
        return timm_parts(self.build(arguments), settings, arguments, settings.dimension)

    def build(self, arguments: dict[str, Any]) -> ReidNetwork:
        model = arguments["model"]
        trunk = timm_trunk(model, "extractors.reid.model")
        if arguments["last_stride"] == 1:
            _set_last_stride_to_one(trunk, model)
        return ReidNetwork(trunk, int(trunk.num_features), arguments["dimension"])

    def objective(self, extractor: Extractor, data: ExtractorData, settings: ReidSettings) -> Objective:
        training = settings.training
        classifier = nn.Linear(extractor.dimension, data.num_skus, bias=False)
        nn.init.normal_(classifier.weight, std=0.001)
        classifier = classifier.to(extractor.device)  # used in training only

        def measure(learner: nn.Module, batch: Batch, images: LabelledImages) -> Measured:
            trained: Any = learner
            before, after = trained["network"](batch.pixels)
            found = trained["classifier"](after).float()
            identity = F.cross_entropy(found, batch.labels, label_smoothing=training.label_smoothing)
            triplet = batch_hard_triplet(before, batch.labels, training.triplet_margin)
            total = identity + training.triplet_weight * triplet
            return total, {"identity_loss": identity, "triplet_loss": triplet}

        def logits(learner: nn.Module, pixels: Tensor) -> Tensor:
            trained: Any = learner
            found: Tensor = trained["classifier"](trained["network"](pixels)[1])
            return found

        learner = nn.ModuleDict({"network": extractor.tower, "classifier": classifier})
        return Objective(learner, measure, score=accuracy(logits), quality="development_accuracy")


def _set_last_stride_to_one(trunk: Any, model: str) -> None:
    """Sets the stride of a ResNet's last stage to 1; its weights do not change."""
    if not hasattr(trunk, "layer4"):
        raise UserError(f"extractors.reid.last_stride 1 is for ResNets; set it to 2 for {model!r}")
    for module in trunk.layer4[0].modules():
        if isinstance(module, nn.Conv2d | nn.AvgPool2d) and module.stride in ((2, 2), 2):
            module.stride = (1, 1)
            if isinstance(module, nn.AvgPool2d):
                module.kernel_size = 1


FAMILY = ReidFamily()
