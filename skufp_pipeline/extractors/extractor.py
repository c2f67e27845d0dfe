"""An extractor: an image tower that embeds pictures as unit rows, with its preprocessing and its files.

    extractor = load_extractor(folder, device)
    rows = extractor.embed_pixels(torch.stack([extractor.preprocess(photo) for photo in photos]))

All extractors are used in this way (it is an `encoders.embed.ImageEncoder`). How one is built and trained is
its `Family`, a module of this room.
"""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from skufp_pipeline.encoders.clip import unit_rows
from skufp_pipeline.errors import UserError, in_a_line
from skufp_pipeline.extractors.objective import ExtractorData, Objective
from skufp_pipeline.extractors.settings import NAMES, ExtractorSettings

CONFIG_FILE, WEIGHTS_FILE = "extractor.json", "extractor.safetensors"


class Tower(nn.Module, ABC):
    """A network that embeds images (B, 3, H, W) as (B, D) rows of any norm."""

    @property
    @abstractmethod
    def pretrained_part(self) -> nn.Module:
        """The part of it that pretrained weights are for."""

    @abstractmethod
    def embed(self, pixels: Tensor) -> Tensor: ...


@dataclass
class Extractor:
    """A tower at work.

    Attributes:
        config: JSON-able; `name`, `tower` (the arguments that it is built from), `dimension`, `image_size`,
            `mean` and `std`.
    """

    tower: Tower
    config: dict[str, Any]
    device: torch.device

    def __post_init__(self) -> None:
        mean, std = self.mean_and_std
        wanted = PreprocessCfg(
            size=self.image_size, mean=mean, std=std, interpolation="bilinear", resize_mode="squash"
        )
        self.preprocess = image_transform_v2(wanted, is_train=False)

    @property
    def name(self) -> str:
        return str(self.config["name"])

    @property
    def dimension(self) -> int:
        return int(self.config["dimension"])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.config["image_size"]
        return height, width

    @property
    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return tuple(self.config["mean"]), tuple(self.config["std"])

    @torch.inference_mode()
    def embed_pixels(self, pixels: Tensor) -> NDArray[np.float32]:
        """Returns (B, D) float32 unit rows of preprocessed images (B, 3, H, W)."""
        pixels = pixels.to(self.device).contiguous(memory_format=torch.channels_last)
        return unit_rows(self.tower.embed(pixels))

    def save(self, directory: Path) -> None:
        """Writes a directory for `load_extractor`."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / CONFIG_FILE).write_text(json.dumps(self.config, indent=1) + "\n")
        weights = self.tower.state_dict().items()
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in weights}, directory / WEIGHTS_FILE
        )


@dataclass(frozen=True)
class Parts:
    """What a family makes of its settings.

    Attributes:
        arguments: of `Family.build`, JSON-able.
        mean, std: of the pixels, one number a channel.
    """

    tower: Tower
    arguments: dict[str, Any]
    image_size: tuple[int, int]
    dimension: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


S = TypeVar("S", bound=ExtractorSettings)


class Family(ABC, Generic[S]):
    """How one kind of extractor is built and trained; a module of this room has one, `FAMILY`."""

    @abstractmethod
    def create(self, settings: S, device: torch.device, seed: int) -> Parts:
        """Creates the tower before training, pretrained where the settings name weights.

        Raises:
            UserError: unknown model or tag, missing or incompatible weight file, no network for a tag.
        """

    @abstractmethod
    def build(self, arguments: dict[str, Any]) -> Tower:
        """Builds a tower with random weights from `Parts.arguments`."""

    @abstractmethod
    def objective(self, extractor: Extractor, data: ExtractorData, settings: S) -> Objective:
        """Returns how `extractor` is trained."""


def family_of(name: str) -> Family[Any]:
    """Returns the family of the extractor `name`.

    Its module is not imported by a statement, so that a change of one family is none of the others' code.
    """
    found: Family[Any] = import_module(module_of(name)).FAMILY
    return found


def module_of(name: str) -> str:
    """Returns the full name of the module of an extractor's family.

    Raises:
        UserError: there is no such extractor.
    """
    if name not in NAMES:
        raise UserError(f"there is no extractor {name!r}; expected one of {', '.join(NAMES)}")
    return f"skufp_pipeline.extractors.{name}"


def create_extractor(settings: ExtractorSettings, device: torch.device, seed: int) -> Extractor:
    """Creates an extractor before training, pretrained where the settings name weights.

    Raises:
        UserError: as `Family.create`.
    """
    torch.manual_seed(seed)
    parts = family_of(settings.name).create(settings, device, seed)
    config = {
        "name": settings.name,
        "tower": parts.arguments,
        "dimension": parts.dimension,
        "image_size": list(parts.image_size),
        "mean": list(parts.mean),
        "std": list(parts.std),
    }
    return _placed(parts.tower, config, device)


def load_extractor(directory: Path, device: torch.device) -> Extractor:
    """Loads an extractor that `Extractor.save` wrote.

    Raises:
        UserError: a file is missing or damaged.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (directory / name).is_file():
            raise UserError(f"{directory} holds no extractor: {name} is missing")
    try:
        config = json.loads((directory / CONFIG_FILE).read_text())
        tower = family_of(config["name"]).build(config["tower"])
        tower.load_state_dict(load_file(directory / WEIGHTS_FILE))
        return _placed(tower, config, device)
    except UserError:
        raise
    except Exception as error:  # safetensors, torch and json each raise their own kinds
        raise UserError(f"the extractor in {directory} can't be read: {in_a_line(error)}") from error


def _placed(tower: Tower, config: dict[str, Any], device: torch.device) -> Extractor:
    return Extractor(tower.to(device).to(memory_format=torch.channels_last).eval(), config, device)
