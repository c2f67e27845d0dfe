"""Patch vectors of a picture: maps of the image tower, projected for late interaction (`measures.maxsim`).

A tower's embedding is a mean over a map, in which two look-alikes may be the same; the map still tells where
what is. Its cells are projected to short unit vectors, which are kept as int8. The map is the deepest that
has `_LEAST_SIDE` cells a side.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import isqrt
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from skufp_pipeline.encoders.clip import Encoder, unit_rows
from skufp_pipeline.encoders.settings import LookTwiceSettings
from skufp_pipeline.errors import UserError
from skufp_pipeline.measures.maxsim import SCALE, Patches

WEIGHTS_FILE, CONFIG_FILE = "patch_head.safetensors", "patch_head.json"
_LEAST_SIDE = 4  # cells of the deepest map that is used
_BYTES_PER_SKU = 4096
_STARTING = 20  # inverse mean size of the weights before training


@dataclass(frozen=True)
class PatchGrid:
    """Which map of a tower is used, and the form of the patches.

    Attributes:
        level: number of the map among the tower's intermediate features.
        channels: C, of the map.
        side: cells a side, to which a larger map is pooled; a picture has P = side x side patches.
        dimension: d, of a patch vector.
        views: V, catalogue pictures of a SKU whose patches are kept.
    """

    level: int
    channels: int
    side: int
    dimension: int
    views: int

    @property
    def patches(self) -> int:
        return self.side * self.side

    @property
    def shape(self) -> tuple[int, int, int]:
        """V, P and d: of the patches of a SKU."""
        return self.views, self.patches, self.dimension

    @classmethod
    def of(cls, encoder: Encoder, settings: LookTwiceSettings) -> Self:
        """Chooses the map, and how many pictures are kept so that a SKU's patches take 4 KiB at most.

        Raises UserError if the tower has no map of `_LEAST_SIDE` cells a side.
        """
        shapes = [tuple(found.shape[1:]) for found in _example_maps(encoder)]
        usable = [
            number for number, (_, height, width) in enumerate(shapes) if min(height, width) >= _LEAST_SIDE
        ]
        if not usable:
            raise UserError(
                f"look_twice: no map of the image tower has {_LEAST_SIDE} cells a side; set look_twice: null "
                "in the preset"
            )
        channels, *sides = shapes[usable[-1]]
        side = min(*sides, isqrt(_BYTES_PER_SKU // settings.dimension))
        views = max(1, _BYTES_PER_SKU // (side * side * settings.dimension))
        return cls(usable[-1], channels, side, settings.dimension, min(views, settings.views))


class PatchHead(nn.Module):
    """Projections of a tower's map: one for photos, one for catalogue pictures, equal before training."""

    def __init__(self, grid: PatchGrid) -> None:
        super().__init__()
        self.grid = grid
        self.photo = nn.Linear(grid.channels, grid.dimension)
        self.view = nn.Linear(grid.channels, grid.dimension)

    @torch.no_grad()
    def start(self, maps: Tensor) -> None:
        """Sets both projections to the principal directions of maps (N, P, C), partly whitened."""
        rows = maps.reshape(-1, maps.shape[-1]).double()
        mean = rows.mean(dim=0)
        values, directions = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
        count = min(self.grid.dimension, len(values))
        weight = torch.zeros(self.grid.dimension, len(values), dtype=torch.double)
        largest = values[-count:].clamp_min(1e-9 * values[-1].clamp_min(1e-9))
        weight[:count] = directions[:, -count:].T / largest[:, None] ** 0.25
        weight /= weight.abs().mean() * _STARTING
        for projection in (self.photo, self.view):
            projection.weight.copy_(weight)
            projection.bias.copy_(-weight @ mean)

    def patches(self, maps: Tensor, projection: nn.Linear) -> Tensor:
        """Returns unit patch vectors (..., P, d) of maps (..., P, C)."""
        return F.normalize(projection(maps), dim=-1)

    def save(self, directory: Path) -> None:
        save_file(dict(self.state_dict()), directory / WEIGHTS_FILE)
        (directory / CONFIG_FILE).write_text(json.dumps(asdict(self.grid), indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Loads what `save` wrote; raises UserError if a file is missing or damaged."""
        try:
            head = cls(PatchGrid(**json.loads((directory / CONFIG_FILE).read_text())))
            head.load_state_dict(load_file(directory / WEIGHTS_FILE))
        except Exception as error:  # json, safetensors and torch raise many kinds
            raise UserError(f"{directory} holds no patch head: {error}") from error
        return head.eval()


class TowerWithMap(nn.Module):
    """An image tower that returns its embedding (B, D), of any norm, and its pooled map (B, P, C)."""

    rows: Tensor
    columns: Tensor

    def __init__(self, encoder: Encoder, grid: PatchGrid) -> None:
        super().__init__()
        self.visual, self.level = encoder.model.visual, grid.level
        sides = _example_maps(encoder)[grid.level].shape[2:]
        for name, length in zip(("rows", "columns"), sides, strict=True):
            self.register_buffer(name, _area(length, grid.side).to(encoder.device))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        found = self.visual.forward_intermediates(pixels, indices=[self.level])
        (cells,) = found["image_intermediates"]
        pooled = torch.einsum("gh,bchw,kw->bgkc", self.rows, cells.float(), self.columns)
        return found["image_features"], pooled.flatten(1, 2)


class PhotoTower(nn.Module):
    """What a query photo is encoded with: unit embedding (B, D) and unit patches (B, P, d)."""

    def __init__(self, encoder: Encoder, head: PatchHead) -> None:
        super().__init__()
        self.tower, self.head = TowerWithMap(encoder, head.grid), head

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        rows, maps = self.tower(pixels)
        return F.normalize(rows, dim=-1), self.head.patches(maps, self.head.photo)


class PatchEncoder:
    """An encoder with its patch head: an `ImageEncoder` that returns patches too."""

    def __init__(self, encoder: Encoder, head: PatchHead) -> None:
        self.encoder, self.head = encoder, head.to(encoder.device)
        self._tower = TowerWithMap(encoder, head.grid).eval()

    @property
    def preprocess(self) -> Callable[[Image.Image], Tensor]:
        preprocess: Callable[[Image.Image], Tensor] = self.encoder.preprocess
        return preprocess

    @property
    def dimension(self) -> int:
        return self.encoder.dimension

    def embed_pixels(self, pixels: Tensor) -> NDArray[np.float32]:
        return self.encoder.embed_pixels(pixels)

    @torch.inference_mode()
    def embed_with_patches(self, pixels: Tensor) -> tuple[NDArray[np.float32], Patches]:
        """Returns (B, D) float32 unit rows and (B, P, d) int8 patches of preprocessed photos."""
        rows, maps = self._tower(self._placed(pixels))
        return unit_rows(rows), as_int8(self.head.patches(maps, self.head.photo))

    @torch.inference_mode()
    def view_patches(self, pixels: Tensor) -> Patches:
        """Returns (B, P, d) int8 patches of preprocessed catalogue pictures."""
        _, maps = self._tower(self._placed(pixels))
        return as_int8(self.head.patches(maps, self.head.view))

    def _placed(self, pixels: Tensor) -> Tensor:
        return pixels.to(self.encoder.device).contiguous(memory_format=torch.channels_last)


def as_int8(patches: Tensor | NDArray[np.floating]) -> Patches:
    """Rounds unit vectors to int8, 127 for 1."""
    rows = patches.cpu().numpy() if isinstance(patches, Tensor) else patches
    found: Patches = np.rint(rows * SCALE).astype(np.int8)
    return found


@torch.inference_mode()
def maps_of(tower: TowerWithMap, pixels: Tensor) -> NDArray[np.float16]:
    """Returns (B, P, C) maps of preprocessed pictures, as training keeps them."""
    device = next(tower.visual.parameters()).device
    found: Any = tower(pixels.to(device).contiguous(memory_format=torch.channels_last))[1]
    maps: NDArray[np.float16] = found.half().cpu().numpy()
    return maps


@torch.inference_mode()
def _example_maps(encoder: Encoder) -> Sequence[Tensor]:
    example = encoder.preprocess(Image.new("RGB", (8, 8)))[None].to(encoder.device)
    try:
        found: Sequence[Tensor] = encoder.model.visual.forward_intermediates(example)["image_intermediates"]
    except Exception as error:  # of a tower that has no maps
        raise UserError(
            f"look_twice: the image tower gives no maps ({type(error).__name__}: {error}); set look_twice: "
            "null in the preset"
        ) from error
    return found


def _area(length: int, side: int) -> Tensor:
    """Returns (side, length) weights: each cell is the mean of what it covers.

    >>> _area(3, 2).mul(3).tolist()
    [[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]
    """
    edges = torch.linspace(0, length, side + 1, dtype=torch.double)
    starts = torch.arange(length, dtype=torch.double)
    covered = torch.minimum(edges[1:, None], starts + 1) - torch.maximum(edges[:-1, None], starts)
    return (covered.clamp_min(0) * side / length).float()
