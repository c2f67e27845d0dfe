"""Trains the small detector on photos whose boxes are known."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skufp_pipeline.detection.data import BoxedPhotos
from skufp_pipeline.detection.measure import Agreement, agreement
from skufp_pipeline.detection.network import DetectorNetwork, Truth, detection_loss
from skufp_pipeline.detection.settings import DetectorSettings, DetectorTrainingSettings
from skufp_pipeline.detection.small import SmallModel
from skufp_pipeline.detection.windows import around, mirrored, seen_in, view
from skufp_pipeline.errors import TooLittleError
from skufp_pipeline.randomness import chance, generator
from skufp_pipeline.training.device import mixed_precision
from skufp_pipeline.training.history import History
from skufp_pipeline.training.images import moving_average
from skufp_pipeline.training.loop import Log, Part, Training, set_learning_rate
from skufp_pipeline.training.schedule import warm_cosine

LEAST_PHOTOS = 20
_SEEN = 0.25  # share of an item that must be in view
_SWAPPED = 0.4  # share of views whose colour channels change places: items of colours that are not there
_SHIFT, _SCALE = 0.1, 0.16  # deviations of a found box: of its centre in sizes, of the logarithm of its size
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
        pixels, *drawn = drawn_batch(train, own, generator(seed, "detector", step))
        truth = Truth(*(torch.from_numpy(boxes).to(device) for boxes in drawn))
        set_learning_rate(optimizer, own.learning_rate * warm_cosine(step, own.steps, own.warmup_fraction))
        with mixed_precision(device):
            found = network.predictions(torch.from_numpy(pixels).to(device))
        loss = detection_loss(network, found, truth)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        average.update_parameters(network)
        losses.append(float(loss.detach()))
        if (step + 1) % own.judge_every == 0 or step + 1 == own.steps:
            judged = agreement_on(held, average.module.eval(), settings, device)
            scores = {QUALITY: judged.placed, "recall": judged.recall}
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
    model, side, found = SmallModel(network, settings), photos.pixels.shape[1], []
    run = model.by_pytorch(device)
    for start in range(0, len(photos), _BATCH):
        canvases = list(photos.pixels[start : start + _BATCH])
        found += model.find_in(canvases, [(side, side)] * len(canvases), run)
    return agreement(found, [known * side for known in photos.boxes])


def drawn_batch(
    photos: BoxedPhotos, settings: DetectorTrainingSettings, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """Returns a batch of views: half of photos, half of single items as they are found at first.

    Returns:
        The views, the boxes in each (B, M, 4), filled up with rows of 0, and the box (B, 4) of the item in
        the middle, nan in a view of a photo.
    """
    # Photos with several items are few, and the hardest.
    weights = np.array([max(1, len(boxes)) ** 2 for boxes in photos.boxes], float)
    rows = rng.choice(len(photos), size=settings.batch_size, p=weights / weights.sum())
    most = max(len(photos.boxes[row]) for row in rows)
    pixels = np.empty((len(rows), settings.side, settings.side, 3), np.uint8)
    truth, middle = np.zeros((len(rows), most, 4), np.float32), np.full((len(rows), 4), np.nan, np.float32)
    for place, row in enumerate(rows):
        boxes, of_item = photos.boxes[row], place < len(rows) // 2
        if of_item and len(boxes):
            boxes = np.roll(boxes, -int(rng.integers(len(boxes))), axis=0)
        window = around(moved(boxes[0], rng)) if of_item and len(boxes) else part(rng)
        pixels[place], shown = augmented(photos.pixels[row], boxes, window, settings.side, rng)
        if of_item and len(boxes):
            middle[place] = shown[0].clip(0, 1)
        kept = shown.clip(0, 1)[shares_in(shown) >= _SEEN]
        truth[place, : len(kept)] = kept
    return pixels, truth, middle


def part(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draws a window on a part of a photo."""
    share = rng.uniform(0.65, 1.0, 2)
    corner = rng.uniform(0, 1, 2) * (1 - share)
    return np.concatenate([corner, corner + share])


def moved(box: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draws a box as a detector may find it instead of this one."""
    size = box[2:] - box[:2]
    centre = (box[:2] + box[2:]) / 2 + rng.normal(0, _SHIFT, 2) * size
    half = size * np.exp(rng.normal(0, _SCALE, 2)) / 2
    return np.concatenate([centre - half, centre + half])


def augmented(
    canvas: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    window: NDArray[np.float64],
    side: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Returns what a window shows of a photo, sometimes mirrored, in other colours; and the boxes there."""
    shown, moved_boxes = view(canvas, window, side), seen_in(boxes, window)
    if chance(rng, 0.5):
        shown, moved_boxes = shown[:, ::-1], mirrored(moved_boxes)
    order = rng.permutation(3) if chance(rng, _SWAPPED) else np.arange(3)
    mix = np.eye(3)[order] * rng.uniform(0.75, 1.3) + rng.normal(0, 0.08, (3, 3))
    offset = 128 + rng.uniform(-20, 20, 3)
    coloured = (shown.astype(np.float32) - 128) @ mix.astype(np.float32) + offset.astype(np.float32)
    return np.clip(coloured, 0, 255).astype(np.uint8), moved_boxes


def shares_in(boxes: NDArray) -> NDArray[np.float64]:
    """Returns the share of each box (M, 4) that is in view; less than `_SEEN` is taken for background."""
    areas = [(each[:, 2] - each[:, 0]) * (each[:, 3] - each[:, 1]) for each in (boxes.clip(0, 1), boxes)]
    return areas[0] / areas[1]
