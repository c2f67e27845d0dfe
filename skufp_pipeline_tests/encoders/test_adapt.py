"""Adaptation on synthetic photos: the loss by hand, which weights move, and that a killed run goes on."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from skufp_pipeline.camera.settings import CameraSettings
from skufp_pipeline.encoders.adapt import (
    AdaptationData,
    PhotoLoader,
    SyntheticCamera,
    adapt,
    anchored_loss,
    sheet_of_photos,
    trainable_parameters,
)
from skufp_pipeline.encoders.clip import Encoder, create_encoder, image_trunk, unit_rows
from skufp_pipeline.encoders.settings import AdaptationSettings
from skufp_pipeline.randomness import generator

from .examples import write_model

SETTINGS = AdaptationSettings(steps=6, most_steps=6, batch_size=4, learning_rate=3e-3, frozen_stages=0)
CAMERA = CameraSettings(severity=0.2)
SILENT = lambda line: None  # noqa: E731


def a_catalogue(skus: int = 6, photos: int = 0, seed: int = 0) -> AdaptationData:
    """Pictures of two colours each, and photos that are one grey."""
    rng = generator(seed, "catalogue")
    pictures = np.full((skus, 48, 48, 3), 255, np.uint8)
    pictures[:, 8:40, 8:24] = rng.integers(0, 256, (skus, 1, 1, 3))
    pictures[:, 8:40, 24:40] = rng.integers(0, 256, (skus, 1, 1, 3))
    none = np.zeros((0, 48, 48, 3), np.uint8)
    return AdaptationData(
        pictures,
        np.ones(skus),
        np.arange(skus),
        np.full((photos, 48, 48, 3), 77, np.uint8),
        np.arange(photos) % skus,
        unit_rows(torch.from_numpy(rng.normal(size=(skus, 8)))),
        none,
    )


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    return create_encoder(write_model(tmp_path / "tiny.json"), torch.device("cpu"), seed=0)


def test_the_loss_of_two_photos_among_three_skus_is_that_by_hand() -> None:
    photos = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    anchors = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    # cosines: [[1, .8, 0], [0, .6, 1]]; the first photo's SKU is the first, the second's the second
    first = math.log(sum(math.exp((cosine - 1) / 0.5) for cosine in (1, 0.8, 0)))
    second = math.log(sum(math.exp((cosine - 0.6) / 0.5) for cosine in (0, 0.6, 1)))
    assert float(anchored_loss(photos, anchors, 0.5)) == pytest.approx((first + second) / 2, abs=1e-6)


def test_every_sku_takes_part_equally_often_and_once_in_a_step(encoder: Encoder) -> None:
    loader = PhotoLoader(encoder, a_catalogue(6), SETTINGS, CAMERA, seed=3)
    steps = [loader._skus(step) for step in range(3)]
    assert all(len(set(step)) == len(step) for step in steps)
    counted = np.bincount([sku for step in steps for sku in step], minlength=6)
    assert counted.max() - counted.min() <= 1


def test_a_customers_photo_takes_the_place_of_a_synthetic_one(encoder: Encoder) -> None:
    settings = SETTINGS.model_copy(update={"photo_share": 1.0})
    photos, _ = PhotoLoader(encoder, a_catalogue(6, photos=6), settings, CAMERA, seed=0).load(0)
    assert all(float(photo.std(dim=(1, 2)).max()) < 1e-4 for photo in photos)  # one grey each
    rendered, _ = PhotoLoader(encoder, a_catalogue(6), settings, CAMERA, seed=0).load(0)
    assert all(float(photo.std(dim=(1, 2)).max()) > 0.01 for photo in rendered)


def test_the_seed_and_the_name_decide_a_photo() -> None:
    camera = SyntheticCamera(a_catalogue(), CAMERA, 32, seed=1)
    same, other = (
        SyntheticCamera(a_catalogue(), CAMERA, 32, seed=1),
        SyntheticCamera(a_catalogue(), CAMERA, 32, 2),
    )
    assert np.array_equal(camera.photo(0, "a").pixels, same.photo(0, "a").pixels)
    assert not np.array_equal(camera.photo(0, "a").pixels, camera.photo(0, "b").pixels)
    assert not np.array_equal(camera.photo(0, "a").pixels, other.photo(0, "a").pixels)


def test_the_first_stages_and_the_statistics_stay(encoder: Encoder, tmp_path: Path) -> None:
    trunk = image_trunk(encoder.model)
    kept = trainable_parameters(encoder.model.visual, torch.nn.Identity(), 2)
    assert len(kept) == len(list(encoder.model.visual.parameters()))  # no stages are known of this trunk

    class Built(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = torch.nn.Linear(2, 2)
            self.blocks = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(3)))
            self.head = torch.nn.Linear(2, 2)

    built = Built()
    trained = {id(parameter) for parameter in trainable_parameters(built, built, 2)}
    named = {name for name, parameter in built.named_parameters() if id(parameter) in trained}
    assert named == {"blocks.2.weight", "blocks.2.bias", "head.weight", "head.bias"}
    statistics = {name: value.clone() for name, value in trunk.named_buffers()}
    adapt(encoder, a_catalogue(), SETTINGS, CAMERA, 0, tmp_path, SILENT)
    assert all(torch.equal(value, statistics[name]) for name, value in trunk.named_buffers())


def test_the_loss_falls_and_only_the_image_tower_moves(encoder: Encoder, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    settings = SETTINGS.model_copy(update={"steps": 30, "most_steps": 30})
    history = adapt(encoder, a_catalogue(), settings, CAMERA, 0, tmp_path, SILENT)
    assert [row["step"] for row in history] == list(range(1, 31))
    losses = [row["loss"] for row in history]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    moved = {
        name for name, value in encoder.model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved
    assert all(name.startswith("visual.") for name in moved)


def test_a_killed_adaptation_goes_on_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    settings = write_model(tmp_path / "tiny.json")

    def trained(scratch: Path, kill_at: int | None) -> dict[str, Tensor]:
        encoder = create_encoder(settings, torch.device("cpu"), seed=0)
        scratch.mkdir(exist_ok=True)

        def log(line: str) -> None:
            if kill_at is not None and f"step {kill_at}/" in line:
                raise KeyboardInterrupt

        adapt(encoder, a_catalogue(), many, CAMERA, 0, scratch, log)
        return {name: value.clone() for name, value in encoder.model.visual.state_dict().items()}

    many = SETTINGS.model_copy(update={"steps": 24, "most_steps": 24})
    whole = trained(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", 24)
    resumed = trained(tmp_path / "killed", None)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_one_sku_is_not_adapted_on(encoder: Encoder, tmp_path: Path) -> None:
    told: list[str] = []
    assert adapt(encoder, a_catalogue(1), SETTINGS, CAMERA, 0, tmp_path, told.append) == []
    assert "two SKUs" in told[0]


@pytest.mark.parametrize(("skus", "steps"), [(2, 100), (2000, 250), (100_000, 300)])
def test_a_larger_catalogue_takes_more_steps_up_to_a_limit(skus: int, steps: int) -> None:
    assert AdaptationSettings().steps_for(skus) == steps


def test_the_sheet_shows_a_picture_and_its_photos_a_row() -> None:
    sheet = sheet_of_photos(a_catalogue(3), CAMERA, 0)
    assert sheet.width > 6 * 96
    assert sheet.height > 3 * 96


def test_a_photos_own_anchor_comes_first_and_rivals_are_others(encoder: Encoder) -> None:
    data = a_catalogue(6)
    for rivals, expected in ((1, 5), (9, 6)):
        settings = SETTINGS.model_copy(update={"rivals": rivals})
        loader = PhotoLoader(encoder, data, settings, CAMERA, seed=0)
        photos, anchors = loader.load(0)
        assert len(photos) == 4
        assert np.array_equal(anchors[:4].numpy(), data.anchors[loader._skus(0)])
        assert len(np.unique(anchors.numpy(), axis=0)) == len(anchors) == expected
