"""Patches of a tower: which maps, how many, and that the embedding stays the encoder's."""

from pathlib import Path

import numpy as np
import pytest
import torch

from skufp_pipeline.encoders.clip import Encoder, create_encoder
from skufp_pipeline.encoders.export import export_image_tower
from skufp_pipeline.encoders.onnx import OnnxImageEncoder
from skufp_pipeline.encoders.patches import PatchEncoder, PatchGrid, PatchHead, TowerWithMap, maps_of
from skufp_pipeline.encoders.settings import LookTwiceSettings
from skufp_pipeline.errors import UserError

from .conftest import CPU
from .examples import TIMM_VISION, VIT_VISION, noise, write_model

BUDGET = 4096  # bytes a SKU
TOWERS = {
    "convolutions": {**TIMM_VISION, "image_size": 64},
    "larger": {**TIMM_VISION, "image_size": 200},
    "transformer": {**VIT_VISION, "image_size": 96},
}


@pytest.fixture(scope="module", params=TOWERS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    path = tmp_path_factory.mktemp("towers") / f"tiny-{request.param}.json"
    return create_encoder(write_model(path, TOWERS[request.param]), CPU, seed=0)


def head_of(encoder: Encoder, settings: LookTwiceSettings | None = None) -> PatchHead:
    torch.manual_seed(0)
    head = PatchHead(PatchGrid.of(encoder, settings or LookTwiceSettings()))
    tower = TowerWithMap(encoder, head.grid)
    pixels = torch.stack([encoder.preprocess(noise(seed)) for seed in range(8)])
    head.start(torch.from_numpy(maps_of(tower, pixels).astype(np.float32)))
    return head


@pytest.mark.parametrize("dimension", [16, 64, 256])
def test_a_sku_takes_four_kib_at_most(encoder: Encoder, dimension: int) -> None:
    grid = PatchGrid.of(encoder, LookTwiceSettings(dimension=dimension, views=9))
    assert grid.views * grid.patches * grid.dimension <= BUDGET
    assert grid.views >= 1
    assert grid.side >= 4


def test_the_embedding_is_the_encoders_and_the_patches_are_unit_vectors(encoder: Encoder) -> None:
    seeing, pixels = PatchEncoder(encoder, head_of(encoder)), encoder.preprocess(noise(9))[None]
    rows, patches = seeing.embed_with_patches(pixels)
    assert rows == pytest.approx(encoder.embed_pixels(pixels), abs=1e-6)
    grid = seeing.head.grid
    assert patches.shape == (1, grid.patches, grid.dimension)
    assert patches.dtype == np.int8
    assert np.linalg.norm(patches[0] / 127, axis=1) == pytest.approx(1, abs=0.05)


def test_a_patch_sees_its_own_part_of_the_picture(tmp_path: Path) -> None:
    encoder = create_encoder(write_model(tmp_path / "t.json", TOWERS["transformer"]), CPU, seed=0)
    head = head_of(encoder)
    grid = PatchGrid(0, 16, head.grid.side, head.grid.dimension, 1)
    pixels = torch.rand(1, 3, 96, 96)
    changed = pixels.clone()
    changed[..., :16, :16] += 1
    before, after = (maps_of(TowerWithMap(encoder, grid), each)[0] for each in (pixels, changed))
    moved = np.abs(after.astype(float) - before).sum(axis=1)
    assert moved.argmax() == 0


def test_untrained_photos_and_pictures_have_the_same_patches(encoder: Encoder) -> None:
    seeing, pixels = PatchEncoder(encoder, head_of(encoder)), encoder.preprocess(noise(3))[None]
    assert (seeing.embed_with_patches(pixels)[1] == seeing.view_patches(pixels)).all()


def test_a_saved_head_makes_the_same_patches(encoder: Encoder, tmp_path: Path) -> None:
    head = head_of(encoder)
    with torch.no_grad():
        head.view.bias += 0.1
    head.save(tmp_path)
    pixels = encoder.preprocess(noise(4))[None]
    one, other = (PatchEncoder(encoder, each) for each in (head, PatchHead.load(tmp_path)))
    assert (one.view_patches(pixels) == other.view_patches(pixels)).all()
    assert (one.embed_with_patches(pixels)[1] == other.embed_with_patches(pixels)[1]).all()


def test_a_damaged_head_is_told(encoder: Encoder, tmp_path: Path) -> None:
    head_of(encoder).save(tmp_path)
    (tmp_path / "patch_head.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="holds no patch head"):
        PatchHead.load(tmp_path)


def test_a_tower_whose_maps_are_too_small_is_refused(tmp_path: Path) -> None:
    small = create_encoder(
        write_model(tmp_path / "s.json", {**VIT_VISION, "patch_size": 16, "image_size": 32}), CPU, seed=0
    )
    with pytest.raises(UserError, match="4 cells a side"):
        PatchGrid.of(small, LookTwiceSettings())


def test_the_exported_tower_makes_the_same_patches(encoder: Encoder, tmp_path: Path) -> None:
    head = head_of(encoder)
    export_image_tower(encoder, tmp_path / "tower.onnx", head)
    exported = OnnxImageEncoder(tmp_path / "tower.onnx", encoder.preprocess, 1)
    pixels = torch.stack([encoder.preprocess(noise(seed)) for seed in (5, 6)])
    rows, patches = exported.embed_with_patches(pixels)
    expected_rows, expected = PatchEncoder(encoder, head).embed_with_patches(pixels)
    assert rows == pytest.approx(expected_rows, abs=1e-5)
    assert np.abs(patches.astype(int) - expected).max() <= 1
