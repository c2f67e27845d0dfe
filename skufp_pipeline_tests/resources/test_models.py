"""The model provider hands out encoders on the device that was asked for."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from skufp_pipeline.encoders.settings import EncoderSettings
from skufp_pipeline.errors import UserError
from skufp_pipeline.resources.models import ModelProvider

TINY = EncoderSettings(model="skufp-tiny")


def test_auto_takes_the_gpu_where_there_is_one() -> None:
    assert ModelProvider().torch_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert ModelProvider(device="cpu").torch_device().type == "cpu"


def test_a_gpu_that_is_not_there_is_a_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="cuda"):
        ModelProvider(device="cuda").torch_device()


def test_a_saved_encoder_comes_back_the_same(tmp_path: Path) -> None:
    provider = ModelProvider(device="cpu")
    encoder = provider.new_encoder(TINY, seed=3)
    encoder.save(tmp_path)
    texts = ["a red dress", "a shirt"]
    assert np.array_equal(provider.load_encoder(tmp_path).embed_texts(texts), encoder.embed_texts(texts))


def test_the_seed_decides_a_new_encoder() -> None:
    provider = ModelProvider(device="cpu")
    one, same, other = (provider.new_encoder(TINY, seed).embed_texts(["a"]) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_model_that_is_meant_to_be_random_warns_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ModelProvider(device="cpu").new_encoder(TINY, seed=0)
    assert caplog.messages == []


def test_other_warnings_are_still_shown(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skufp_pipeline.encoders import clip

    create = clip.open_clip.create_model

    def warning_first(*args, **kwargs):
        logging.warning("this one is real")
        return create(*args, **kwargs)

    monkeypatch.setattr(clip.open_clip, "create_model", warning_first)
    with caplog.at_level(logging.WARNING):
        ModelProvider(device="cpu").new_encoder(TINY, seed=0)
        logging.warning("No pretrained weights loaded elsewhere")
    assert caplog.messages == ["this one is real", "No pretrained weights loaded elsewhere"]


def test_a_hubs_long_error_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from skufp_pipeline.encoders import clip

    def no_hub(*_args, **_kwargs):
        raise RuntimeError("can't reach the hub\nRequest ID: 1\n" + "a line of advice\n" * 30)

    monkeypatch.setattr(clip.open_clip, "create_model", no_hub)
    with pytest.raises(UserError) as told:
        ModelProvider(device="cpu").new_encoder(EncoderSettings(model="ViT-B-32", pretrained="openai"), 0)
    message = str(told.value)
    assert "RuntimeError: can't reach the hub" in message
    assert "known tags: " in message
    assert message.count("a line of advice") < 30
    assert len(message.splitlines()) == 1
