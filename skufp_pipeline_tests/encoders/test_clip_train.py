"""Fine-tuning of CLIP: it learns, it can be repeated, and every setting matters."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from skufp_pipeline.encoders.clip import Encoder, create_encoder, image_trunk
from skufp_pipeline.encoders.clip_train import LabelledTexts, TrainingData, fine_tune
from skufp_pipeline.encoders.settings import ClipTrainingSettings, EncoderSettings
from skufp_pipeline.training.history import learning_curve
from skufp_pipeline.training.images import LabelledImages
from skufp_pipeline.training.settings import AugmentationSettings

from .conftest import CPU

SKUS, SIDE = 4, 16
SHORT: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 5,
    "learning_rate": 3e-3,
    "backbone_learning_rate": 1e-3,
    "head_only_epochs": 0,
    "warmup_fraction": 0.1,
    "weight_decay": 0.05,
    "scale": 16.0,
    "margin": 0.1,
    "text_weight": 0.5,
    "freeze_batch_norm": False,
    "augmentation": AugmentationSettings(crop_scale=(0.8, 1.0), brightness=0.1, contrast=0.1, saturation=0.1),
}
Weights = dict[str, Tensor]


def silent(message: str) -> None:
    pass


def images(each: int, seed: int) -> LabelledImages:
    """Noisy squares, each SKU about its own grey level."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(SKUS), each)
    noise = rng.integers(0, 40, (len(labels), SIDE, SIDE, 3))
    return LabelledImages((noise + 50 * labels[:, None, None, None]).astype(np.uint8), labels)


def texts(epoch: int) -> LabelledTexts:
    return LabelledTexts([f"garment {sku} {epoch}" for sku in range(SKUS)], np.arange(SKUS))


def make_data(texts: Callable[[int], LabelledTexts] = texts, development: int = 2) -> TrainingData:
    return TrainingData(images(3, 0), images(development, 1), np.zeros(SKUS, np.int64), texts)


def tune(
    encoder_settings: EncoderSettings,
    scratch: Path,
    data: TrainingData | None = None,
    seed: int = 5,
    log: Callable[[str], None] = silent,
    **changes: Any,
) -> tuple[Encoder, list[dict[str, float]]]:
    """A new encoder fine-tuned on the data of this module."""
    scratch.mkdir(exist_ok=True)
    encoder = create_encoder(encoder_settings, CPU, seed=1)
    settings = ClipTrainingSettings(**SHORT | changes)
    return encoder, fine_tune(encoder, data or make_data(), settings, seed, scratch, log)


def weights(encoder: Encoder) -> Weights:
    return {name: value.clone() for name, value in encoder.model.state_dict().items()}


def equal(one: Weights, other: Weights) -> bool:
    return set(one) == set(other) and all(one[name].equal(other[name]) for name in one)


def test_the_same_seed_gives_the_same_weights_and_history(settings: EncoderSettings, tmp_path: Path) -> None:
    one, history = tune(settings, tmp_path / "one")
    two, again = tune(settings, tmp_path / "two")
    assert equal(weights(one), weights(two))
    assert learning_curve(history) == learning_curve(again)
    other, _ = tune(settings, tmp_path / "other", seed=6)
    assert not equal(weights(one), weights(other))


def test_training_learns_to_tell_the_skus(settings: EncoderSettings, tmp_path: Path) -> None:
    encoder, history = tune(settings, tmp_path, epochs=12, learning_rate=0.01, backbone_learning_rate=0.01)
    assert history[-1]["image_loss"] < 0.7 * history[0]["image_loss"]
    assert history[-1]["text_loss"] < history[0]["text_loss"]
    assert max(row["development_accuracy"] for row in history) >= 0.5
    assert not encoder.model.training


def test_stochastic_depth_changes_what_is_learnt(settings: EncoderSettings, tmp_path: Path) -> None:
    dropping = settings.model_copy(update={"image_tower_kwargs": {"drop_path_rate": 0.5}})
    dropped, _ = tune(dropping, tmp_path / "dropped")
    assert not equal(weights(dropped), weights(tune(settings, tmp_path / "plain")[0]))


def test_the_history_has_a_row_an_epoch(settings: EncoderSettings, tmp_path: Path) -> None:
    said: list[str] = []
    _, history = tune(settings, tmp_path, log=said.append)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert all(math.isfinite(value) for row in history for value in row.values())
    assert [line.split(": ")[1] for line in said] == [f"epoch {number}/3" for number in (1, 2, 3)]


def test_without_development_queries_the_last_epoch_is_kept(
    settings: EncoderSettings, tmp_path: Path
) -> None:
    _, history = tune(settings, tmp_path, data=make_data(development=0))
    assert len(history) == 3
    assert all(math.isnan(row["development_accuracy"]) for row in history)


def test_without_texts_the_text_tower_is_not_trained(settings: EncoderSettings, tmp_path: Path) -> None:
    data = make_data(lambda epoch: LabelledTexts([], np.empty(0, np.int64)))
    _, history = tune(settings, tmp_path, data=data)
    assert [row["text_loss"] for row in history] == [0, 0, 0]
    assert all(math.isfinite(row["image_loss"]) for row in history)


def test_the_trunk_rests_while_the_head_settles(settings: EncoderSettings, tmp_path: Path) -> None:
    before = create_encoder(settings, CPU, seed=1)
    trained, _ = tune(settings, tmp_path, epochs=2, head_only_epochs=2)
    trunk, old = dict(image_trunk(trained.model).named_parameters()), image_trunk(before.model)
    assert all(value.equal(trunk[name]) for name, value in old.named_parameters())
    assert not trained.model.visual.head.proj.weight.equal(before.model.visual.head.proj.weight)
    moved, _ = tune(settings, tmp_path / "moved", epochs=2, head_only_epochs=1)
    trunk = dict(image_trunk(moved.model).named_parameters())
    assert not any(value.equal(trunk[name]) for name, value in old.named_parameters() if value.dim() > 1)


@pytest.mark.parametrize("frozen", [True, False])
def test_running_statistics_stay_where_they_are_frozen(
    settings: EncoderSettings, tmp_path: Path, frozen: bool
) -> None:
    before = create_encoder(settings, CPU, seed=1)
    trained, _ = tune(settings, tmp_path, freeze_batch_norm=frozen)
    norms = [module for module in image_trunk(trained.model).modules() if isinstance(module, nn.BatchNorm2d)]
    old = [module for module in image_trunk(before.model).modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    for now, then in zip(norms, old, strict=True):
        assert now.running_mean is not None
        assert now.running_mean.equal(then.running_mean) is frozen


def test_a_tower_of_open_clips_own_is_trained_too(vit_settings: EncoderSettings, tmp_path: Path) -> None:
    before = create_encoder(vit_settings, CPU, seed=1)
    trained, history = tune(vit_settings, tmp_path, epochs=1)
    assert math.isfinite(history[0]["image_loss"])
    assert not trained.model.visual.conv1.weight.equal(before.model.visual.conv1.weight)


@pytest.mark.parametrize(("kept", "num_skus"), [(0, 0), (3, 1), (1, 2)])
def test_with_too_little_to_train_on_the_encoder_stays_as_it_is_and_that_is_told(
    settings: EncoderSettings, tmp_path: Path, kept: int, num_skus: int
) -> None:
    every = images(3, 0)
    few = LabelledImages(every.pixels[:kept], every.labels[:kept])
    data = TrainingData(few, few, np.zeros(num_skus, np.int64), texts)
    told: list[str] = []
    before = create_encoder(settings, CPU, seed=1).model.state_dict()
    encoder = create_encoder(settings, CPU, seed=1)
    assert fine_tune(encoder, data, ClipTrainingSettings(epochs=1), 5, tmp_path, told.append) == []
    assert f"two training SKUs at least; found {kept} images of {num_skus} SKUs" in told[0]
    assert all(value.equal(before[name]) for name, value in encoder.model.state_dict().items())


@pytest.mark.parametrize(
    "changes",
    [
        {"margin": 0.4},
        {"images_per_sku": 2},
        {"images_per_sku": 2, "centroid_weight": 1.0},
        {"head_only_epochs": 1},
        {"backbone_learning_rate": 1e-4},
        {"ema_decay": 0.5},
    ],
    ids=str,
)
def test_every_switch_changes_what_is_learnt(
    settings: EncoderSettings, tmp_path: Path, changes: dict[str, Any]
) -> None:
    changed, history = tune(settings, tmp_path / "changed", **changes)
    assert not equal(weights(changed), weights(tune(settings, tmp_path / "plain")[0]))
    assert ("centroid_loss" in history[0]) == ("centroid_weight" in changes)


def test_batches_of_one_category_change_what_is_learnt(settings: EncoderSettings, tmp_path: Path) -> None:
    data = TrainingData(images(3, 0), images(2, 1), np.array([0, 0, 1, 1]), texts)
    changed, _ = tune(settings, tmp_path / "changed", data=data, same_category=True)
    assert not equal(weights(changed), weights(tune(settings, tmp_path / "plain", data=data)[0]))
