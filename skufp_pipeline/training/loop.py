"""The training loop of every image encoder; a trainer says what its loss is and what its logits are.

A killed run goes on from its last whole epoch; every epoch's randomness comes from (seed, epoch) alone, so
that the result is the same. The epoch with the most development queries at their own SKU is kept.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from skufp_pipeline.errors import UserError
from skufp_pipeline.training.augment import augment
from skufp_pipeline.training.device import multiplies_bfloat16, peak_memory_gib
from skufp_pipeline.training.prefetch import Prefetcher
from skufp_pipeline.training.sampling import epoch_batches
from skufp_pipeline.training.schedule import warm_cosine
from skufp_pipeline.training.settings import TrainingSettings

Log = Callable[[str], None]
History = list[dict[str, float]]
MEASURED = ("images_per_second", "waiting_for_data", "peak_memory_gib")  # of the run, not of the result
_DEVELOPMENT_BATCH = 256


@dataclass(frozen=True)
class LabelledImages:
    """Decoded crops (N, S, S, 3) uint8 and the index of each one's SKU (N,) int64."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class TrainingImages:
    """The images that training sees: never a row of an evaluation query.

    Attributes:
        images: catalog crops and `train` queries of training SKUs.
        development: `development` queries, for choosing the epoch.
        categories: (S,) category of each of the S SKUs, which are the classes.
    """

    images: LabelledImages
    development: LabelledImages
    categories: NDArray[np.int64]

    @property
    def num_skus(self) -> int:
        return len(self.categories)


class TrainableEncoder(Protocol):
    """What the loop must know of an encoder: where it runs and how its pixels are scaled."""

    device: torch.device

    @property
    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]: ...


class Trainer(ABC):
    """State of one training.

    Args:
        learner: every module that learns.
        trunk: the part of it with a learning rate of its own, the pretrained one.
        image_size: height and width of the input in pixels.
        scratch: a folder that survives a killed run.

    Raises:
        UserError: fewer than two SKUs or images to train on.
    """

    def __init__(
        self,
        encoder: TrainableEncoder,
        learner: nn.Module,
        trunk: nn.Module,
        image_size: tuple[int, int],
        data: TrainingImages,
        settings: TrainingSettings,
        seed: int,
        scratch: Path,
    ) -> None:
        _require_two_skus(data)
        self.encoder, self.learner, self.trunk, self.image_size = encoder, learner, trunk, image_size
        self.data, self.settings, self.seed, self.device = data, settings, seed, encoder.device
        self.mixed_precision = multiplies_bfloat16(self.device)
        self.optimizer = torch.optim.AdamW(
            self._parameter_groups(), weight_decay=settings.weight_decay, fused=True
        )
        decay = settings.ema_decay
        self.average = (
            AveragedModel(learner, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
            if decay is not None
            else None
        )
        self.steps_per_epoch = len(self._batches(Generator()))
        self.epoch = 0
        self.history: History = []
        self.last_path, self.best_path = scratch / "last.pt", scratch / "best.pt"
        self.prefetcher = Prefetcher()

    @abstractmethod
    def loss(self, pixels: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """What is minimised, and its parts by name; `pixels` (B, 3, *image_size) are augmented."""

    @abstractmethod
    def logits(self, learner: nn.Module, pixels: Tensor) -> Tensor:
        """(B, S) similarity of images to SKUs by `learner` in evaluation mode."""

    def begin_epoch(self) -> None:  # noqa: B027
        """Called before the batches of an epoch; what a trainer waits for here counts as waiting for data."""

    @property
    def kept(self) -> nn.Module:
        """The learner whose weights are judged and kept: the moving average where there is one."""
        return self.learner if self.average is None else self.average.module

    def run(self, log: Log) -> History:
        """Trains to the end, and leaves the learner with the weights of the best epoch."""
        try:
            self._resume(log)
            while self.epoch < self.settings.epochs:
                row = self._run_epoch()
                self._checkpoint()
                log(_line(row, self.settings.epochs))
            best = torch.load(self.best_path, map_location=self.device, weights_only=True)
            self.learner.load_state_dict(best)
            self.learner.eval()
            return self.history
        finally:
            self.prefetcher.close()

    def _run_epoch(self) -> dict[str, float]:
        started, self.prefetcher.waited = time.perf_counter(), 0.0
        generator = Generator().manual_seed(self.seed * 100_003 + self.epoch)
        torch.manual_seed(self.seed * 100_003 + self.epoch)  # dropout inside the towers
        self._set_train_mode()
        self.begin_epoch()
        batches = self._batches(generator)
        steps = [
            self._step(step, pixels, chosen, generator)
            for step, (chosen, pixels) in enumerate(self.prefetcher.each(self._load, batches))
        ]
        totals = {name: sum(float(step[name]) / len(steps) for step in steps) for name in steps[0]}
        seconds = time.perf_counter() - started
        self.epoch += 1
        row = {
            "epoch": self.epoch,
            **totals,
            "learning_rate": self.optimizer.param_groups[1]["lr"],
            "development_accuracy": self._development_accuracy(),
            "images_per_second": sum(map(len, batches)) / seconds,
            "waiting_for_data": self.prefetcher.waited / seconds,
            "peak_memory_gib": peak_memory_gib(self.device),
        }
        self.history.append(row)
        return row

    def _batches(self, generator: Generator) -> list[Tensor]:
        batches = epoch_batches(self.data.images.labels, self.data.categories, self.settings, generator)
        return [chosen.sort().values for chosen in batches]  # read the file from front to back

    def _load(self, chosen: Tensor) -> Tensor:
        pixels = torch.from_numpy(self.data.images.pixels[chosen.numpy()])
        return pixels.pin_memory() if self.device.type == "cuda" else pixels

    def _step(self, step: int, pixels: Tensor, chosen: Tensor, generator: Generator) -> dict[str, Tensor]:
        self._set_learning_rate(self.epoch * self.steps_per_epoch + step)
        labels = torch.from_numpy(self.data.images.labels[chosen.numpy()]).to(self.device)
        # bfloat16 has float32's range: no gradient scaling is needed.
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.mixed_precision):
            changed = augment(
                self._unit_pixels(pixels), self.image_size, self.settings.augmentation, generator
            )
            loss, parts = self.loss(self._normalised(changed), labels, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.settings.clip_gradient)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.learner)
        # Left on the device: reading a number would wait for the GPU at every step.
        return {name: value.detach() for name, value in parts.items()} | {"gradient_norm": norm.detach()}

    @torch.inference_mode()
    def _development_accuracy(self) -> float:
        """Share of development queries whose nearest SKU is theirs; nan without queries."""
        images, learner = self.data.development, self.kept.eval()
        if len(images.labels) == 0:
            return float("nan")
        hits = 0
        for start in range(0, len(images.labels), _DEVELOPMENT_BATCH):
            stop = start + _DEVELOPMENT_BATCH
            pixels = self._unit_pixels(torch.from_numpy(np.array(images.pixels[start:stop])))
            pixels = nn.functional.interpolate(pixels, size=self.image_size, mode="bilinear", antialias=True)
            labels = torch.from_numpy(images.labels[start:stop]).to(self.device)
            hits += int((self.logits(learner, self._normalised(pixels)).argmax(dim=1) == labels).sum())
        return hits / len(images.labels)

    def _unit_pixels(self, pixels: Tensor) -> Tensor:
        """(B, S, S, 3) bytes as (B, 3, S, S) in [0, 1] on the device."""
        return pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float() / 255

    def _normalised(self, pixels: Tensor) -> Tensor:
        mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in self.encoder.mean_and_std)
        return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)

    def _set_train_mode(self) -> None:
        self.learner.train()
        if self.settings.freeze_batch_norm:
            for module in self.trunk.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _parameter_groups(self) -> list[dict[str, Any]]:
        trunk = list(self.trunk.parameters())
        known = {id(parameter) for parameter in trunk}
        rest = [p for p in self.learner.parameters() if id(p) not in known and p.requires_grad]
        return [{"params": trunk}, {"params": rest}]

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

    def _checkpoint(self) -> None:
        """Saves the epoch just run, and what is kept where it is the best so far."""
        accuracies = [row["development_accuracy"] for row in self.history]
        if math.isnan(accuracies[-1]) or accuracies[-1] >= max(accuracies):
            _save(self.kept.state_dict(), self.best_path)
        state = {
            "epoch": self.epoch,
            "learner": self.learner.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
        }
        _save(state, self.last_path)

    def _resume(self, log: Log) -> None:
        if not self.last_path.exists():
            return
        state = torch.load(self.last_path, map_location=self.device, weights_only=True)
        self.learner.load_state_dict(state["learner"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch = state["epoch"]
        self.history = state["history"]
        log(f"resuming after epoch {self.epoch} of {self.settings.epochs}")


def best_epoch(history: History) -> dict[str, float]:
    """The row of the epoch whose weights were kept."""
    last_first = history[::-1]
    return max(last_first, key=lambda row: -1.0 if math.isnan(a := row["development_accuracy"]) else a)


def learning_curve(history: History) -> History:
    """What the seed decides of a history: the losses, not the speed."""
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in history]


def speed(history: History) -> dict[str, float]:
    """What the run measured of itself: mean rate and share of waiting, highest memory."""
    rate, waiting, memory = ([row[name] for row in history] for name in MEASURED)
    return {
        "images_per_second": round(float(np.mean(rate)), 1),
        "waiting_for_data": round(float(np.mean(waiting)), 4),
        "peak_memory_gib": round(max(memory), 3),
    }


def _require_two_skus(data: TrainingImages) -> None:
    """Refuses a data set that nothing can be learnt from."""
    if data.num_skus < 2 or len(data.images.labels) < 2:
        raise UserError(
            f"fine-tuning needs images of two training SKUs at least; found {len(data.images.labels)} images "
            f"of {data.num_skus} SKUs (is the train split empty?)"
        )


def _line(row: dict[str, float], epochs: int) -> str:
    told = [f"{name.replace('_', ' ')} {row[name]:.3f}" for name in row if name.endswith("loss")]
    return (
        f"epoch {row['epoch']}/{epochs}: {', '.join(told)}, "
        f"development accuracy {row['development_accuracy']:.3f}, learning rate {row['learning_rate']:.2g}, "
        f"gradient norm {row['gradient_norm']:.2f}, {row['images_per_second']:.0f} images/s, "
        f"{row['waiting_for_data']:.1%} of the time waiting for data"
    )


def _save(state: dict[str, Any], path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)
