"""The small detector at work, by PyTorch or by ONNX Runtime: both only compute the grid of scored boxes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from skufp_pipeline.detection.network import DetectorNetwork, ScoredBoxes
from skufp_pipeline.detection.regions import ITEM, Region, kept_regions
from skufp_pipeline.detection.settings import DetectorSettings
from skufp_pipeline.errors import UserError
from skufp_pipeline.training.pixels import to_square

WEIGHTS_FILE, CONFIG_FILE = "detector.safetensors", "detector.json"
Dense = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # (B, S, S, 3) to (B, N, 5): `ScoredBoxes`


class SmallDetector:
    """Finds items by the grid of scored boxes of a network.

    Args:
        dense: computes the grid.
        side: of its input in pixels.
        settings: which regions are kept.
    """

    def __init__(self, dense: Dense, side: int, settings: DetectorSettings) -> None:
        self.dense, self.side, self.settings = dense, side, settings

    def find(self, image: Image.Image) -> list[Region]:
        return self.regions(self.dense(self.input(image))[0], image.size)

    def input(self, image: Image.Image) -> NDArray[np.uint8]:
        """Returns the (1, S, S, 3) input of a photo."""
        return to_square(np.asarray(image), self.side)[None]

    def regions(self, scored: NDArray[np.float32], size: tuple[int, int]) -> list[Region]:
        """Returns the regions of a photo of this size from its grid (N, 5)."""
        boxes = scored[:, :4].astype(np.float64) * [*size, *size]
        return kept_regions(boxes, scored[:, 4], [ITEM] * len(scored), size, self.settings)


def dense_by_pytorch(network: DetectorNetwork, device: torch.device) -> Dense:
    scorer = ScoredBoxes(network).eval().to(device)

    @torch.inference_mode()
    def dense(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return scorer(torch.from_numpy(np.ascontiguousarray(pixels)).to(device)).cpu().numpy()

    return dense


def save_network(network: DetectorNetwork, side: int, width: int, directory: Path) -> None:
    """Writes weights and shape; `load_network` reads them."""
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, directory / WEIGHTS_FILE)
    (directory / CONFIG_FILE).write_text(json.dumps({"side": side, "width": width}) + "\n")


def load_network(directory: Path) -> tuple[DetectorNetwork, int]:
    """Reads the network and the side of its input; raises UserError if it can't be read."""
    try:
        config = json.loads((directory / CONFIG_FILE).read_text())
        network = DetectorNetwork(config["side"], config["width"])
        network.load_state_dict(load_file(directory / WEIGHTS_FILE))
    except Exception as error:  # json, safetensors and torch raise many kinds
        raise UserError(
            f"the detector in {directory} can't be read: {error}; materialize detector_checkpoint"
        ) from error
    return network.eval(), int(config["side"])
