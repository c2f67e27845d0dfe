"""Baseline 3: fine-tunes both CLIP towers on SKU labels, against shared SKU prototypes (App. B)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skufp_pipeline.encoders.clip import Encoder, image_trunk
from skufp_pipeline.encoders.losses import centroid_triplet, sku_cross_entropy, sku_logits
from skufp_pipeline.encoders.settings import ClipTrainingSettings
from skufp_pipeline.encoders.vocabulary import occurring_tokens, restore_vocabulary, train_occurring
from skufp_pipeline.training.history import History
from skufp_pipeline.training.images import Batch, TrainingImages, accuracy, too_few_images, train_images
from skufp_pipeline.training.loop import Log


@dataclass(frozen=True)
class LabelledTexts:
    """Prompts and the SKU index of each (N,) int64."""

    texts: Sequence[str]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class TrainingData(TrainingImages):
    """Training images and a function from an epoch to its prompts (with random supervision-token dropout)."""

    texts: Callable[[int], LabelledTexts]


def fine_tune(
    encoder: Encoder, data: TrainingData, settings: ClipTrainingSettings, seed: int, scratch: Path, log: Log
) -> History:
    """Fine-tunes `encoder` in place, keeps the weights of the best epoch, and returns the history.

    The best epoch has the highest accuracy on the development queries against the SKU prototypes;
    without development queries it is the last one.

    A frozen text model takes no part: its projection is learnt afterwards (`text_alignment`).

    With fewer than two SKUs or images to train on, nothing is trained and the history is empty.
    """
    if (reason := too_few_images(data)) is not None:
        log(f"clip: not fine-tuned: {reason}")
        return []
    torch.manual_seed(seed)
    model, side, device = encoder.model, encoder.image_size, encoder.device
    with_texts = settings.text_weight > 0 and not encoder.has_text_model
    if encoder.has_text_model:
        model.text.requires_grad_(False)
    else:
        train_occurring(model, _tokens_of_all_epochs(encoder, data, settings.epochs))
    prototypes = nn.Parameter(0.02 * torch.randn(data.num_skus, encoder.dimension).to(device))
    learner = nn.ModuleDict({"model": model, "prototypes": nn.ParameterList([prototypes])})

    def texts(epoch: int) -> tuple[Tensor, Tensor]:
        """Returns the tokens (N, context_length) and SKU indices (N,) of an epoch's prompts."""
        drawn = data.texts(epoch)
        tokens = (
            encoder.tokenize(drawn.texts)
            if drawn.texts and not encoder.has_text_model
            else torch.empty(0, 0, dtype=torch.long)
        )
        return tokens, torch.from_numpy(drawn.labels)

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        embeddings = model.encode_image(batch.pixels).float()
        image_loss = sku_cross_entropy(
            embeddings,
            prototypes,
            batch.labels,
            scale=settings.scale,
            margin=settings.margin,
            label_smoothing=settings.label_smoothing,
        )
        text_loss = loss_of_texts(batch)
        parts = {"image_loss": image_loss, "text_loss": text_loss}
        total = image_loss + settings.text_weight * text_loss
        if settings.centroid_weight > 0:
            parts["centroid_loss"] = centroid_triplet(embeddings, batch.labels, settings.centroid_margin)
            total = total + settings.centroid_weight * parts["centroid_loss"]
        return total, parts

    def loss_of_texts(batch: Batch) -> Tensor:
        tokens, labels = batch.of_epoch
        if len(tokens) == 0 or not with_texts:
            return torch.zeros((), device=device)
        chosen = torch.randint(len(tokens), (settings.text_batch_size,), generator=batch.generator)
        embeddings = model.encode_text(tokens[chosen].to(device)).float()
        # No margin: several SKUs may share a prompt.
        return sku_cross_entropy(embeddings, prototypes, labels[chosen].to(device), scale=settings.scale)

    def logits(learner: nn.Module, pixels: Tensor) -> Tensor:
        trained: Any = learner
        return sku_logits(trained["model"].encode_image(pixels), trained["prototypes"][0], 1.0)

    history = train_images(
        "clip", encoder, learner, image_trunk(model), (side, side), data, settings, loss, accuracy(logits),
        seed, scratch, log, of_epoch=texts,
    )  # fmt: skip
    restore_vocabulary(model)
    return history


def _tokens_of_all_epochs(encoder: Encoder, data: TrainingData, epochs: int) -> Tensor:
    seen: set[str] = set()
    batches = []
    for epoch in range(epochs):
        new = set(data.texts(epoch).texts) - seen
        seen |= new
        if new:
            batches.append(encoder.tokenize(sorted(new)))
    return occurring_tokens(batches)
