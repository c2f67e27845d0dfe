"""Baseline 1's training: cross-entropy over SKUs after the neck, batch-hard triplets before it (App. B)."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from skufp_pipeline.encoders.losses import batch_hard_triplet
from skufp_pipeline.encoders.reid import ReidEncoder
from skufp_pipeline.encoders.settings import ReidTrainingSettings
from skufp_pipeline.training.loop import History, Log, Trainer, TrainingImages


def train_reid(
    encoder: ReidEncoder,
    data: TrainingImages,
    settings: ReidTrainingSettings,
    seed: int,
    scratch: Path,
    log: Log,
) -> History:
    """Trains `encoder` in place and leaves it with the weights of the best epoch.

    The best epoch has the highest accuracy of the classifier on the development queries.

    Returns:
        The history: one dict an epoch (losses, accuracy, learning rate, gradient norm, speed).

    Raises:
        UserError: fewer than two SKUs or no images to train on.
    """
    return _Trainer(encoder, data, settings, seed, scratch).run(log)


class _Trainer(Trainer):
    """The network, and the classifier that is thrown away afterwards."""

    settings: ReidTrainingSettings

    def __init__(
        self,
        encoder: ReidEncoder,
        data: TrainingImages,
        settings: ReidTrainingSettings,
        seed: int,
        scratch: Path,
    ) -> None:
        torch.manual_seed(seed)
        self.network = encoder.network
        self.classifier = nn.Linear(encoder.dimension, data.num_skus, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)
        self.classifier = self.classifier.to(encoder.device)
        learner = nn.ModuleDict({"network": self.network, "classifier": self.classifier})
        trunk = self.network.trunk
        super().__init__(encoder, learner, trunk, encoder.image_size, data, settings, seed, scratch)

    def loss(self, pixels: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        before, after = self.network(pixels)
        logits = self.classifier(after).float()
        identity = F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
        triplet = batch_hard_triplet(before, labels, self.settings.triplet_margin)
        total = identity + self.settings.triplet_weight * triplet
        return total, {"identity_loss": identity, "triplet_loss": triplet}

    def logits(self, learner: nn.Module, pixels: Tensor) -> Tensor:
        _, after = learner["network"](pixels)  # type: ignore[index]
        logits: Tensor = learner["classifier"](after)  # type: ignore[index]
        return logits
