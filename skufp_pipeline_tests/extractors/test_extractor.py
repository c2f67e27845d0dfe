"""All seven extractors are used, saved, loaded and exported alike, with weights from where settings say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from skufp_pipeline.encoders.embed import embed_crops
from skufp_pipeline.encoders.onnx import load_image_encoder
from skufp_pipeline.errors import UserError
from skufp_pipeline.extractors.autoencoder import Autoencoder
from skufp_pipeline.extractors.clip import ClipTower
from skufp_pipeline.extractors.export import build_extractor_onnx
from skufp_pipeline.extractors.extractor import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Extractor,
    create_extractor,
    load_extractor,
)
from skufp_pipeline.extractors.settings import NAMES

from ..encoders.conftest import CPU
from ..encoders.examples import noise
from .examples import small


def make(name: str, folder: Path, seed: int = 0, **changes: Any) -> Extractor:
    return create_extractor(small(name, folder, changes), CPU, seed)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_become_unit_rows_that_a_saved_extractor_gives_again(name: str, tmp_path: Path) -> None:
    extractor = make(name, tmp_path)
    files = [tmp_path / f"{seed}.png" for seed in range(3)]
    for seed, file in enumerate(files):
        noise(seed).save(file)
    rows = embed_crops(extractor, files, batch_size=2)
    assert rows.shape == (3, extractor.dimension)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert not np.allclose(rows[0], rows[1])
    assert extractor.preprocess(noise()).shape == (3, *extractor.image_size)

    extractor.save(tmp_path / "saved")
    again = load_extractor(tmp_path / "saved", CPU)
    assert (again.config, again.name) == (extractor.config, name)
    assert np.array_equal(embed_crops(again, files, batch_size=2), rows)
    assert json.loads((tmp_path / "saved" / CONFIG_FILE).read_text())["name"] == name


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_exported_tower_embeds_as_pytorch_does(name: str, tmp_path: Path) -> None:
    extractor, photo = make(name, tmp_path), tmp_path / "photo.png"
    noise().save(photo)
    (tmp_path / "onnx").mkdir()
    told = build_extractor_onnx(extractor, [photo], tmp_path / "onnx")
    assert told["cosine_least"] > 0.999
    exported = load_image_encoder(tmp_path / "onnx", extractor.preprocess, 1)
    pixels = torch.rand(3, 3, *extractor.image_size, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(exported.embed_pixels(pixels), extractor.embed_pixels(pixels), atol=1e-4)


def test_weights_of_a_file_get_into_a_tower_of_timm(tmp_path: Path) -> None:
    torch.manual_seed(9)
    given = timm.create_model("test_vit", img_size=(32, 32)).state_dict()
    torch.save(given, tmp_path / "vit.pth")
    trunk = make("vit", tmp_path, pretrained=str(tmp_path / "vit.pth")).tower.pretrained_part.state_dict()
    assert all(given[name].equal(value) for name, value in trunk.items())


@pytest.mark.parametrize("name", ["clip", "clip_vit"])
def test_weights_of_a_file_get_into_a_model_of_open_clip(name: str, tmp_path: Path) -> None:
    source = make("clip", tmp_path, seed=7)
    assert isinstance(source.tower, ClipTower)
    torch.save(source.tower.model.state_dict(), tmp_path / "clip.pt")
    loaded = make(name, tmp_path, seed=1, pretrained=str(tmp_path / "clip.pt"))
    pixels = torch.rand(2, 3, *source.image_size)
    assert np.array_equal(loaded.embed_pixels(pixels), source.embed_pixels(pixels))


def test_an_autoencoder_has_the_layers_of_its_settings() -> None:
    tower = Autoencoder((32, 64, 128, 256), (64, 32), 128)
    shapes = [tuple(weight.shape) for weight in tower.parameters() if weight.ndim > 1]
    down = [(32, 3, 3, 3), (64, 32, 3, 3), (128, 64, 3, 3), (256, 128, 3, 3), (128, 256 * 4 * 2)]
    up = [(256 * 4 * 2, 128), (256, 128, 3, 3), (128, 64, 3, 3), (64, 32, 3, 3), (32, 3, 3, 3)]
    assert shapes == down + up
    assert tower.redraw(torch.rand(2, 3, 64, 32)).shape == (2, 3, 64, 32)


@pytest.mark.parametrize("file", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_missing_or_damaged_file_is_told(tmp_path: Path, file: str) -> None:
    make("autoencoder", tmp_path).save(tmp_path)
    (tmp_path / file).write_text("{")
    with pytest.raises(UserError, match="can't be read"):
        load_extractor(tmp_path, CPU)
    (tmp_path / file).unlink()
    with pytest.raises(UserError, match=f"{file} is missing"):
        load_extractor(tmp_path, CPU)


def test_mistakes_are_told_by_the_name_of_the_setting(tmp_path: Path) -> None:
    def told(name: str, **changes: Any) -> str:
        with pytest.raises(UserError) as raised:
            make(name, tmp_path, **changes)
        return str(raised.value)

    assert "extractors.xception.model: timm's model 'xception0'" in told("xception", model="xception0")
    assert "extractors.clip_vit.model 'ViT-Z'" in told("clip_vit", model="ViT-Z")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    assert "extractors.clip.pretrained" in told("clip", pretrained=str(tmp_path / "other.pt"))
    assert "does not fit the image tower" in told("resnet50", pretrained=str(tmp_path / "other.pt"))
    make("autoencoder", tmp_path).save(tmp_path)
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    (tmp_path / CONFIG_FILE).write_text(json.dumps({**config, "name": "dense"}))
    with pytest.raises(UserError, match="no extractor 'dense'; expected one of reid, xception"):
        load_extractor(tmp_path, CPU)
