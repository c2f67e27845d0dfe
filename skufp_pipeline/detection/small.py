"""The small detector: `network.DetectorNetwork` with what comes before and after it, and its files."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from skufp_pipeline.detection.model import DetectorModel, Outputs, Run
from skufp_pipeline.detection.network import DetectorNetwork
from skufp_pipeline.detection.regions import ITEM, Region, kept_regions
from skufp_pipeline.detection.settings import DetectorSettings
from skufp_pipeline.detection.windows import WHOLE, around, canvas_side, mirrored, put_back, view
from skufp_pipeline.errors import UserError
from skufp_pipeline.training.pixels import to_square

WEIGHTS_FILE, CONFIG_FILE = "detector.safetensors", "detector.json"


class SmallModel(DetectorModel):
    """The small detector.

    Args:
        network: as trained.
        settings: which regions are kept, and how often each is placed once more.
    """

    outputs = ("boxes", "scores", "middle")

    def __init__(self, network: DetectorNetwork, settings: DetectorSettings) -> None:
        self.network, self.module, self.settings = network, network, settings

    def canvas(self, image: Image.Image) -> NDArray[np.uint8]:
        return to_square(np.asarray(image), canvas_side(self.network.side))

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        return view(self.canvas(image), WHOLE, self.network.side)[None]

    def find(self, image: Image.Image, run: Run) -> list[Region]:
        return self.find_in([self.canvas(image)], [image.size], run)[0]

    def find_in(
        self, canvases: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, int]], run: Run
    ) -> list[list[Region]]:
        """Returns the regions of several photos of these widths and heights."""
        pixels = np.stack([view(canvas, WHOLE, self.network.side) for canvas in canvases])
        every = zip(*run(pixels)[:2], strict=True)
        found = [
            self._kept(boxes.astype(np.float64), scores, size)
            for (boxes, scores), size in zip(every, sizes, strict=True)
        ]
        for _ in range(self.settings.looks):
            found = self._placed(found, canvases, sizes, run)
        return found

    def regions(self, outputs: Outputs, size: tuple[int, int]) -> list[Region]:
        (boxes,), (scores,), _ = outputs
        return self._kept(boxes.astype(np.float64), scores, size)

    def _kept(
        self, boxes: NDArray[np.float64], scores: NDArray[np.float32], size: tuple[int, int]
    ) -> list[Region]:
        return kept_regions(boxes * [*size, *size], scores, [ITEM] * len(scores), size, self.settings)

    def _placed(
        self,
        found: Sequence[Sequence[Region]],
        canvases: Sequence[NDArray[np.uint8]],
        sizes: Sequence[tuple[int, int]],
        run: Run,
    ) -> list[list[Region]]:
        """Looks at every region with what is around it, and at its mirror image, and places it anew."""
        photos = [photo for photo, regions in enumerate(found) for _ in regions]
        if not photos:
            return [list(regions) for regions in found]
        before = np.array(
            [np.array(r.box) / [*sizes[n] * 2] for n, regions in enumerate(found) for r in regions]
        )
        windows = [around(box) for box in before]
        shown = np.stack(
            [
                view(canvases[photo], window, self.network.side)
                for photo, window in zip(photos, windows, strict=True)
            ]
        )
        plain, other = run(shown)[2], run(np.ascontiguousarray(shown[:, :, ::-1]))[2]
        middle = (plain + mirrored(other.astype(np.float64))) / 2
        after = np.stack([put_back(box, window) for box, window in zip(middle, windows, strict=True)])
        is_box = (after[:, 2:] > after[:, :2]).all(axis=1, keepdims=True)
        placed, owners = np.where(is_box, after, before), np.array(photos)
        return [
            self._kept(placed[owners == n], np.array([r.score for r in regions], np.float32), sizes[n])
            for n, regions in enumerate(found)
        ]

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
