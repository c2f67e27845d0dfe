"""Detectors of transformers: DETR, Conditional DETR, RT-DETR, D-FINE, YOLOS and their like."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from skufp_pipeline.detection.model import DetectorModel, Outputs
from skufp_pipeline.detection.regions import Region, kept_regions
from skufp_pipeline.detection.settings import DetectorSettings
from skufp_pipeline.errors import UserError, in_a_line
from skufp_pipeline.training.weights import resolve

SETTING = "detector.model"


class _Predicted(nn.Module):
    """Logits (B, Q, C) and boxes (B, Q, 4) of the queries of a model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        found = self.model(pixel_values=pixels)
        return found.logits, found.pred_boxes


class PretrainedModel(DetectorModel):
    """A model of transformers with its image processor, which prepares photos and decodes the outputs.

    The photo is squeezed to a square of `detector.side` pixels, so that all inputs have one size.

    Raises:
        UserError: `detector.labels` names a label that the model does not have.
    """

    outputs = ("logits", "pred_boxes")

    def __init__(self, model: Any, processor: Any, settings: DetectorSettings) -> None:
        self.model, self.processor, self.settings = model.eval(), processor, settings
        self.module = _Predicted(model)
        self.names: dict[int, str] = {int(key): name for key, name in model.config.id2label.items()}
        unknown = sorted({*(settings.labels or ())} - {*self.names.values()})
        if unknown:
            known = ", ".join(sorted({*self.names.values()}))
            raise UserError(f"detector.labels: the model has no {', '.join(unknown)}; it has {known}")

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        size = {"height": self.settings.side, "width": self.settings.side}
        found = self.processor(images=image, size=size, do_pad=False, return_tensors="pt")
        return found["pixel_values"].numpy()

    def regions(self, outputs: Outputs, size: tuple[int, int]) -> list[Region]:
        logits, boxes = (torch.from_numpy(np.asarray(output)) for output in outputs)
        predicted = SimpleNamespace(logits=logits, pred_boxes=boxes)
        (found,) = self.processor.post_process_object_detection(
            predicted, threshold=-1.0, target_sizes=[(size[1], size[0])]
        )
        labels = [self.names.get(int(label), str(int(label))) for label in found["labels"]]
        return kept_regions(found["boxes"].numpy(), found["scores"].numpy(), labels, size, self.settings)

    def save(self, directory: Path) -> None:
        self.model.save_pretrained(directory)
        self.processor.save_pretrained(directory)

    @classmethod
    def load(cls, name: str, settings: DetectorSettings) -> "PretrainedModel":
        """Loads a model by hub id, or from a folder that save_pretrained wrote.

        Raises:
            UserError: unknown model, no network for a hub id, or a model of another kind.
        """
        weights = resolve(name, SETTING)
        source, local = weights.source, weights.path is not None
        try:
            processor = AutoImageProcessor.from_pretrained(source, local_files_only=local)
            model = AutoModelForObjectDetection.from_pretrained(source, local_files_only=local)
        except Exception as error:  # the hub and transformers raise many kinds
            raise UserError(
                f"{SETTING} {name!r} could not be loaded ({in_a_line(error)}); expected the hub id of an "
                "object detection model such as yainage90/fashion-object-detection, or a directory that "
                "save_pretrained wrote for model and image processor"
            ) from error
        return cls(model, processor, settings)
