from pathlib import Path

import open_clip
import pytest
from pydantic import ValidationError

from skufp_pipeline.encoders.settings import (
    BUNDLED_MODELS,
    ClipTrainingSettings,
    EncoderSettings,
)
from skufp_pipeline.extractors.settings import ReidTrainingSettings


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


def test_training_as_it_stands_is_the_papers_recipe_but_for_the_margin() -> None:
    """SKU cross-entropy on both towers, images drawn one by one, one learning rate, the last weights."""
    ours, paper = ClipTrainingSettings(), ClipTrainingSettings(margin=0)
    assert ours.margin > 0
    assert ours.model_copy(update={"margin": 0}) == paper
    assert (paper.centroid_weight, paper.head_only_epochs) == (0, 0)
    assert (paper.images_per_sku, paper.same_category, paper.ema_decay) == (None, False, None)
    assert paper.backbone_learning_rate == paper.learning_rate


def test_a_centroid_needs_several_images_of_a_sku() -> None:
    with pytest.raises(ValidationError, match="centroid_weight needs images_per_sku"):
        ClipTrainingSettings(centroid_weight=1.0)
    assert ClipTrainingSettings(centroid_weight=1.0, images_per_sku=4).centroid_weight == 1


def test_a_batch_holds_two_skus_at_least() -> None:
    with pytest.raises(ValidationError, match="batch_size 7 must hold two SKUs"):
        ReidTrainingSettings(batch_size=7, images_per_sku=4)


@pytest.mark.parametrize("model", ["local-dir:models/clip", "hf-hub:shop/clip"])
def test_a_model_that_comes_with_weights_counts_as_pretrained(model: str) -> None:
    assert EncoderSettings(model=model).is_pretrained
    assert not EncoderSettings(model="ViT-B-32").is_pretrained
