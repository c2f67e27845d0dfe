"""A preset names the extractors that it wants; defaults are those of the systems that they are from."""

from typing import Any

import pytest
from pydantic import ValidationError

from skufp_pipeline.extractors.settings import NAMES, ExtractorsSettings


def test_a_preset_lists_the_extractors_it_wants() -> None:
    wanted = ExtractorsSettings.model_validate({"autoencoder": {}, "reid": {"dimension": 64}}).wanted()
    assert list(wanted) == ["reid", "autoencoder"]
    assert ExtractorsSettings().wanted() == {}
    assert set(NAMES) == {"reid", "xception", "clip_vit", "resnet50", "clip", "vit", "autoencoder"}


def test_defaults_of_the_shopping_lens_are_adam_at_a_rate_of_a_ten_thousandth() -> None:
    every = ExtractorsSettings.model_validate({name: {} for name in NAMES}).wanted()
    for name in ("resnet50", "clip", "vit", "autoencoder"):
        training = every[name].training
        assert (training.batch_size, training.epochs, training.weight_decay) == (32, 10, 0)
        assert training.learning_rate == training.backbone_learning_rate == 1e-4
    loss = {name: every[name].training.model_dump() for name in every}
    assert loss["xception"]["margin"] == loss["clip_vit"]["margin"] == 0.5
    assert loss["resnet50"]["margin"] == 0.2
    assert loss["clip"]["temperature"] == 0.07
    assert loss["vit"]["masked_share"] == 0.15


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"dense": {}}, "Extra inputs"),
        ({"vit": {"margin": 1}}, "Extra inputs"),
        ({"vit": {"training": {"masked_share": 1.0}}}, "less than 1"),
        ({"autoencoder": {"image_size": [100, 128]}}, "multiples of 16"),
        ({"resnet50": {"positives": "colour"}}, "'sku' or 'category'"),
    ],
)
def test_what_no_extractor_knows_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ExtractorsSettings.model_validate(given)


def test_settings_that_name_weights_are_told_by_their_place_in_the_preset() -> None:
    wanted = ExtractorsSettings.model_validate(
        {"vit": {"pretrained": "a"}, "clip": {"pretrained": "b"}, "autoencoder": {}}
    ).wanted()
    assert wanted["vit"].weight_files() == {"extractors.vit.pretrained": "a"}
    assert wanted["clip"].weight_files() == {
        "extractors.clip.model": None,
        "extractors.clip.pretrained": "b",
    }
    assert wanted["autoencoder"].weight_files() == {}
