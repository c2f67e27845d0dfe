"""Every extractor learns by its loss, stops when it learns no more, and shows what it was trained on."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skufp_pipeline.errors import TooLittleError
from skufp_pipeline.extractors.extractor import create_extractor
from skufp_pipeline.extractors.objective import ExtractorData
from skufp_pipeline.extractors.settings import NAMES, ExtractorsSettings
from skufp_pipeline.extractors.train import Trained, train_extractor
from skufp_pipeline.training.history import learning_curve

from ..encoders.conftest import CPU
from .examples import data, labelled, nothing, small

LOSS = {
    "reid": "identity_loss",
    "xception": "pair_loss",
    "clip_vit": "pair_loss",
    "resnet50": "triplet_loss",
    "clip": "contrastive_loss",
    "vit": "masked_loss",
    "autoencoder": "reconstruction_loss",
}
COLUMNS = {"xception": 3, "clip_vit": 3, "vit": 3, "autoencoder": 2}  # pictures in a row of the sheet


def train(
    name: str,
    folder: Path,
    given: ExtractorData | None = None,
    changes: dict[str, Any] | None = None,
    **training: Any,
) -> Trained:
    folder.mkdir(exist_ok=True)
    lines: list[str] = []
    settings = small(name, folder, changes, **training)
    extractor = create_extractor(settings, CPU, seed=1)
    made = train_extractor(extractor, given or data(), settings, 5, folder, lines.append)
    assert len(lines) == len(made.history)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls(name: str, tmp_path: Path) -> None:
    rates = {"learning_rate": 0.01, "backbone_learning_rate": 0.01, "epochs": 12}
    if name == "resnet50":  # so wide a margin that no triplet of the grey squares is solved at the start
        rates = {"epochs": 12, "margin": 1.0}
    made = train(name, tmp_path, **rates)
    losses = [row[LOSS[name]] for row in made.history]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    assert made.quality == ("development_accuracy" if name == "reid" else "development_score")
    assert all(math.isfinite(row[made.quality]) for row in made.history)
    assert made.sheet.width == 4 + 100 * COLUMNS.get(name, 1)


def test_an_autoencoder_beats_the_mean_picture(tmp_path: Path) -> None:
    made = train("autoencoder", tmp_path, epochs=40, learning_rate=0.01, backbone_learning_rate=0.01)
    assert made.figures["reconstruction_error"] < 0.5 * made.figures["mean_picture_error"]


def test_the_errors_of_an_autoencoder_are_those_of_the_development_pictures(tmp_path: Path) -> None:
    """The mean of grey levels 0 and 200 is 100, 0.784 from black in pixels between -1 and 1."""
    given = data()
    given.images.pixels[:] = np.where(np.arange(12) % 2, 200, 0)[:, None, None, None]
    given.development.pixels[:] = 0
    made = train("autoencoder", tmp_path, given, epochs=1)
    assert made.figures["mean_picture_error"] == pytest.approx((100 / 127.5) ** 2, rel=1e-4)


@pytest.mark.parametrize("name", ["xception", "resnet50", "clip", "vit", "autoencoder"])
def test_pictures_that_are_each_their_own_product_train_without_photos(name: str, tmp_path: Path) -> None:
    fit, judged = labelled(1, 0, photos=0), labelled(1, 1, photos=0)
    said = [("a thing",)] * 4
    made = train(name, tmp_path, ExtractorData(fit, judged, np.zeros(4, np.int64), said, said))
    assert all(math.isfinite(row[made.quality]) for row in made.history)
    assert all(row[LOSS[name]] > 0 for row in made.history)


def test_without_development_pictures_the_last_epoch_is_kept(tmp_path: Path) -> None:
    given = data(development=0)
    made = train("resnet50", tmp_path, given)
    assert len(given.development.labels) == len(nothing().labels)
    assert len(made.history) == 3
    assert all(math.isnan(row["development_score"]) for row in made.history)


def test_positives_may_be_those_of_a_category(tmp_path: Path) -> None:
    """All SKUs but one pair of categories look alike: what is far apart depends on what is asked for."""
    of_sku = train("resnet50", tmp_path / "sku").history
    of_category = train("resnet50", tmp_path / "category", changes={"positives": "category"}).history
    assert learning_curve(of_sku) != learning_curve(of_category)
    alone = ExtractorData(labelled(3, 0), labelled(2, 1), np.zeros(4, np.int64))
    with pytest.raises(TooLittleError, match="one category alone; set it to sku"):
        train("resnet50", tmp_path / "alone", alone, {"positives": "category"})


def test_the_seed_decides_weights_and_losses(tmp_path: Path) -> None:
    one, same = (train("vit", tmp_path / name).history for name in ("one", "two"))
    assert learning_curve(one) == learning_curve(same)


FULL = {
    "reid": (512, (256, 128)),
    "xception": (512, (299, 299)),
    "clip_vit": (512, (224, 224)),
    "resnet50": (2048, (224, 224)),
    "clip": (512, (224, 224)),
    "vit": (768, (224, 224)),
    "autoencoder": (128, (128, 128)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_tower_of_full_size_has_the_vector_of_its_source_and_takes_a_step(
    name: str, tmp_path: Path
) -> None:
    per_sku = {"images_per_sku": 2} if name in ("reid", "resnet50") else {}
    training = {"epochs": 1, "batch_size": 6 if name in ("xception", "clip_vit") else 4, **per_sku}
    settings = ExtractorsSettings.model_validate({name: {"training": training}}).wanted()[name]
    extractor = create_extractor(settings, CPU, seed=0)
    assert (extractor.dimension, extractor.image_size) == FULL[name]
    said = [("a",)] * 4
    few = ExtractorData(labelled(1, 0), labelled(1, 1), np.zeros(4, np.int64), said, said)
    made = train_extractor(extractor, few, settings, 0, tmp_path, lambda line: None)
    assert math.isfinite(made.history[0][LOSS[name]])
    assert torch.isfinite(torch.from_numpy(extractor.embed_pixels(torch.rand(1, 3, *FULL[name][1])))).all()
