"""The time that an encoder takes is measured on real pictures with real training steps."""

from pathlib import Path

import pytest

from skufp_pipeline.encoders import timing
from skufp_pipeline.encoders.clip import Encoder, create_encoder
from skufp_pipeline.encoders.settings import AdaptationSettings, ClipTrainingSettings, EncoderSettings
from skufp_pipeline.encoders.timing import measure_speed

from .conftest import CPU
from .examples import picture, write_model


def test_a_speed_is_measured_on_pictures_repeated_where_there_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = create_encoder(write_model(tmp_path / "timed.json"), CPU, seed=0)
    picture("red").save(tmp_path / "red.png")
    seen: list[int] = []
    embed = Encoder.embed_images
    monkeypatch.setattr(
        Encoder, "embed_images", lambda self, images: seen.append(len(images)) or embed(self, images)
    )
    training = ClipTrainingSettings(cache_side=40, images_per_sku=4, head_only_epochs=1)
    settings = EncoderSettings(model="any", training=training)
    speed = measure_speed(encoder, [tmp_path / "red.png"], settings)
    assert seen == [1, timing.EMBEDDED]
    assert 0 < speed.embedding < 10
    assert 0 < speed.training < 10


def test_the_speed_of_an_adaptation_is_that_of_its_steps(tmp_path: Path) -> None:
    encoder = create_encoder(write_model(tmp_path / "timed.json"), CPU, seed=0)
    picture("red").save(tmp_path / "red.png")
    adaptation = AdaptationSettings(cache_side=40, frozen_stages=0)
    settings = EncoderSettings(model="any", pretrained="any", adaptation=adaptation)
    speed = measure_speed(encoder, [tmp_path / "red.png"], settings)
    assert 0 < speed.training < 1
