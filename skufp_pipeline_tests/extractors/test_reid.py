"""Baseline 1's network: what it computes, where its weights come from, what a mistake is told as."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from skufp_pipeline.encoders.embed import embed_crops
from skufp_pipeline.errors import UserError
from skufp_pipeline.extractors.extractor import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Extractor,
    create_extractor,
    load_extractor,
)
from skufp_pipeline.extractors.reid import ReidNetwork
from skufp_pipeline.extractors.settings import ReidSettings

from ..encoders.conftest import CPU
from ..encoders.examples import noise

SMALL = {"model": "test_resnet", "image_size": (48, 32), "dimension": 8}


def make(seed: int = 0, **changes: Any) -> Extractor:
    return create_extractor(ReidSettings(**SMALL | changes), CPU, seed)


def network(encoder: Extractor) -> ReidNetwork:
    assert isinstance(encoder.tower, ReidNetwork)
    return encoder.tower


def pixels(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 48, 32, generator=torch.Generator().manual_seed(1))


def test_the_neck_normalises_the_embedding_over_the_batch_and_adds_nothing() -> None:
    encoder = make()
    before, after = network(encoder).train()(pixels(16))
    centred = (before - before.mean(dim=0)) / (before.var(dim=0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(after, centred)
    assert not network(encoder).neck.bias.requires_grad
    assert network(encoder).projection.bias is None


def test_embeddings_are_unit_rows_of_what_follows_the_neck() -> None:
    encoder = make()
    nn.init.constant_(network(encoder).neck.running_mean, 0.3)
    rows = encoder.embed_pixels(pixels())
    with torch.inference_mode():
        after = network(encoder)(pixels())[1].double()
    assert rows.shape == (3, 8)
    np.testing.assert_allclose(rows, after / after.norm(dim=1, keepdim=True), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_the_input_is_the_whole_crop_at_the_height_and_width_of_the_settings(tmp_path: Path) -> None:
    encoder = make()
    assert encoder.preprocess(noise(size=(60, 20))).shape == (3, 48, 32)
    noise().save(tmp_path / "crop.png")
    assert embed_crops(encoder, [tmp_path / "crop.png"], 4).shape == (1, 8)


def test_a_last_stride_of_one_keeps_the_last_map_twice_as_large() -> None:
    trunks = {stride: network(make(last_stride=stride)).trunk for stride in (1, 2)}
    shapes = {stride: trunk.forward_features(pixels()).shape[-2:] for stride, trunk in trunks.items()}
    assert shapes == {1: (3, 2), 2: (2, 1)}


def test_a_resnet_50_as_the_paper_has_it() -> None:
    encoder = create_extractor(ReidSettings(), CPU, seed=0)
    assert (encoder.dimension, encoder.image_size) == (512, (256, 128))
    assert network(encoder).projection.weight.shape == (512, 2048)
    strides = [m.stride for m in network(encoder).trunk.layer4.modules() if isinstance(m, nn.Conv2d)]
    assert set(strides) == {(1, 1)}


def test_the_seed_decides_the_weights() -> None:
    one, same, other = (make(seed).embed_pixels(pixels()) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_saved_network_comes_back_the_same(tmp_path: Path) -> None:
    encoder = make()
    nn.init.normal_(network(encoder).neck.running_mean)
    encoder.save(tmp_path)
    again = load_extractor(tmp_path, CPU)
    assert again.config == encoder.config
    assert np.array_equal(again.embed_pixels(pixels()), encoder.embed_pixels(pixels()))


def test_weights_of_a_local_file_or_folder_get_into_the_trunk(tmp_path: Path) -> None:
    torch.manual_seed(9)
    given = timm.create_model("test_resnet").state_dict()
    torch.save(given, tmp_path / "pytorch_model.bin")
    for name in (tmp_path / "pytorch_model.bin", tmp_path):
        trunk = network(make(pretrained=str(name))).trunk.state_dict()
        assert all(given[name].equal(value) for name, value in trunk.items())


def test_mistakes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(**changes: Any) -> str:
        with pytest.raises(UserError) as raised:
            make(**changes)
        return str(raised.value)

    assert "timm's model 'resnet0'" in told(model="resnet0")
    assert "no local file" in (unknown := told(model="resnet18", pretrained="nowhere.pth"))
    assert "known tags: a1_in1k" in unknown
    assert "last_stride 1 is for ResNets; set it to 2 for 'test_vit'" in told(model="test_vit")
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "other.pth")
    assert "does not fit the image tower" in told(pretrained=str(tmp_path / "other.pth"))


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_missing_or_damaged_file_is_told(tmp_path: Path, name: str) -> None:
    make().save(tmp_path)
    (tmp_path / name).write_text("{")
    with pytest.raises(UserError, match="can't be read"):
        load_extractor(tmp_path, CPU)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        load_extractor(tmp_path, CPU)
