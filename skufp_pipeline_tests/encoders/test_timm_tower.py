"""A timm model as it is: its pooled features, no class logits."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from skufp_pipeline.encoders.stage_settings import RerankSettings
from skufp_pipeline.encoders.timm_tower import create_timm_tower, load_timm_tower
from skufp_pipeline.errors import UserError

from .examples import noise

CPU = torch.device("cpu")
SMALL = RerankSettings(model="mobilevit_xxs", image_size=(64, 48))


def test_it_embeds_by_pooled_features_of_norm_1() -> None:
    tower = create_timm_tower(SMALL, CPU, seed=0)
    pixels = torch.stack([tower.preprocess(noise(seed)) for seed in range(2)])
    assert pixels.shape == (2, 3, 64, 48)
    rows = tower.embed_pixels(pixels)
    assert rows.shape == (2, tower.dimension) == (2, 320)
    with torch.inference_mode():
        pooled = tower.model.forward_features(pixels).mean(dim=(2, 3)).numpy()
    assert rows == pytest.approx(pooled / np.linalg.norm(pooled, axis=1, keepdims=True), abs=1e-4)


def test_a_saved_model_embeds_the_same(tmp_path: Path) -> None:
    tower = create_timm_tower(SMALL, CPU, seed=3)
    tower.save(tmp_path)
    pixels = tower.preprocess(noise())[None]
    again = load_timm_tower(tmp_path, CPU)
    assert np.array_equal(again.embed_pixels(again.preprocess(noise())[None]), tower.embed_pixels(pixels))


def test_weights_come_from_a_file_and_its_classifier_is_left_out(tmp_path: Path) -> None:
    torch.manual_seed(9)
    other = timm.create_model("mobilevit_xxs")  # with its 1,000 classes
    save_file(
        {name: value.contiguous() for name, value in other.state_dict().items()}, tmp_path / "m.safetensors"
    )
    settings = SMALL.model_copy(update={"pretrained": str(tmp_path / "m.safetensors")})
    tower = create_timm_tower(settings, CPU, seed=0)
    assert torch.equal(tower.model.stem.conv.weight, other.stem.conv.weight)
    assert sum(value.numel() for value in tower.model.parameters()) < sum(
        value.numel() for value in other.parameters()
    )


def test_an_unknown_model_and_a_damaged_folder_are_users_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"multi_stage\.rerank\.pretrained: timm's model 'mobilevit_none'"):
        create_timm_tower(RerankSettings(model="mobilevit_none"), CPU, seed=0)
    with pytest.raises(UserError, match="can't be read"):
        load_timm_tower(tmp_path, CPU)
