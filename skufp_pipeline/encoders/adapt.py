"""Adapts a pretrained image tower to a catalogue, on synthetic photos of its own pictures.

A step takes a photo of each of `batch_size` SKUs: a synthetic one, or a customer's where the SKU has training
photos. It has to find its SKU among the frozen tower's vectors of the catalogue, which do not move: a photo
shall land where the frozen tower puts the picture, so that the tower learns what a camera does and keeps what
it knew of the products. (With both sides trained, as by InfoNCE, it learns the pictures by heart.) Batch
normalisation and the first stages keep their weights; to train at a lower resolution than that of use is no
loss (FixRes, Touvron et al. 2019).

Afterwards `interpolation.py` moves the weights back towards the frozen tower, and a catalogue picture is
embedded as the mean of both towers (`embed.with_anchors`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from skufp_pipeline.camera.settings import CameraSettings
from skufp_pipeline.camera.synthetic import CataloguePicture, SyntheticPhoto, light_crop, synthetic_photo
from skufp_pipeline.datasets.contact_sheet import boxed, contact_sheet
from skufp_pipeline.encoders.clip import Encoder, image_trunk
from skufp_pipeline.encoders.settings import AdaptationSettings
from skufp_pipeline.randomness import chance, generator
from skufp_pipeline.training.history import History
from skufp_pipeline.training.loop import Log, Part, Training, set_learning_rate
from skufp_pipeline.training.prefetch import Prefetcher
from skufp_pipeline.training.sampling import rows_by_label
from skufp_pipeline.training.schedule import warm_cosine

Pixels = NDArray[np.uint8]

_CACHED_PICTURES = 4096
_SHOWN_SIDE, _SHOWN_PICTURES, _SHOWN_PHOTOS = 192, 8, 6  # of the contact sheet


@dataclass(frozen=True)
class AdaptationData:
    """What the tower is adapted on: SKUs that may be trained on, and none of their held-out photos.

    Attributes:
        pictures: (N, C, C, 3) uint8 catalogue pictures, squeezed to squares.
        aspects: (N,) width by height of each before.
        skus: (N,) int64 SKU of each, 0 to S - 1; every SKU has a picture.
        photos: (P, C, C, 3) uint8 customers' photos of role `train`; P may be 0.
        photo_skus: (P,) int64 SKU of each.
        anchors: (S, D) float32 unit rows, the frozen tower's vector of each SKU: the mean of its pictures'.
        backgrounds: (B, C, C, 3) uint8 pictures of the user's for the background; empty: the catalogue's.
    """

    pictures: Pixels
    aspects: NDArray[np.float64]
    skus: NDArray[np.int64]
    photos: Pixels
    photo_skus: NDArray[np.int64]
    anchors: NDArray[np.float32]
    backgrounds: Pixels

    @property
    def num_skus(self) -> int:
        return int(self.skus.max(initial=-1)) + 1


class SyntheticCamera:
    """Renders photos of catalogue pictures; the name of a photo and the seed decide its bytes."""

    def __init__(self, data: AdaptationData, settings: CameraSettings, side: int, seed: int) -> None:
        self.data, self.settings, self.side, self.seed = data, settings, side, seed
        self.picture = lru_cache(_CACHED_PICTURES)(self._picture)  # with their masks

    def _picture(self, row: int) -> CataloguePicture:
        return CataloguePicture(np.asarray(self.data.pictures[row]), float(self.data.aspects[row]))

    def photo(self, row: int, *name: object) -> SyntheticPhoto:
        """Returns a synthetic photo of picture `row`."""
        rng = generator(self.seed, "photo", *name)
        return synthetic_photo(rng, self.picture(row), self._background(rng), self.side, self.settings)

    def _background(self, rng: np.random.Generator) -> Pixels | None:
        if chance(rng, self.settings.plain):
            return None
        pool = self.data.backgrounds if len(self.data.backgrounds) else self.data.pictures
        return np.asarray(pool[int(rng.integers(len(pool)))])


def adapt(
    encoder: Encoder,
    data: AdaptationData,
    settings: AdaptationSettings,
    camera: CameraSettings,
    seed: int,
    scratch: Path,
    log: Log,
) -> History:
    """Adapts the image tower of `encoder` in place; returns one row per step, empty with fewer than two SKUs.

    The steps depend on the seed alone, so that a killed run that goes on ends with the same weights.
    """
    if data.num_skus < 2:
        log(f"adaptation: left out, since it needs two SKUs; found {data.num_skus}")
        return []
    visual = encoder.model.visual
    parameters = trainable_parameters(visual, image_trunk(encoder.model), settings.frozen_stages)
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    state: dict[str, Part] = {"tower": visual, "optimizer": optimizer}
    training = Training("adaptation", scratch, state, log)
    loader = PhotoLoader(encoder, data, settings, camera, seed)
    steps = settings.steps_for(data.num_skus)
    encoder.model.eval()  # batch normalisation keeps its statistics; no dropout
    with Prefetcher() as prefetcher:
        batches = prefetcher.each(loader.load, range(training.done, steps), ahead=2)
        for step in training.rounds(steps, unit="step", save_every=20):
            _, (photos, anchors) = next(batches)
            rate = settings.learning_rate * warm_cosine(step, steps, settings.warmup_fraction)
            set_learning_rate(optimizer, rate)
            loss = anchored_loss(encoder.model.encode_image(photos), anchors, settings.temperature)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, settings.clip_gradient)
            optimizer.step()
            training.history.append({"step": step + 1, "loss": float(loss.detach()), "learning_rate": rate})
            training.tell(f"loss {float(loss.detach()):.3f}")
    visual.requires_grad_(True)
    return training.history


def anchored_loss(photos: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """Returns the mean cross-entropy, a scalar, of B photos among N SKUs of which the first B are their own.

    Args:
        photos: (B, D) of any norm.
        anchors: (N, D) unit rows.
    """
    logits = F.normalize(photos.float(), dim=-1) @ anchors.T / temperature
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def trainable_parameters(visual: nn.Module, trunk: nn.Module, frozen_stages: int) -> list[nn.Parameter]:
    """Freezes the stem and the first stages of a timm trunk; returns the parameters that are left.

    The first stages see edges and colours, which no catalogue changes, and take half of a step's time. A
    trunk without `blocks` or `stages` is trained whole.
    """
    stages = next((part for name in ("blocks", "stages") if (part := getattr(trunk, name, None))), None)
    if frozen_stages and stages is not None:
        first = {id(parameter) for stage in list(stages)[:frozen_stages] for parameter in stage.parameters()}
        for module in trunk.children():  # in order: what precedes the stages is the stem
            if module is stages:
                break
            first |= {id(parameter) for parameter in module.parameters()}
        for parameter in trunk.parameters():
            parameter.requires_grad_(id(parameter) not in first)
    return [parameter for parameter in visual.parameters() if parameter.requires_grad]


class PhotoLoader:
    """Renders the photos of each step as network input, with the anchors to find them among."""

    def __init__(
        self,
        encoder: Encoder,
        data: AdaptationData,
        settings: AdaptationSettings,
        camera: CameraSettings,
        seed: int,
    ) -> None:
        self.encoder, self.data, self.settings, self.seed = encoder, data, settings, seed
        self.camera = SyntheticCamera(data, camera, settings.image_size or encoder.image_size, seed)
        self.rows_of_sku = rows_by_label(data.skus, data.num_skus)
        self.photos_of_sku = rows_by_label(data.photo_skus, data.num_skus)

    def load(self, step: int) -> tuple[Tensor, Tensor]:
        """Returns the photos (B, 3, side, side) of a step, and anchors (N, D): first those of the B SKUs."""
        rng, skus = generator(self.seed, "step", step), self._skus(step)
        photos = []
        for sku in skus:
            row, known = int(rng.choice(self.rows_of_sku[sku])), self.photos_of_sku[sku]
            if len(known) and chance(rng, self.settings.photo_share):
                photos.append(self._customers(rng, int(rng.choice(known))))
            else:
                photos.append(self.camera.photo(row, step, sku).pixels)
        others = np.setdiff1d(np.arange(self.data.num_skus), skus)
        if len(others) > self.settings.rivals:
            others = rng.choice(others, self.settings.rivals, replace=False)
        anchors = torch.from_numpy(self.data.anchors[np.concatenate([skus, others])])
        return to_input(self.encoder, photos), anchors.to(self.encoder.device)

    def _skus(self, step: int) -> list[int]:
        """Returns the SKUs of a step: distinct, and each SKU equally often over the steps."""
        count = self.data.num_skus
        size = min(self.settings.batch_size, count)
        first, last = step * size, (step + 1) * size
        chosen: list[int] = []
        for epoch in range(first // count, (last - 1) // count + 1):
            order = generator(self.seed, "epoch", epoch).permutation(count).tolist()
            chosen += order[max(first - epoch * count, 0) : last - epoch * count]
        return list(dict.fromkeys(chosen))

    def _customers(self, rng: np.random.Generator, row: int) -> Pixels:
        picture = CataloguePicture(np.asarray(self.data.photos[row]))
        return light_crop(rng, picture, self.camera.side)


def to_input(encoder: Encoder, images: Sequence[Pixels]) -> Tensor:
    """Normalises (side, side, 3) uint8 images to (B, 3, side, side) on the encoder's device."""
    pixels = torch.from_numpy(np.stack(images)).to(encoder.device).permute(0, 3, 1, 2).float() / 255
    mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in encoder.mean_and_std)
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


def sheet_of_photos(data: AdaptationData, camera: CameraSettings, seed: int) -> Image.Image:
    """Draws catalogue pictures, one a row, and synthetic photos of them with the product's box."""
    taken = SyntheticCamera(data, camera, _SHOWN_SIDE, seed)
    count = len(data.pictures)
    chosen = np.linspace(0, count - 1, min(_SHOWN_PICTURES, count)).round().astype(int).tolist()
    photos = [[_shown(taken.photo(row, "shown", row, n)) for n in range(_SHOWN_PHOTOS)] for row in chosen]
    rows = [[taken.picture(row).pixels, *of_row] for row, of_row in zip(chosen, photos, strict=True)]
    return contact_sheet(rows)


def _shown(photo: SyntheticPhoto) -> Pixels:
    return boxed(Image.fromarray(photo.pixels), photo.box)
