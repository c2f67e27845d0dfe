"""Baseline 3: CLIP fine-tuned on SKU labels, both towers against shared SKU prototypes (App. B).

Read it top to bottom: what it trains on, the loop, one step. A killed run goes on from its last whole
epoch; every epoch's randomness comes from (seed, epoch) alone, so that the result is the same.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skufp_pipeline.encoders.augment import augment
from skufp_pipeline.encoders.clip import Encoder, image_trunk
from skufp_pipeline.encoders.device import multiplies_bfloat16
from skufp_pipeline.encoders.losses import sku_cross_entropy, sku_logits
from skufp_pipeline.encoders.schedule import warm_cosine
from skufp_pipeline.encoders.settings import ClipTrainingSettings
from skufp_pipeline.encoders.vocabulary import occurring_tokens, restore_vocabulary, train_occurring
from skufp_pipeline.errors import UserError

Log = Callable[[str], None]


@dataclass(frozen=True)
class LabelledImages:
    """Decoded crops (N, S, S, 3) uint8 and the index of each one's SKU (N,) int64."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class LabelledTexts:
    """Prompts and the index of each one's SKU (N,) int64."""

    texts: Sequence[str]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class TrainingData:
    """What fine-tuning sees: never a row of an evaluation query.

    Attributes:
        images: catalog crops and `train` queries of training SKUs.
        texts: their prompts, drawn anew each epoch (supervision tokens are dropped at random).
        development: `development` queries, for choosing the epoch.
        num_skus: S, the number of classes.
    """

    images: LabelledImages
    texts: Callable[[int], LabelledTexts]
    development: LabelledImages
    num_skus: int


def fine_tune(
    encoder: Encoder, data: TrainingData, settings: ClipTrainingSettings, seed: int, scratch: Path, log: Log
) -> list[dict[str, float]]:
    """Fine-tunes `encoder` in place and leaves it with the weights of the best epoch.

    The best epoch has the highest accuracy on the development queries against the SKU prototypes;
    without development queries it is the last one.

    Returns:
        The history: one dict an epoch (losses, accuracy, learning rate, gradient norm, images/s).

    Raises:
        UserError: fewer than two SKUs or no images to train on.
    """
    if data.num_skus < 2 or len(data.images.labels) < 2:
        raise UserError(
            f"fine-tuning needs images of two training SKUs at least; found {len(data.images.labels)} images "
            f"of {data.num_skus} SKUs (is the train split empty?)"
        )
    trainer = _Trainer(encoder, data, settings, seed, scratch)
    trainer.resume(log)
    while trainer.epoch < settings.epochs:
        row = trainer.run_epoch()
        trainer.checkpoint()
        log(
            f"epoch {trainer.epoch}/{settings.epochs}: image loss {row['image_loss']:.3f}, "
            f"text loss {row['text_loss']:.3f}, development accuracy {row['development_accuracy']:.3f}, "
            f"{row['images_per_second']:.0f} images/s"
        )
    trainer.keep_best()
    return trainer.history


class _Trainer:
    """State of one fine-tuning: model, prototypes, optimizer, history."""

    def __init__(
        self, encoder: Encoder, data: TrainingData, settings: ClipTrainingSettings, seed: int, scratch: Path
    ) -> None:
        torch.manual_seed(seed)
        self.encoder, self.data, self.settings, self.seed = encoder, data, settings, seed
        self.model, self.device = encoder.model, encoder.device
        self.mixed_precision = multiplies_bfloat16(self.device)
        train_occurring(self.model, self._tokens_of_all_epochs())
        self.prototypes = nn.Parameter(0.02 * torch.randn(data.num_skus, encoder.dimension).to(self.device))
        self.optimizer = torch.optim.AdamW(
            self._parameter_groups(), weight_decay=settings.weight_decay, fused=True
        )
        self.steps_per_epoch = math.ceil(len(data.images.labels) / settings.batch_size)
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self.last_path, self.best_path = scratch / "last.pt", scratch / "best.pt"

    def _tokens_of_all_epochs(self) -> Tensor:
        seen: set[str] = set()
        batches = []
        for epoch in range(self.settings.epochs):
            new = set(self.data.texts(epoch).texts) - seen
            seen |= new
            if new:
                batches.append(self.encoder.tokenize(sorted(new)))
        return occurring_tokens(batches)

    def run_epoch(self) -> dict[str, float]:
        started, settings = time.perf_counter(), self.settings
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        torch.manual_seed(self.seed * 100_003 + self.epoch)  # dropout inside the towers
        self._set_train_mode()
        texts = self.data.texts(self.epoch)
        tokens = self.encoder.tokenize(texts.texts) if texts.texts else torch.empty(0, 0, dtype=torch.long)
        order = torch.randperm(len(self.data.images.labels), generator=generator)
        totals: dict[str, float] = {"image_loss": 0.0, "text_loss": 0.0, "gradient_norm": 0.0}
        for step, chosen in enumerate(order.split(settings.batch_size)):
            self._set_learning_rate(self.epoch * self.steps_per_epoch + step)
            for name, value in self._step(chosen.sort().values, tokens, texts.labels, generator).items():
                totals[name] += value / self.steps_per_epoch
        seconds = time.perf_counter() - started
        self.epoch += 1
        row = {
            "epoch": self.epoch,
            **totals,
            "learning_rate": self.optimizer.param_groups[1]["lr"],
            "development_accuracy": self._development_accuracy(),
            "images_per_second": len(order) / seconds,
        }
        self.history.append(row)
        return row

    def _step(
        self, chosen: Tensor, tokens: Tensor, text_labels: NDArray[np.int64], generator: torch.Generator
    ) -> dict[str, float]:
        settings = self.settings
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.mixed_precision):
            pixels = augment(
                self._unit_pixels(self.data.images.pixels[chosen.numpy()]),
                self.encoder.image_size,
                settings.augmentation,
                generator,
            )
            embeddings = self.model.encode_image(self._normalised(pixels))
            image_loss = sku_cross_entropy(
                embeddings.float(),
                self.prototypes,
                torch.from_numpy(self.data.images.labels[chosen.numpy()]).to(self.device),
                scale=settings.scale,
                margin=settings.margin,
                label_smoothing=settings.label_smoothing,
            )
            text_loss = self._text_loss(tokens, text_labels, generator)
        loss = image_loss + settings.text_weight * text_loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip_gradient)
        self.optimizer.step()
        return {"image_loss": image_loss.item(), "text_loss": text_loss.item(), "gradient_norm": norm.item()}

    def _text_loss(
        self, tokens: Tensor, text_labels: NDArray[np.int64], generator: torch.Generator
    ) -> Tensor:
        if len(tokens) == 0 or self.settings.text_weight == 0:
            return torch.zeros((), device=self.device)
        chosen = torch.randint(len(tokens), (self.settings.text_batch_size,), generator=generator)
        embeddings = self.model.encode_text(tokens[chosen].to(self.device))
        labels = torch.from_numpy(text_labels[chosen.numpy()]).to(self.device)
        # No margin: prompts of several SKUs may be the same words.
        return sku_cross_entropy(embeddings.float(), self.prototypes, labels, scale=self.settings.scale)

    @torch.inference_mode()
    def _development_accuracy(self) -> float:
        """Share of development queries whose nearest prototype is their SKU's; nan without queries."""
        images = self.data.development
        if len(images.labels) == 0:
            return float("nan")
        self.model.eval()
        hits = 0
        for start in range(0, len(images.labels), 256):
            pixels = self._unit_pixels(images.pixels[start : start + 256])
            side = self.encoder.image_size
            pixels = nn.functional.interpolate(pixels, size=side, mode="bilinear", antialias=True)
            logits = sku_logits(self.model.encode_image(self._normalised(pixels)), self.prototypes, 1.0)
            labels = torch.from_numpy(images.labels[start : start + 256]).to(self.device)
            hits += int((logits.argmax(dim=1) == labels).sum())
        return hits / len(images.labels)

    def _unit_pixels(self, pixels: NDArray[np.uint8]) -> Tensor:
        """(B, 3, S, S) in [0, 1] on the device."""
        tensor = torch.from_numpy(np.array(pixels)).to(self.device)
        return tensor.permute(0, 3, 1, 2).float() / 255

    def _normalised(self, pixels: Tensor) -> Tensor:
        mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in self.encoder.mean_and_std)
        return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)

    def _set_train_mode(self) -> None:
        self.model.train()
        if self.settings.freeze_batch_norm:
            for module in image_trunk(self.model).modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _parameter_groups(self) -> list[dict[str, Any]]:
        trunk = list(image_trunk(self.model).parameters())
        known = {id(parameter) for parameter in trunk}
        rest = [p for p in self.model.parameters() if id(p) not in known and p.requires_grad]
        return [{"params": trunk}, {"params": [*rest, self.prototypes]}]

    def _set_learning_rate(self, step: int) -> None:
        """Linear warm-up, then a cosine to zero; the trunk starts after `head_only_epochs`."""
        settings = self.settings
        total = settings.epochs * self.steps_per_epoch
        rest = settings.head_only_epochs * self.steps_per_epoch
        schedule = warm_cosine(step, total, settings.warmup_fraction)
        trunk = 0.0 if step < rest else warm_cosine(step - rest, total - rest, settings.warmup_fraction)
        for group, rate in zip(
            self.optimizer.param_groups,
            (settings.backbone_learning_rate * trunk, settings.learning_rate * schedule),
            strict=True,
        ):
            group["lr"] = rate

    def checkpoint(self) -> None:
        """Saves the epoch just run, and the model where it is the best so far."""
        accuracies = [row["development_accuracy"] for row in self.history]
        if math.isnan(accuracies[-1]) or accuracies[-1] >= max(accuracies):
            _save({"model": self.model.state_dict(), "prototypes": self.prototypes.data}, self.best_path)
        state = {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "prototypes": self.prototypes.data,
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
        }
        _save(state, self.last_path)

    def resume(self, log: Log) -> None:
        if not self.last_path.exists():
            return
        state = torch.load(self.last_path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.prototypes.data.copy_(state["prototypes"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch = state["epoch"]
        self.history = state["history"]
        log(f"resuming after epoch {self.epoch} of {self.settings.epochs}")

    def keep_best(self) -> None:
        best = torch.load(self.best_path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(best["model"])
        restore_vocabulary(self.model)
        self.model.eval()


def _save(state: dict[str, Any], path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)
