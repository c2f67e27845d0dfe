"""The small detector: `network.DetectorNetwork` with what comes before and after it, and its files."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from skufp_pipeline.detection.model import DetectorModel, Outputs
from skufp_pipeline.detection.network import DetectorNetwork
from skufp_pipeline.detection.regions import ITEM, Region, kept_regions
from skufp_pipeline.detection.settings import DetectorSettings
from skufp_pipeline.errors import UserError
from skufp_pipeline.training.pixels import to_square

WEIGHTS_FILE, CONFIG_FILE = "detector.safetensors", "detector.json"


class _Scored(nn.Module):
    """Boxes (B, N, 4) in shares of the side, and scores (B, N)."""

    def __init__(self, network: DetectorNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        logits, boxes = self.network(pixels)
        return boxes, logits.sigmoid()


class SmallModel(DetectorModel):
    """The small detector.

    Args:
        network: as trained.
        side: of its input in pixels.
        settings: which regions are kept.
    """

    outputs = ("boxes", "scores")

    def __init__(self, network: DetectorNetwork, settings: DetectorSettings) -> None:
        self.network, self.module, self.settings = network, _Scored(network), settings

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        return to_square(np.asarray(image), self.network.side)[None]

    def regions(self, outputs: Outputs, size: tuple[int, int]) -> list[Region]:
        (boxes,), (scores,) = outputs
        in_pixels = boxes.astype(np.float64) * [*size, *size]
        return kept_regions(in_pixels, scores, [ITEM] * len(scores), size, self.settings)

    def save(self, directory: Path) -> None:
        weights = {name: value.cpu().contiguous() for name, value in self.network.state_dict().items()}
        save_file(weights, directory / WEIGHTS_FILE)
        shape = {"side": self.network.side, "width": self.network.width}
        (directory / CONFIG_FILE).write_text(json.dumps(shape) + "\n")

    @classmethod
    def load(cls, directory: Path, settings: DetectorSettings) -> "SmallModel":
        """Reads what `save` wrote; raises UserError if it can't be read."""
        try:
            network = DetectorNetwork(**json.loads((directory / CONFIG_FILE).read_text()))
            network.load_state_dict(load_file(directory / WEIGHTS_FILE))
        except Exception as error:  # json, safetensors and torch raise many kinds
            raise UserError(
                f"the detector in {directory} can't be read: {error}; materialize detector_checkpoint"
            ) from error
        return cls(network.eval(), settings)
