"""The exported encoder's check passes on the small graph and fails on a spoilt copy of it."""

from pathlib import Path

import dagster as dg
import numpy as np
import pytest
import torch

from skufp_pipeline.checks.index import parity_holds
from skufp_pipeline.resources.store import ArtifactStoreResource

from ..graphs import Graph, pretend_made_with


def evaluate(graph: Graph) -> dg.AssetCheckResult:
    result = parity_holds(graph.preset)(ArtifactStoreResource(root=graph.preset.data_root))
    assert isinstance(result, dg.AssetCheckResult)
    return result


def folder(graph: Graph) -> Path:
    return graph.store.read("checkpoints/image_encoder_onnx").path


def test_the_published_encoder_is_at_parity(small_graph: Graph) -> None:
    result = evaluate(small_graph)
    assert result.passed
    assert result.metadata["precision"].value == "float32"
    assert 0.999 < result.metadata["cosine_least"].value <= 1 + 1e-6


def test_a_flipped_bit_of_the_model_fails_by_name(spoilt: Graph) -> None:
    path = folder(spoilt) / "image_encoder.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = evaluate(spoilt)
    assert not result.passed
    assert result.metadata["damaged_files"].value == ["image_encoder.onnx"]


def test_an_encoder_that_embeds_otherwise_fails(spoilt: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    from skufp_pipeline.encoders.onnx import OnnxImageEncoder

    right = OnnxImageEncoder.embed_pixels

    def turned(self: OnnxImageEncoder, pixels: torch.Tensor) -> np.ndarray:
        rows = right(self, pixels)
        return rows + 0.2 * np.roll(rows, 1, axis=1)

    monkeypatch.setattr(OnnxImageEncoder, "embed_pixels", turned)
    result = evaluate(spoilt)
    assert not result.passed
    assert "differs from PyTorch on this machine" in result.metadata["problem"].value


def test_an_encoder_of_another_checkpoint_fails_by_name(spoilt: Graph) -> None:
    pretend_made_with(folder(spoilt), "clip_checkpoint", "0123456789abcdef")
    result = evaluate(spoilt)
    assert not result.passed
    assert "made with clip_checkpoint 0123456789abcdef" in result.metadata["problem"].value
