"""Image towers are trained by any loss and judged by any score, with classes or without."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from skufp_pipeline.training.history import History
from skufp_pipeline.training.images import (
    Batch,
    LabelledImages,
    Loss,
    Score,
    TrainingImages,
    accuracy,
    train_images,
)
from skufp_pipeline.training.settings import TrainingSettings

from .trainings import CPU, images

DATA = TrainingImages(images(3, 0), images(2, 1), np.zeros(4, np.int64))
TOWER: Any = SimpleNamespace(device=CPU, mean_and_std=((0.5,) * 3, (0.25,) * 3))


def autoencoder() -> nn.ModuleDict:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU())
    return nn.ModuleDict({"trunk": trunk, "head": nn.ConvTranspose2d(8, 3, 4, stride=4)})


def train(
    learner: nn.ModuleDict,
    loss: Loss,
    score: Score,
    scratch: Path,
    **settings: Any,
) -> History:
    def nothing(line: str) -> None:
        pass

    of_epoch: Callable[[int], Any] = settings.pop("of_epoch", lambda epoch: None)
    given, sampler = settings.pop("data", DATA), settings.pop("sampler", None)
    options = TrainingSettings(**{"epochs": 3, "batch_size": 6, "learning_rate": 0.01} | settings)
    return train_images(
        "toy", TOWER, learner, learner["trunk"], (8, 8), given, options, loss, score, 0, scratch, nothing,
        "development_score", of_epoch, sampler,
    )  # fmt: skip


def rebuilt(learner: Any, pixels: Tensor) -> Tensor:
    made: Tensor = learner["head"](learner["trunk"](pixels))
    return made


def negative_error(learner: nn.Module, batches: Iterable[Batch]) -> float:
    return -float(np.mean([float(F.mse_loss(rebuilt(learner, b.pixels), b.pixels)) for b in batches]))


def constant(learner: nn.Module, batches: Iterable[Batch]) -> float:
    return math.nan


def test_a_reconstruction_is_learnt_and_judged_by_its_error(tmp_path: Path) -> None:
    learner = autoencoder()

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        error = F.mse_loss(rebuilt(learner, batch.pixels), batch.pixels)
        return error, {"reconstruction_loss": error}

    history = train(learner, loss, negative_error, tmp_path, epochs=30, backbone_learning_rate=0.01)
    assert history[-1]["reconstruction_loss"] < 0.5 * history[0]["reconstruction_loss"]
    assert max(row["development_score"] for row in history) > 2 * history[0]["development_score"]
    assert not learner.training


def test_masked_patches_are_drawn_from_the_epochs_generator_and_alike_for_every_score(tmp_path: Path) -> None:
    learner, masks = autoencoder(), {"training": [], "development": []}  # type: ignore[var-annotated]

    def masked_error(learner: nn.Module, batch: Batch, kind: str) -> Tensor:
        mask = torch.rand(len(batch.pixels), 1, 2, 2, generator=batch.generator) < 0.5
        masks[kind].append(mask)
        mask = mask.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
        error = (rebuilt(learner, batch.pixels * ~mask) - batch.pixels).square()
        return error[mask.expand(-1, 3, -1, -1)].mean()

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        error = masked_error(learner, batch, "training")
        return error, {"patch_loss": error}

    def score(learner: nn.Module, batches: Iterable[Batch]) -> float:
        return -float(np.mean([float(masked_error(learner, batch, "development")) for batch in batches]))

    history = train(learner, loss, score, tmp_path)
    assert all(math.isfinite(value) for row in history for value in row.values())
    first, second, third = masks["development"]
    assert first.equal(second)
    assert second.equal(third)
    assert not masks["training"][0].equal(masks["training"][2])


def test_a_loss_over_pairs_finds_both_kinds_in_a_batch(tmp_path: Path) -> None:
    learner = nn.ModuleDict({"trunk": nn.Conv2d(3, 4, 8), "head": nn.Linear(4, 4)})
    torch.manual_seed(0)

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        embeddings = learner["head"](learner["trunk"](batch.pixels).flatten(1))
        first, second = torch.triu_indices(len(embeddings), len(embeddings), offset=1)
        same = batch.labels[first] == batch.labels[second]
        assert same.any()
        assert not same.all()
        error = F.cosine_embedding_loss(embeddings[first], embeddings[second], 2.0 * same - 1, margin=0.5)
        return error, {"pair_loss": error}

    history = train(learner, loss, constant, tmp_path, images_per_sku=3)
    assert [math.isnan(row["development_score"]) for row in history] == [True] * 3


def test_a_batch_knows_its_rows_and_what_was_made_for_its_epoch(tmp_path: Path) -> None:
    learner, seen = autoencoder(), []

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        seen.append((batch.of_epoch, batch.rows))
        assert (batch.labels.numpy() == DATA.images.labels[batch.rows.numpy()]).all()
        error = rebuilt(learner, batch.pixels).square().mean()
        return error, {"loss": error}

    train(learner, loss, constant, tmp_path, of_epoch=lambda epoch: f"words of {epoch}")
    assert [words for words, _ in seen] == [f"words of {epoch}" for epoch in (0, 0, 1, 1, 2, 2)]
    assert torch.cat([rows for _, rows in seen[:2]]).sort().values.tolist() == list(range(12))


def test_the_moving_average_is_what_is_judged_and_kept(tmp_path: Path) -> None:
    """After two steps it is 0.75 of the weights of the first and 0.25 of those of the second."""
    learner, seen, judged = autoencoder(), [], []

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        seen.append(learner["head"].weight.detach().clone())
        error = F.mse_loss(rebuilt(learner, batch.pixels), batch.pixels)
        return error, {"loss": error}

    def score(learner: Any, batches: Iterable[Batch]) -> float:
        judged.append(learner["head"].weight.detach().clone())
        return 0.0

    stepped = torch.optim.AdamW.step

    def step(*arguments: Any, **others: Any) -> Any:
        stepped(*arguments, **others)
        seen.append(learner["head"].weight.detach().clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        train(learner, loss, score, tmp_path, epochs=1, ema_decay=0.75)
    _, after_first, _, after_second = seen
    torch.testing.assert_close(judged[0], 0.75 * after_first + 0.25 * after_second)
    assert learner["head"].weight.equal(judged[0])


def test_every_epoch_is_measured(tmp_path: Path) -> None:
    learner = autoencoder()

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        error = F.mse_loss(rebuilt(learner, batch.pixels), batch.pixels)
        return error, {"loss": error}

    for row in train(learner, loss, negative_error, tmp_path):
        assert row["images_per_second"] > 0
        assert 0 <= row["waiting_for_data"] <= 1
        assert row["peak_memory_gib"] > 0


def test_training_ends_after_epochs_without_a_better_score(tmp_path: Path) -> None:
    learner, scores = autoencoder(), iter([1.0, 3.0, 2.0, 2.0, 9.0])

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        error = rebuilt(learner, batch.pixels).square().mean()
        return error, {"loss": error}

    history = train(learner, loss, lambda learner, batches: next(scores), tmp_path, epochs=5, patience=2)
    assert [row["development_score"] for row in history] == [1.0, 3.0, 2.0, 2.0]


def test_photos_are_augmented_as_photos_and_pictures_as_pictures(tmp_path: Path) -> None:
    """Only photos are mirrored; each square is darker at its left."""
    learner, seen = autoencoder(), []
    ramp = np.broadcast_to(np.arange(0, 240, 15, dtype=np.uint8)[:, None], (12, 16, 16, 3))
    is_street = np.arange(12) % 3 == 0
    given = LabelledImages(ramp, DATA.images.labels, is_street)
    plain = {"crop_scale": (1, 1), "crop_ratio": (1, 1), "brightness": 0, "contrast": 0, "saturation": 0}

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        mirrored = batch.pixels[:, 0, 0, 0] > batch.pixels[:, 0, 0, -1]
        seen.extend(zip(batch.rows.tolist(), mirrored.tolist(), strict=True))
        error = rebuilt(learner, batch.pixels).square().mean()
        return error, {"loss": error}

    augmented = {"augmentation": {**plain, "flip": 1}, "shop_augmentation": {**plain, "flip": 0}}
    data = TrainingImages(given, DATA.development, DATA.categories)
    train(learner, loss, constant, tmp_path, epochs=1, data=data, **augmented)
    assert sorted(seen) == [(row, bool(is_street[row])) for row in range(12)]
    seen.clear()
    (tmp_path / "pictures").mkdir()
    none = replace(data, images=replace(given, is_street=np.zeros(12, bool)))
    train(learner, loss, constant, tmp_path / "pictures", epochs=1, data=none, **augmented)
    assert sorted(seen) == [(row, True) for row in range(12)]


def test_a_sampler_draws_batches_to_train_on_and_to_judge_on(tmp_path: Path) -> None:
    learner, trained, judged = autoencoder(), [], []

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        trained.append(batch.rows.tolist())
        error = rebuilt(learner, batch.pixels).square().mean()
        return error, {"loss": error}

    def score(learner: nn.Module, batches: Iterable[Batch]) -> float:
        judged.extend((batch.rows.tolist(), float(batch.pixels.sum())) for batch in batches)
        return 0.0

    def sampler(images: LabelledImages, generator: Generator) -> list[Tensor]:
        last = len(images.labels) - 1
        return [torch.tensor([last, 0, 0]), torch.tensor([1, 2])]

    train(learner, loss, score, tmp_path, epochs=2, sampler=sampler)
    assert trained == [[11, 0, 0], [1, 2]] * 2
    assert [rows for rows, _ in judged] == [[7, 0, 0], [1, 2]] * 2
    assert judged[:2] == judged[2:]  # augmented alike


def test_accuracy_is_the_share_of_largest_logits_that_are_right() -> None:
    def batch(*labels: int) -> Batch:
        one_hot = F.one_hot(torch.tensor([0, 1, 2])[: len(labels)], 3).float()
        return Batch(one_hot, torch.tensor(labels), torch.arange(len(labels)), torch.Generator())

    score = accuracy(lambda learner, pixels: pixels)
    assert score(nn.Identity(), [batch(0, 1, 0), batch(1)]) == 0.5
    assert math.isnan(score(nn.Identity(), []))
