"""Trains the small detector on photos whose boxes are known."""

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skufp_pipeline.detection.data import BoxedPhotos
from skufp_pipeline.detection.measure import Agreement, agreement
from skufp_pipeline.detection.network import DetectorNetwork, detection_loss
from skufp_pipeline.detection.settings import DetectorSettings, DetectorTrainingSettings
from skufp_pipeline.detection.small import SmallModel
from skufp_pipeline.errors import TooLittleError
from skufp_pipeline.randomness import chance, generator
from skufp_pipeline.training.device import multiplies_bfloat16
from skufp_pipeline.training.history import History
from skufp_pipeline.training.images import moving_average
from skufp_pipeline.training.loop import Log, Part, Training, set_learning_rate
from skufp_pipeline.training.schedule import warm_cosine

LEAST_PHOTOS = 20
_SEEN = 0.25  # share of an item that must stay in a crop; less is taken for background
_BATCH = 64
QUALITY = "development_recall"  # mean over the IoUs of `measure.IOUS`


def train_detector(
    train: BoxedPhotos,
    held: BoxedPhotos,
    settings: DetectorSettings,
    seed: int,
    device: torch.device,
    scratch: Path,
    log: Log,
) -> tuple[DetectorNetwork, History]:
    """Returns the network of the step that finds most boxes of `held`, and the scores of all judged steps.

    Raises:
        TooLittleError: fewer than `LEAST_PHOTOS` photos to train on.
    """
    if len(train) < LEAST_PHOTOS:
        raise TooLittleError(f"a detector needs {LEAST_PHOTOS} photos with boxes; found {len(train)}")
    own = settings.training
    torch.manual_seed(seed)
    network = DetectorNetwork(own.side, own.width).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        network.parameters(), own.learning_rate, weight_decay=own.weight_decay, fused=True
    )
    average = moving_average(network, own.ema_decay)
    assert average is not None
    parts: dict[str, Part] = {"network": network, "optimizer": optimizer, "average": average}
    training = Training("detector", scratch, parts, log)
    losses: list[float] = []
    for step in training.rounds(own.steps, unit="step", save_every=own.judge_every):
        network.train()
        pixels, truth = drawn_batch(train, own, generator(seed, "detector", step))
        set_learning_rate(optimizer, own.learning_rate * warm_cosine(step, own.steps, own.warmup_fraction))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=multiplies_bfloat16(device)):
            logits, boxes = network(torch.from_numpy(pixels).to(device))
        loss = detection_loss(
            logits, boxes, torch.from_numpy(truth).to(device), network.centres, network.cells
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        average.update_parameters(network)
        losses.append(float(loss.detach()))
        if (step + 1) % own.judge_every == 0 or step + 1 == own.steps:
            found = agreement_on(held, average.module.eval(), settings, device)
            scores = {QUALITY: found.placed, "recall": found.recall}
            row = {"step": step + 1, "loss": float(np.mean(losses)), **scores}
            losses.clear()
            training.history.append(row)
            training.keep_best(row[QUALITY], average.module)
        training.tell(f"loss {float(loss.detach()):.3f}")
    training.load_best(network)
    return network, training.history


def agreement_on(
    photos: BoxedPhotos, network: nn.Module, settings: DetectorSettings, device: torch.device
) -> Agreement:
    """Returns how well the network finds the boxes of the photos."""
    assert isinstance(network, DetectorNetwork)
    model, side, found = SmallModel(network, settings), network.side, []
    run = model.by_pytorch(device)
    for start in range(0, len(photos), _BATCH):
        boxes, scores = run(photos.pixels[start : start + _BATCH])
        found += [model.regions([b[None], s[None]], (side, side)) for b, s in zip(boxes, scores, strict=True)]
    return agreement(found, [known * side for known in photos.boxes])


def drawn_batch(
    photos: BoxedPhotos, settings: DetectorTrainingSettings, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Returns a batch of photos, each augmented, and their boxes (B, M, 4); rows of 0 fill up to M."""
    rows = rng.integers(len(photos), size=settings.batch_size)
    most = max(len(photos.boxes[row]) for row in rows)
    pixels = np.empty((len(rows), settings.side, settings.side, 3), np.uint8)
    truth = np.zeros((len(rows), most, 4), np.float32)
    for place, row in enumerate(rows):
        pixels[place], boxes = augmented(photos.pixels[row], photos.boxes[row], rng)
        truth[place, : len(boxes)] = boxes
    return pixels, truth


def augmented(
    pixels: NDArray[np.uint8], boxes: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Returns a part of a photo at its size, sometimes mirrored, in another light; and the boxes in it.

    An item of which less than `_SEEN` is left is no item any more.
    """
    side = len(pixels)
    share = rng.uniform(0.65, 1.0, 2)
    corner = rng.uniform(0, 1, 2) * (1 - share)
    scale = 1 / share
    matrix = np.array(
        [[scale[0], 0, -corner[0] * side * scale[0]], [0, scale[1], -corner[1] * side * scale[1]]]
    )
    part = cv2.warpAffine(pixels, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
    moved = (boxes - np.tile(corner, 2)) * np.tile(scale, 2)
    cut = moved.clip(0, 1)
    areas = [(each[:, 2] - each[:, 0]) * (each[:, 3] - each[:, 1]) for each in (cut, moved)]
    cut = cut[areas[0] >= _SEEN * areas[1]]
    if chance(rng, 0.5):
        part, cut = part[:, ::-1], np.stack([1 - cut[:, 2], cut[:, 1], 1 - cut[:, 0], cut[:, 3]], axis=1)
    gain, offset = rng.uniform(0.75, 1.3) * rng.uniform(0.9, 1.1, 3), rng.uniform(-20, 20)
    lit = np.clip(part * gain.astype(np.float32) + np.float32(offset), 0, 255)
    return lit.astype(np.uint8), cut.astype(np.float32)
