"""Weights between the frozen tower and the adapted one, and the choice among them without a real photo."""

from pathlib import Path

import numpy as np
import pytest
import torch

from skufp_pipeline.camera.settings import CameraSettings
from skufp_pipeline.encoders.clip import create_encoder
from skufp_pipeline.encoders.interpolation import (
    Judgement,
    adapt_and_go_back,
    choose_alpha,
    harder,
    interpolate,
    judge_alphas,
    weights_of,
)

from .examples import write_model
from .test_adapt import CAMERA, SETTINGS, SILENT, a_catalogue


def judged(*rows: tuple[float, float]) -> list[Judgement]:
    return [Judgement(alpha, 0.0, 0.0, 0.0, mrr, 1.0) for alpha, mrr in rows]


@pytest.mark.parametrize(("kept_gain", "alpha"), [(0.5, 0.25), (0.75, 0.5), (0.9, 0.75), (1.0, 0.75)])
def test_the_smallest_alpha_that_keeps_the_gain_is_chosen(kept_gain: float, alpha: float) -> None:
    found = judged((0.0, 0.2), (0.25, 0.42), (0.5, 0.55), (0.75, 0.6), (1.0, 0.58))
    assert choose_alpha(found, kept_gain) == alpha


def test_an_adaptation_that_gains_nothing_is_taken_back() -> None:
    assert choose_alpha(judged((0.0, 0.6), (0.5, 0.6), (1.0, 0.4)), 0.9) == 0.0


def test_half_way_is_the_mean_of_both_weights(tmp_path: Path) -> None:
    encoder = create_encoder(write_model(tmp_path / "tiny.json"), torch.device("cpu"), seed=0)
    frozen = weights_of(encoder)
    adapted = {name: value + 2 if value.is_floating_point() else value + 5 for name, value in frozen.items()}
    interpolate(encoder, frozen, adapted, 0.5)
    for name, value in weights_of(encoder).items():
        expected = frozen[name] + 1 if value.is_floating_point() else frozen[name]  # counters are not mixed
        assert torch.allclose(value, expected), name
    for alpha, wanted in ((0.0, frozen), (1.0, adapted)):
        interpolate(encoder, frozen, adapted, alpha)
        floats = {name: value for name, value in weights_of(encoder).items() if value.is_floating_point()}
        assert all(torch.equal(value, wanted[name]) for name, value in floats.items())


def test_every_alpha_is_judged_on_photos_that_the_training_did_not_have(tmp_path: Path) -> None:
    encoder = create_encoder(write_model(tmp_path / "tiny.json"), torch.device("cpu"), seed=0)
    frozen, data = weights_of(encoder), a_catalogue(8)
    adapted = {name: value * 1.5 if value.is_floating_point() else value for name, value in frozen.items()}
    settings = SETTINGS.model_copy(update={"alphas": (0.5, 1.0), "judged_skus": 5})
    found = judge_alphas(encoder, frozen, adapted, data, settings, CAMERA, seed=0)
    assert [one.alpha for one in found] == [0.0, 0.5, 1.0]
    assert found[0].kept_neighbours == 1.0
    assert all(
        0 <= value <= 1 for one in found for value in (one.recall, one.hard_recall, one.mrr, one.hard_mrr)
    )
    assert found == judge_alphas(encoder, frozen, adapted, data, settings, CAMERA, seed=0)
    assert all(torch.equal(value, frozen[name]) for name, value in weights_of(encoder).items())


def test_harder_photos_are_harder_in_every_way() -> None:
    usual, hard = CameraSettings(), harder(CameraSettings())
    assert hard.severity > usual.severity
    assert hard.size[0] < usual.size[0] < usual.size[1] < hard.size[1]
    assert hard.occluder > usual.occluder
    assert CameraSettings.model_validate(hard.model_dump()) == hard
    assert harder(CameraSettings(severity=1, tilt=0.8)).severity == 1


def test_a_given_alpha_is_taken_whatever_the_judgement(tmp_path: Path) -> None:
    model = write_model(tmp_path / "tiny.json")
    encoder = create_encoder(model, torch.device("cpu"), seed=0)
    frozen = weights_of(encoder)
    settings = SETTINGS.model_copy(update={"alpha": 0.0, "alphas": (0.0, 1.0)})
    found = adapt_and_go_back(encoder, a_catalogue(), settings, CAMERA, 0, tmp_path, SILENT)
    assert found.alpha == 0.0
    assert all(torch.equal(value, frozen[name]) for name, value in weights_of(encoder).items())
    table = found.table()
    assert table["alpha"].to_list() == [0.0, 1.0]
    assert np.isfinite(table.to_numpy()).all()
    assert found.left_out(0) == ("no training photos: adapted on synthetic photos alone",)


def test_one_sku_stays_frozen(tmp_path: Path) -> None:
    encoder = create_encoder(write_model(tmp_path / "tiny.json"), torch.device("cpu"), seed=0)
    found = adapt_and_go_back(encoder, a_catalogue(1), SETTINGS, CAMERA, 0, tmp_path, SILENT)
    assert (found.history, found.alpha) == ([], 0.0)
    assert found.table().is_empty()
    assert "two SKUs" in str(found.left_out(0))
