"""Baseline 3: CLIP fine-tuned on SKU labels, both towers against shared SKU prototypes (App. B)."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from skufp_pipeline.encoders.clip import Encoder, image_trunk
from skufp_pipeline.encoders.losses import centroid_triplet, sku_cross_entropy, sku_logits
from skufp_pipeline.encoders.settings import ClipTrainingSettings
from skufp_pipeline.encoders.vocabulary import occurring_tokens, restore_vocabulary, train_occurring
from skufp_pipeline.training.loop import History, Log, Trainer, TrainingImages


@dataclass(frozen=True)
class LabelledTexts:
    """Prompts and the index of each one's SKU (N,) int64."""

    texts: Sequence[str]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class TrainingData(TrainingImages):
    """Images, and their prompts, drawn anew each epoch (supervision tokens are dropped at random)."""

    texts: Callable[[int], LabelledTexts]


def fine_tune(
    encoder: Encoder, data: TrainingData, settings: ClipTrainingSettings, seed: int, scratch: Path, log: Log
) -> History:
    """Fine-tunes `encoder` in place and leaves it with the weights of the best epoch.

    The best epoch has the highest accuracy on the development queries against the SKU prototypes;
    without development queries it is the last one.

    Returns:
        The history: one dict an epoch (losses, accuracy, learning rate, gradient norm, speed).

    Raises:
        UserError: fewer than two SKUs or no images to train on.
    """
    train_occurring(encoder.model, _tokens_of_all_epochs(encoder, data, settings.epochs))
    history = _Trainer(encoder, data, settings, seed, scratch).run(log)
    restore_vocabulary(encoder.model)
    return history


class _Trainer(Trainer):
    """Both towers and the prototypes; the texts of the next epoch are tokenized during this one."""

    encoder: Encoder
    data: TrainingData
    settings: ClipTrainingSettings

    def __init__(
        self, encoder: Encoder, data: TrainingData, settings: ClipTrainingSettings, seed: int, scratch: Path
    ) -> None:
        torch.manual_seed(seed)
        self.model = encoder.model
        self.prototypes = nn.Parameter(
            0.02 * torch.randn(data.num_skus, encoder.dimension).to(encoder.device)
        )
        learner = nn.ModuleDict({"model": self.model, "prototypes": nn.ParameterList([self.prototypes])})
        side = encoder.image_size
        trunk = image_trunk(self.model)
        super().__init__(encoder, learner, trunk, (side, side), data, settings, seed, scratch)
        self._next_texts: Future[tuple[Tensor, Tensor]] | None = None

    def begin_epoch(self) -> None:
        started = self._next_texts or self.prefetcher.start(self._texts, self.epoch)
        self.tokens, self.text_labels = self.prefetcher.take(started)
        more = self.epoch + 1 < self.settings.epochs
        self._next_texts = self.prefetcher.start(self._texts, self.epoch + 1) if more else None

    def loss(self, pixels: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        settings = self.settings
        embeddings = self.model.encode_image(pixels).float()
        image_loss = sku_cross_entropy(
            embeddings,
            self.prototypes,
            labels,
            scale=settings.scale,
            margin=settings.margin,
            label_smoothing=settings.label_smoothing,
        )
        text_loss = self._text_loss(generator)
        parts = {"image_loss": image_loss, "text_loss": text_loss}
        total = image_loss + settings.text_weight * text_loss
        if settings.centroid_weight > 0:
            parts["centroid_loss"] = centroid_triplet(embeddings, labels, settings.centroid_margin)
            total = total + settings.centroid_weight * parts["centroid_loss"]
        return total, parts

    def logits(self, learner: nn.Module, pixels: Tensor) -> Tensor:
        model, prototypes = learner["model"], learner["prototypes"][0]  # type: ignore[index]
        return sku_logits(model.encode_image(pixels), prototypes, 1.0)

    def _texts(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Tokens (N, context_length) and SKU (N,) of an epoch's prompts."""
        texts = self.data.texts(epoch)
        tokens = self.encoder.tokenize(texts.texts) if texts.texts else torch.empty(0, 0, dtype=torch.long)
        return tokens, torch.from_numpy(texts.labels)

    def _text_loss(self, generator: Generator) -> Tensor:
        if len(self.tokens) == 0 or self.settings.text_weight == 0:
            return torch.zeros((), device=self.device)
        chosen = torch.randint(len(self.tokens), (self.settings.text_batch_size,), generator=generator)
        embeddings = self.model.encode_text(self.tokens[chosen].to(self.device))
        labels = self.text_labels[chosen].to(self.device)
        # No margin: prompts of several SKUs may be the same words.
        return sku_cross_entropy(embeddings.float(), self.prototypes, labels, scale=self.settings.scale)


def _tokens_of_all_epochs(encoder: Encoder, data: TrainingData, epochs: int) -> Tensor:
    seen: set[str] = set()
    batches = []
    for epoch in range(epochs):
        new = set(data.texts(epoch).texts) - seen
        seen |= new
        if new:
            batches.append(encoder.tokenize(sorted(new)))
    return occurring_tokens(batches)
