"""Masked patches: as many as asked for, unseen by the prediction; the embedding is the patches' mean."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from skufp_pipeline.errors import UserError
from skufp_pipeline.extractors.extractor import create_extractor
from skufp_pipeline.extractors.vit import MaskedVit, draw_mask

from ..encoders.conftest import CPU
from .examples import small


@pytest.fixture
def vit(tmp_path: Path) -> MaskedVit:
    """Four patches of 16 pixels a side."""
    tower = create_extractor(small("vit", tmp_path), CPU, seed=0).tower
    assert isinstance(tower, MaskedVit)
    return tower


def test_the_share_of_masked_patches_is_that_of_the_settings_in_every_picture() -> None:
    for share, masked in ((0.15, 29), (0.6, 118), (0.001, 1), (0.999, 196)):
        drawn = draw_mask(5, 196, share, Generator().manual_seed(1))
        assert drawn.sum(dim=1).tolist() == [masked] * 5
    assert not draw_mask(1, 196, 0.15, Generator().manual_seed(1)).equal(
        draw_mask(1, 196, 0.15, Generator().manual_seed(2))
    )


def test_patches_are_cut_out_in_rows_and_put_back(vit: MaskedVit) -> None:
    pixels = torch.rand(2, 3, 32, 32)
    patches = vit.patches(pixels)
    assert patches.shape == (2, 4, 3 * 16 * 16)
    assert patches[1, 2].equal(pixels[1, :, 16:, :16].flatten())
    assert vit.images(patches).equal(pixels)


@torch.inference_mode()
def test_a_prediction_knows_nothing_of_the_masked_patches(vit: MaskedVit) -> None:
    pixels, is_masked = torch.rand(1, 3, 32, 32), torch.tensor([[True, False, False, False]])
    hidden, seen = pixels.clone(), pixels.clone()
    hidden[..., :16, :16] = 9.0
    seen[..., 16:, 16:] = 9.0
    expected = vit.predict(pixels, is_masked)
    assert vit.predict(hidden, is_masked).equal(expected)
    assert not vit.predict(seen, is_masked).allclose(expected)


@torch.inference_mode()
def test_the_embedding_is_the_mean_of_the_patch_tokens(vit: MaskedVit) -> None:
    pixels = torch.rand(2, 3, 32, 32)
    tokens = vit.trunk.forward_features(pixels)
    assert tokens.shape[1] == 1 + 4  # the class token, and the patches
    np.testing.assert_allclose(vit.embed(pixels), tokens[:, 1:].mean(dim=1), rtol=1e-5)


def test_a_model_without_patches_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"extractors\.vit\.model"):
        create_extractor(small("vit", tmp_path, {"model": "test_resnet"}), CPU, seed=0)
