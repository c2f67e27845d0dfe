"""Exports a detector to ONNX in float32, with its parity with PyTorch, and runs it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from skufp_pipeline.detection.files import INPUT, LARGEST_DIFFERENCE, ONNX_FILE, PROBE_FILE
from skufp_pipeline.detection.model import DetectorModel, Outputs, Run
from skufp_pipeline.encoders.export import export_module
from skufp_pipeline.encoders.onnx import open_session
from skufp_pipeline.errors import UserError

ASSET = "detector_onnx"


def build_detector(model: DetectorModel, photos: Sequence[Image.Image], directory: Path) -> dict[str, float]:
    """Writes the exported model and a probe; returns the largest difference from PyTorch on `photos`, and on
    how many of them the regions are the same.

    Raises:
        UserError: the model can't be exported, or its outputs differ.
    """
    inputs = [model.prepare(photo) for photo in photos]
    expected = model.by_pytorch(torch.device("cpu"))
    # The batch is of one photo: a query's. Boxes are compared as the outputs are, in shares of the photo.
    export_module(
        model.module, torch.from_numpy(inputs[0]), directory / ONNX_FILE, INPUT, model.outputs, "the detector"
    )
    run = _run(directory / ONNX_FILE, torch.get_num_threads())
    pairs = [(expected(pixels), run(pixels)) for pixels in inputs]
    difference = max(_difference(*pair) for pair in pairs)
    if not difference <= LARGEST_DIFFERENCE:
        raise UserError(
            f"the exported detector differs from PyTorch by {difference:.4f}, expected at most "
            f"{LARGEST_DIFFERENCE}; set query_encoder.engine: pytorch in the preset"
        )
    same = [
        [region.box for region in model.find(photo, expected)]
        == [region.box for region in model.find(photo, run)]
        for photo in photos
    ]
    named = {INPUT: inputs[0], **dict(zip(model.outputs, pairs[0][0], strict=True))}
    np.savez(directory / PROBE_FILE, allow_pickle=False, **named)
    return {"photos": len(photos), "largest_difference": difference, "same_regions": sum(same)}


def run_by_onnx(directory: Path, threads: int) -> Run:
    """Opens an export and runs it on the stored probe, as warm-up and check.

    Raises:
        UserError: a file is missing or damaged, or the outputs for the probe differ from PyTorch's.
    """
    run = _run(directory / ONNX_FILE, threads)
    try:
        with np.load(directory / PROBE_FILE, allow_pickle=False) as probe:
            pixels, expected = probe[INPUT], [probe[name] for name in probe.files if name != INPUT]
        difference = _difference(expected, run(pixels))
    except Exception as error:  # numpy and onnxruntime raise many kinds
        raise UserError(f"the detector in {directory} can't be read: {error}; materialize {ASSET}") from error
    if not difference <= LARGEST_DIFFERENCE:
        raise UserError(
            f"the detector in {directory} differs from PyTorch on this machine by {difference:.4f}, expected "
            f"at most {LARGEST_DIFFERENCE}; set query_encoder.engine: pytorch, and materialize {ASSET}"
        )
    return run


def _run(model: Path, threads: int) -> Run:
    session: Any = open_session(model, threads, ASSET)

    def run(pixels: np.ndarray) -> Outputs:
        found = [session.run(None, {INPUT: pixels[row : row + 1]}) for row in range(len(pixels))]
        return [np.concatenate(outputs) for outputs in zip(*found, strict=True)]

    return run


def _difference(expected: Outputs, found: Outputs) -> float:
    """Returns the largest difference of any output, as a share of the output's largest value."""
    return max(
        float(np.abs(one - other).max() / max(float(np.abs(one).max()), 1.0))
        for one, other in zip(expected, found, strict=True)
    )
