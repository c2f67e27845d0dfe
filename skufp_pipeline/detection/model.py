"""A detection model at work: PyTorch or ONNX Runtime compute its outputs, the rest is the same for both."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from skufp_pipeline.detection.regions import Region
from skufp_pipeline.detection.settings import DetectorSettings

Outputs = Sequence[NDArray[np.float32]]
Run = Callable[[NDArray], Outputs]  # from a model's input to its outputs


class DetectorModel(ABC):
    """A network that finds items, with what comes before and after it.

    Attributes:
        module: computes the outputs from an input of `prepare`, both as tensors.
        settings: which regions are kept.
        outputs: names of the outputs.
    """

    outputs: ClassVar[tuple[str, ...]]
    module: nn.Module
    settings: DetectorSettings

    @abstractmethod
    def prepare(self, image: Image.Image) -> NDArray:
        """Returns the input of the module for one photo: a batch of one, of a size that all photos share."""

    @abstractmethod
    def regions(self, outputs: Outputs, size: tuple[int, int]) -> list[Region]:
        """Returns the regions of a photo of this width and height from the outputs of its batch of one."""

    def find(self, image: Image.Image, run: Run) -> list[Region]:
        """Returns the regions of an upright RGB photo, the best first; `run` computes the outputs."""
        return self.regions(run(self.prepare(image)), image.size)

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Writes the model to an empty folder."""

    def by_pytorch(self, device: torch.device) -> Run:
        """Returns a function that computes the outputs on a device."""
        module = self.module.to(device).eval()

        @torch.inference_mode()
        def run(pixels: NDArray) -> Outputs:
            found: Sequence[Tensor] = module(torch.from_numpy(np.ascontiguousarray(pixels)).to(device))
            return [output.float().cpu().numpy() for output in found]

        return run


@dataclass(frozen=True)
class ModelDetector:
    """A `Detector`: a model whose outputs `run` computes."""

    model: DetectorModel
    run: Run

    @property
    def trim(self) -> float:
        return self.model.settings.trim

    def find(self, image: Image.Image) -> list[Region]:
        return self.model.find(image, self.run)
