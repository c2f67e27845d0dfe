"""Exports an extractor's tower to ONNX in float32, as files of `encoders.onnx.load_image_encoder`."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skufp_pipeline.encoders.embed import embed_crops
from skufp_pipeline.encoders.export import OPSET, export_module
from skufp_pipeline.encoders.onnx import (
    CONFIG_FILE,
    INPUT,
    MODEL_FILE,
    OUTPUT,
    PROBE_FILE,
    PROBE_ROW_FILE,
    OnnxImageEncoder,
)
from skufp_pipeline.encoders.parity import FLOAT32, LEAST_COSINE, unit_cosines
from skufp_pipeline.errors import TooLittleError, UserError
from skufp_pipeline.extractors.extractor import Extractor, Tower
from skufp_pipeline.photos import read_crop

_LARGEST_BATCH = 4096


class _UnitTower(nn.Module):
    """A tower with unit rows as output."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.normalize(self.tower.embed(pixels), dim=-1)


def export_extractor(extractor: Extractor, target: Path) -> None:
    """Exports the tower: `pixels` (B, 3, H, W) to `embedding` (B, D) of unit norm; B is variable.

    Raises:
        UserError: PyTorch can't express the tower in ONNX.
    """
    tower = copy.deepcopy(extractor.tower).to("cpu").to(memory_format=torch.contiguous_format).eval()
    example = torch.zeros(2, 3, *extractor.image_size)
    batch = torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)
    what = f"the tower of the extractor {extractor.name}"
    export_module(_UnitTower(tower), example, target, INPUT, (OUTPUT,), what, {0: batch})


def build_extractor_onnx(extractor: Extractor, photos: Sequence[Path], directory: Path) -> dict[str, Any]:
    """Writes the exported tower and its probe; returns the precision and the least cosine with PyTorch.

    Args:
        photos: files to measure the parity on.

    Raises:
        TooLittleError: there are no photos.
        UserError: the tower can't be exported, or embeds a photo otherwise than PyTorch does.
    """
    if not photos:
        raise TooLittleError("there is no photo to compare the exported tower with PyTorch on")
    target, threads = directory / MODEL_FILE, torch.get_num_threads()
    export_extractor(extractor, target)
    expected = embed_crops(extractor, photos, batch_size=len(photos))
    exported = OnnxImageEncoder(target, extractor.preprocess, threads)
    cosine = float(unit_cosines(embed_crops(exported, photos, batch_size=1), expected).min())
    if not cosine >= LEAST_COSINE[FLOAT32]:
        raise UserError(
            f"the exported tower of the extractor {extractor.name} differs from PyTorch: cosine "
            f"{cosine:.4f}, expected at least {LEAST_COSINE[FLOAT32]}; set extractors.{extractor.name}.onnx: "
            "false in the preset"
        )
    (directory / CONFIG_FILE).write_text(json.dumps({"precision": FLOAT32}) + "\n")
    np.save(directory / PROBE_FILE, extractor.preprocess(read_crop(photos[0])).numpy()[None])
    np.save(directory / PROBE_ROW_FILE, expected[:1])
    return {"precision": FLOAT32, "opset": OPSET, "photos": len(photos), "cosine_least": cosine}
