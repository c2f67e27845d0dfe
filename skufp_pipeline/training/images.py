"""Trains image towers in epochs over decoded crops; the caller supplies the loss and the score.

The random numbers of an epoch depend on (seed, epoch) only. Threads prefetch the next batches.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from skufp_pipeline.errors import TooLittleError
from skufp_pipeline.training.augment import augment
from skufp_pipeline.training.device import multiplies_bfloat16, peak_memory_gib
from skufp_pipeline.training.history import History
from skufp_pipeline.training.loop import Log, Part, Training, set_learning_rate
from skufp_pipeline.training.prefetch import Prefetcher
from skufp_pipeline.training.sampling import epoch_batches
from skufp_pipeline.training.schedule import warm_cosine
from skufp_pipeline.training.settings import TrainingSettings

_DEVELOPMENT_BATCH = 256


@dataclass(frozen=True)
class LabelledImages:
    """Decoded crops (N, S, S, 3) uint8, the SKU index of each (N,) int64, and which are customers' photos.

    `boxed` (N,) is given where the squares show more than the item, for `AugmentationSettings.box_jitter`:
    whether an item has a box whose edges are moved (`augment`).
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    is_street: NDArray[np.bool_] | None = None  # (N,); None where it is not known
    boxed: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class TrainingImages:
    """The images used in training; evaluation queries are never among them."""

    images: LabelledImages  # catalog crops and `train` queries of training SKUs
    development: LabelledImages  # `development` queries, used to select the epoch
    categories: NDArray[np.int64]  # (S,) category of each SKU; the SKUs are the classes

    @property
    def num_skus(self) -> int:
        return len(self.categories)


class ImageTower(Protocol):
    """The properties of an encoder that training needs: its device and pixel normalisation."""

    device: torch.device

    @property
    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]: ...


@dataclass(frozen=True)
class Batch:
    """Network input of one step."""

    pixels: Tensor  # (B, 3, *image_size), normalised; augmented in training
    labels: Tensor  # (B,) SKU index of each image
    rows: Tensor  # (B,) row of each image in its `LabelledImages`, on the CPU
    generator: Generator  # source of the random numbers that the loss draws
    of_epoch: Any = None  # result of the trainer's `of_epoch` for this epoch


Loss = Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]
Score = Callable[[nn.Module, Iterable[Batch]], float]
Sampler = Callable[[LabelledImages, Generator], list[Tensor]]  # the rows of each batch of an epoch


def train_images(
    name: str,
    encoder: ImageTower,
    learner: nn.Module,
    trunk: nn.Module,
    image_size: tuple[int, int],
    data: TrainingImages,
    settings: TrainingSettings,
    loss: Loss,
    development_score: Score,
    seed: int,
    scratch: Path,
    log: Log,
    quality: str = "development_accuracy",
    of_epoch: Callable[[int], Any] = lambda epoch: None,
    sampler: Sampler | None = None,
) -> History:
    """Trains `learner` in place and leaves it with the weights of the epoch with the highest score.

    Args:
        learner: contains every module that is trained.
        trunk: the pretrained part of `learner`, which has its own learning rate.
        image_size: height and width of the input in pixels.
        loss: returns the value to minimise, and its parts by name for the history.
        development_score: scores a learner in evaluation mode (the moving average, if enabled) on the
            development images; higher is better, nan where there are none.
        quality: name of the score in the history.
        of_epoch: computes additional data for an epoch's batches, on a thread during the previous epoch.
        sampler: draws the batches, as many in every epoch, of the development images too, which are then
            augmented alike for every score; by default the settings draw them (`sampling.epoch_batches`), and
            the development images come in order and as they are.

    Returns:
        One dict per epoch: losses, score, learning rate, gradient norm, speed.

    Raises:
        TooLittleError: fewer than two SKUs or images to train on.
    """
    if (reason := too_few_images(data)) is not None:
        raise TooLittleError(reason)
    loader = _BatchLoader(encoder, image_size, data, settings, sampler)
    groups = _parameter_groups(learner, trunk)
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)
    average = moving_average(learner, settings.ema_decay)
    kept = learner if average is None else average.module
    state: dict[str, Part] = {"learner": learner, "optimizer": optimizer}
    training = Training(name, scratch, state | ({"average": average} if average else {}), log)
    mixed_precision = multiplies_bfloat16(encoder.device)
    steps = len(loader.batches(Generator()))
    with loader.prefetcher as prefetcher:
        extras = prefetcher.each(of_epoch, range(training.done, settings.epochs), ahead=1)
        for epoch in training.rounds(settings.epochs, patience=settings.patience):
            started, prefetcher.waited = time.perf_counter(), 0.0
            generator = Generator().manual_seed(seed * 100_003 + epoch)
            torch.manual_seed(seed * 100_003 + epoch)  # dropout inside the towers
            _set_train_mode(learner, trunk, settings.freeze_batch_norm)
            _, extra = next(extras)
            batches = loader.batches(generator)
            results: list[dict[str, Tensor]] = []
            for rows, pixels in prefetcher.each(loader.load, batches):
                set_learning_rate(optimizer, *_learning_rates(epoch * steps + len(results), steps, settings))
                # bfloat16 has float32's range: no gradient scaling is needed.
                with torch.autocast(encoder.device.type, dtype=torch.bfloat16, enabled=mixed_precision):
                    total, parts = loss(loader.batch(rows, pixels, generator, extra))
                optimizer.zero_grad(set_to_none=True)
                total.backward()
                norm = nn.utils.clip_grad_norm_(parameters, settings.clip_gradient)
                optimizer.step()
                if average is not None:
                    average.update_parameters(learner)
                # Kept on the device: reading a value would synchronise with the GPU at every step.
                parts["gradient_norm"] = norm
                results.append({part: value.detach() for part, value in parts.items()})
            means = {part: sum(float(step[part]) / len(results) for step in results) for part in results[0]}
            seconds = time.perf_counter() - started
            with torch.inference_mode():
                score = development_score(kept.eval(), loader.development())
            row = {
                "epoch": epoch + 1,
                **means,
                "learning_rate": optimizer.param_groups[1]["lr"],
                quality: score,
                "images_per_second": sum(map(len, batches)) / seconds,
                "waiting_for_data": prefetcher.waited / seconds,
                "peak_memory_gib": peak_memory_gib(encoder.device),
            }
            training.history.append(row)
            training.keep_best(score, kept)
            log(f"{name}: {_epoch_summary(row, settings.epochs, quality)}")
    training.load_best(learner)
    return training.history


def plain_batches(
    encoder: ImageTower, image_size: tuple[int, int], images: LabelledImages
) -> Iterator[Batch]:
    """Yields images in order, not augmented, as input of `encoder`."""
    data = TrainingImages(images, images, np.zeros(0, np.int64))
    loader = _BatchLoader(encoder, image_size, data, TrainingSettings(), None)
    return loader.plain(images, Generator().manual_seed(0))


def development_batches(
    encoder: ImageTower,
    image_size: tuple[int, int],
    data: TrainingImages,
    settings: TrainingSettings,
    sampler: Sampler | None = None,
) -> Iterator[Batch]:
    """Yields the development images as a score gets them."""
    return _BatchLoader(encoder, image_size, data, settings, sampler).development()


def sample_batch(
    encoder: ImageTower,
    image_size: tuple[int, int],
    data: TrainingImages,
    settings: TrainingSettings,
    sampler: Sampler | None = None,
) -> Batch:
    """Returns the first batch that a score gets; of the training images where there are none to judge on."""
    every = (
        development_batches(encoder, image_size, replace(data, development=images), settings, sampler)
        for images in (data.development, data.images)
    )
    return next(batch for batches in every for batch in batches)


def accuracy(logits: Callable[[nn.Module, Tensor], Tensor]) -> Score:
    """Returns a score: the share of images whose largest logit is that of their SKU, nan without images.

    `logits` computes (B, S) SKU logits of images (B, 3, H, W) with a learner.
    """

    def score(learner: nn.Module, batches: Iterable[Batch]) -> float:
        found = [logits(learner, batch.pixels).argmax(dim=1) == batch.labels for batch in batches]
        return sum(int(correct.sum()) for correct in found) / sum(map(len, found)) if found else math.nan

    return score


def moving_average(learner: nn.Module, decay: float | None) -> AveragedModel | None:
    """Returns an exponential moving average of the weights and buffers, or None without a decay."""
    if decay is None:
        return None
    return AveragedModel(learner, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


class _BatchLoader:
    """Loads images from the decoded arrays and prepares them as network input."""

    def __init__(
        self,
        encoder: ImageTower,
        image_size: tuple[int, int],
        data: TrainingImages,
        settings: TrainingSettings,
        sampler: Sampler | None,
    ) -> None:
        self.encoder, self.image_size, self.data, self.settings = encoder, image_size, data, settings
        self.sampler = sampler
        self.has_photos = data.images.is_street is not None and bool(data.images.is_street.any())
        self.prefetcher = Prefetcher()

    def batches(self, generator: Generator) -> list[Tensor]:
        if self.sampler is not None:
            return self.sampler(self.data.images, generator)
        batches = epoch_batches(self.data.images.labels, self.data.categories, self.settings, generator)
        return [rows.sort().values for rows in batches]  # for sequential reads of the file

    def load(self, rows: Tensor) -> Tensor:
        pixels = torch.from_numpy(self.data.images.pixels[rows.numpy()])
        return pixels.pin_memory() if self.encoder.device.type == "cuda" else pixels

    def batch(self, rows: Tensor, pixels: Tensor, generator: Generator, extra: Any) -> Batch:
        return self._augmented(self.data.images, rows, pixels, generator, extra)

    def _augmented(
        self, images: LabelledImages, rows: Tensor, pixels: Tensor, generator: Generator, extra: Any = None
    ) -> Batch:
        labels = torch.from_numpy(images.labels[rows.numpy()]).to(self.encoder.device)
        unit, street, shop = self._unit(pixels), self.settings.augmentation, self.settings.shop_augmentation
        boxed = None if images.boxed is None else torch.from_numpy(images.boxed[rows.numpy()])
        if shop is None or not self.has_photos or images.is_street is None:
            changed = augment(unit, self.image_size, street, generator, boxed)
        else:
            is_street = torch.from_numpy(images.is_street[rows.numpy()]).to(unit.device)
            changed = unit.new_empty((len(unit), 3, *self.image_size))
            shop = shop.model_copy(update={"box_jitter": street.box_jitter})  # the squares have one margin
            for chosen, settings in ((is_street, street), (~is_street, shop)):
                if chosen.any():
                    own = None if boxed is None else boxed[chosen.cpu()]
                    changed[chosen] = augment(unit[chosen], self.image_size, settings, generator, own)
        return Batch(self._normalised(changed), labels, rows, generator, extra)

    def development(self) -> Iterator[Batch]:
        """Yields the development images with the same random numbers in every epoch."""
        images, generator = self.data.development, Generator().manual_seed(0)
        if self.sampler is None:
            yield from self.plain(images, generator)
            return
        for rows in self.sampler(images, generator) if len(images.labels) else ():
            yield self._augmented(images, rows, torch.from_numpy(images.pixels[rows.numpy()]), generator)

    def plain(self, images: LabelledImages, generator: Generator) -> Iterator[Batch]:
        """Yields images in order, not augmented."""
        for rows in torch.arange(len(images.labels)).split(_DEVELOPMENT_BATCH) if len(images.labels) else ():
            pixels = self._unit(torch.from_numpy(images.pixels[rows.numpy()]))
            pixels = nn.functional.interpolate(pixels, size=self.image_size, mode="bilinear", antialias=True)
            labels = torch.from_numpy(images.labels[rows.numpy()]).to(self.encoder.device)
            yield Batch(self._normalised(pixels), labels, rows, generator)

    def _unit(self, pixels: Tensor) -> Tensor:
        """Converts (B, S, S, 3) uint8 to (B, 3, S, S) in [0, 1] on the device."""
        return pixels.to(self.encoder.device, non_blocking=True).permute(0, 3, 1, 2).float() / 255

    def _normalised(self, pixels: Tensor) -> Tensor:
        mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in self.encoder.mean_and_std)
        return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


def _set_train_mode(learner: nn.Module, trunk: nn.Module, freeze_batch_norm: bool) -> None:
    learner.train()
    for module in trunk.modules() if freeze_batch_norm else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _parameter_groups(learner: nn.Module, trunk: nn.Module) -> list[dict[str, list[nn.Parameter]]]:
    """Returns the trunk's parameters, then the other parameters that require a gradient."""
    first = list(trunk.parameters())
    known = {id(parameter) for parameter in first}
    rest = [p for p in learner.parameters() if id(p) not in known and p.requires_grad]
    return [{"params": first}, {"params": rest}]


def _learning_rates(step: int, steps_per_epoch: int, settings: TrainingSettings) -> tuple[float, float]:
    """Returns the rates of the trunk, which starts after `head_only_epochs`, and of the other parameters."""
    total = settings.epochs * steps_per_epoch
    rest = settings.head_only_epochs * steps_per_epoch
    schedule = warm_cosine(step, total, settings.warmup_fraction)
    trunk = 0.0 if step < rest else warm_cosine(step - rest, total - rest, settings.warmup_fraction)
    return settings.backbone_learning_rate * trunk, settings.learning_rate * schedule


def too_few_images(data: TrainingImages) -> str | None:
    """Returns why a tower can't be trained; None with images of two SKUs."""
    if data.num_skus >= 2 and len(data.images.labels) >= 2:
        return None
    return (
        f"fine-tuning needs images of two training SKUs at least; found {len(data.images.labels)} images "
        f"of {data.num_skus} SKUs (is the train split empty?)"
    )


def _epoch_summary(row: dict[str, float], epochs: int, quality: str) -> str:
    losses = [name for name in row if name.endswith("loss") and name != quality]
    known = [name for name in [*losses, quality] if not math.isnan(row[name])]
    figures = ", ".join(f"{name.replace('_', ' ')} {row[name]:.3f}" for name in known)
    return (
        f"epoch {row['epoch']}/{epochs}: {figures}, learning rate {row['learning_rate']:.2g}, "
        f"gradient norm {row['gradient_norm']:.2f}, {row['images_per_second']:.0f} images/s, "
        f"{row['waiting_for_data']:.1%} of the time waiting for data"
    )
