"""Trains Baseline 1: cross-entropy over SKUs after the neck, batch-hard triplets before it (App. B)."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skufp_pipeline.encoders.losses import batch_hard_triplet
from skufp_pipeline.encoders.reid import ReidEncoder
from skufp_pipeline.encoders.settings import ReidTrainingSettings
from skufp_pipeline.training.history import History
from skufp_pipeline.training.images import Batch, TrainingImages, accuracy, train_images
from skufp_pipeline.training.loop import Log


def train_reid(
    encoder: ReidEncoder,
    data: TrainingImages,
    settings: ReidTrainingSettings,
    seed: int,
    scratch: Path,
    log: Log,
) -> History:
    """Trains `encoder` in place, keeps the weights of the best epoch, and returns the history.

    The best epoch has the highest accuracy of the classifier on the development queries.

    Raises:
        TooLittleError: fewer than two SKUs or images to train on.
    """
    torch.manual_seed(seed)
    network = encoder.network
    classifier = nn.Linear(encoder.dimension, data.num_skus, bias=False)
    nn.init.normal_(classifier.weight, std=0.001)
    classifier = classifier.to(encoder.device)  # used in training only
    learner = nn.ModuleDict({"network": network, "classifier": classifier})

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        before, after = network(batch.pixels)
        found = classifier(after).float()
        identity = F.cross_entropy(found, batch.labels, label_smoothing=settings.label_smoothing)
        triplet = batch_hard_triplet(before, batch.labels, settings.triplet_margin)
        total = identity + settings.triplet_weight * triplet
        return total, {"identity_loss": identity, "triplet_loss": triplet}

    def logits(learner: nn.Module, pixels: Tensor) -> Tensor:
        trained: Any = learner
        found: Tensor = trained["classifier"](trained["network"](pixels)[1])
        return found

    return train_images(
        "reid", encoder, learner, network.trunk, encoder.image_size, data, settings, loss, accuracy(logits),
        seed, scratch, log,
    )  # fmt: skip
