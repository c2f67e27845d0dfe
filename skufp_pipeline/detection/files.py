"""The files of a detector: its checkpoint, which a version of the index keeps, and its export to ONNX."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from skufp_pipeline.detection.model import DetectorModel, ModelDetector
from skufp_pipeline.detection.settings import DetectorSettings
from skufp_pipeline.errors import UserError

SETTINGS_FILE, MODEL_FOLDER = "settings.json", "model"
ONNX_FILE, PROBE_FILE = "detector.onnx", "probe.npz"
INPUT = "pixels"
LARGEST_DIFFERENCE = 0.01  # of an output, as a share of the largest of PyTorch's


def save_detector(model: DetectorModel, directory: Path) -> None:
    """Writes the model and which regions it keeps; `load_model` reads them."""
    (directory / MODEL_FOLDER).mkdir()
    model.save(directory / MODEL_FOLDER)
    kept = model.settings.model_dump_json(exclude={"report_photos", "thresholds"}, indent=1)
    (directory / SETTINGS_FILE).write_text(kept + "\n")


def load_model(directory: Path) -> DetectorModel:
    """Reads a checkpoint's model; raises UserError if it can't be read."""
    try:
        settings = DetectorSettings.model_validate_json((directory / SETTINGS_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"the detector in {directory} can't be read: {error}; materialize detector_checkpoint"
        ) from error
    if settings.model is not None:
        from skufp_pipeline.detection.pretrained import PretrainedModel  # imports transformers

        return PretrainedModel.load(str(directory / MODEL_FOLDER), settings)
    from skufp_pipeline.detection.small import SmallModel

    return SmallModel.load(directory / MODEL_FOLDER, settings)


def load_detector(
    checkpoint: Path, device: torch.device, exported: Path | None = None, threads: int = 1
) -> ModelDetector:
    """Opens a detector by PyTorch, or by ONNX Runtime with the export in the folder `exported`; warms it up.

    Raises:
        UserError: a file is missing or damaged, or the export differs from PyTorch on this machine.
    """
    model = load_model(checkpoint)
    if exported is not None:
        from skufp_pipeline.detection.export import run_by_onnx

        return ModelDetector(model, run_by_onnx(exported, threads))
    detector = ModelDetector(model, model.by_pytorch(device))
    detector.run(model.prepare(Image.fromarray(np.zeros((64, 64, 3), np.uint8))))
    return detector
