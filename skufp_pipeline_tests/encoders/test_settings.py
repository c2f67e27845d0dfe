from pathlib import Path

import open_clip
import pytest
from pydantic import ValidationError

from skufp_pipeline.encoders.settings import BUNDLED_MODELS, ClipTrainingSettings, EncoderSettings


@pytest.mark.parametrize(
    ("given", "is_pretrained"),
    [({}, False), ({"pretrained": "openai"}, True), ({"image_tower_weights": "tower.safetensors"}, True)],
)
def test_an_encoder_is_pretrained_where_weights_are_named(given: dict[str, str], is_pretrained: bool) -> None:
    assert EncoderSettings(model="ViT-B-32", **given).is_pretrained is is_pretrained


@pytest.mark.parametrize("path", sorted(BUNDLED_MODELS.glob("*.json")), ids=lambda path: path.stem)
def test_bundled_models_are_open_clip_configs_of_no_other_name(path: Path) -> None:
    open_clip.add_model_config(path)
    config = open_clip.get_model_config(path.stem)
    assert {"embed_dim", "vision_cfg", "text_cfg"} <= set(config)
    assert path.stem.startswith("skufp-")


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch_size": 1}, {"learning_rate": 0}, {"margin": 1.6}, {"warmup_fraction": 1}]
)
def test_values_that_can_not_train_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ClipTrainingSettings(**wrong)
