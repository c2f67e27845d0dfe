"""Training of Baseline 1: it learns, it can be repeated, and it tells how it goes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skufp_pipeline.errors import UserError
from skufp_pipeline.extractors.extractor import Extractor, create_extractor
from skufp_pipeline.extractors.objective import ExtractorData
from skufp_pipeline.extractors.settings import ReidSettings, ReidTrainingSettings
from skufp_pipeline.extractors.train import train_extractor
from skufp_pipeline.training.history import learning_curve
from skufp_pipeline.training.settings import AugmentationSettings

from ..encoders.conftest import CPU
from ..encoders.test_clip_train import SKUS, images, silent

SHORT: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 12,
    "images_per_sku": 3,
    "learning_rate": 3e-3,
    "backbone_learning_rate": 3e-3,
    "augmentation": AugmentationSettings(crop_scale=(0.8, 1.0), brightness=0.1, contrast=0.1, saturation=0.1),
}
DATA = ExtractorData(images(3, 0), images(2, 1), np.zeros(SKUS, np.int64))


def train(
    scratch: Path,
    seed: int = 5,
    data: ExtractorData = DATA,
    log: Callable[[str], None] = silent,
    **changes: Any,
) -> tuple[Extractor, list[dict[str, float]]]:
    scratch.mkdir(exist_ok=True)
    training = ReidTrainingSettings(**SHORT | changes)
    settings = ReidSettings(model="test_resnet", image_size=(32, 24), dimension=16, training=training)
    encoder = create_extractor(settings, CPU, seed=1)
    history = train_extractor(encoder, data, settings, seed, scratch, log).history
    return encoder, history


def same(one: Extractor, other: Extractor) -> bool:
    first, second = one.tower.state_dict(), other.tower.state_dict()
    return all(first[name].equal(second[name]) for name in first)


def test_it_learns_to_tell_the_skus(tmp_path: Path) -> None:
    encoder, history = train(tmp_path, epochs=20, learning_rate=0.03, backbone_learning_rate=0.01)
    assert history[-1]["identity_loss"] < 0.5 * history[0]["identity_loss"]
    assert history[-1]["triplet_loss"] < 0.5 * history[0]["triplet_loss"]
    assert max(row["development_accuracy"] for row in history) >= 0.75
    assert not encoder.tower.training


def test_the_same_seed_gives_the_same_weights_and_losses(tmp_path: Path) -> None:
    one, history = train(tmp_path / "one")
    two, again = train(tmp_path / "two")
    assert same(one, two)
    assert learning_curve(history) == learning_curve(again)
    assert not same(one, train(tmp_path / "three", seed=6)[0])


def test_the_log_tells_losses_rates_and_waiting(tmp_path: Path) -> None:
    said: list[str] = []
    train(tmp_path, epochs=1, log=said.append)
    for word in ("identity loss", "triplet loss", "learning rate", "gradient norm", "images/s", "waiting"):
        assert word in said[0]


def test_one_sku_is_too_little_to_train_on(tmp_path: Path) -> None:
    few = ExtractorData(images(3, 0), images(2, 1), np.zeros(1, np.int64))
    with pytest.raises(UserError, match="two training SKUs at least"):
        train(tmp_path, data=few)
