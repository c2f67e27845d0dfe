"""Every training of the package on a few numbers, in a second each, on any device; and how one is killed."""

import json
import os
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skufp_pipeline.detection.files import save_detector
from skufp_pipeline.detection.small import SmallModel
from skufp_pipeline.detection.train import train_detector
from skufp_pipeline.encoders.clip import create_encoder
from skufp_pipeline.encoders.clip_train import LabelledTexts, TrainingData, fine_tune
from skufp_pipeline.encoders.late_interaction import PatchData, nearest_skus, train_patch_head
from skufp_pipeline.encoders.patches import PatchGrid, PatchHead
from skufp_pipeline.encoders.settings import (
    ClipTrainingSettings,
    LookTwiceSettings,
)
from skufp_pipeline.extractors.extractor import create_extractor
from skufp_pipeline.extractors.objective import ExtractorData
from skufp_pipeline.extractors.settings import NAMES, ReidSettings, ReidTrainingSettings
from skufp_pipeline.extractors.train import train_extractor
from skufp_pipeline.fingerprint.aggregator import save_aggregator
from skufp_pipeline.fingerprint.aggregator_train import train_aggregator
from skufp_pipeline.fingerprint.settings import (
    AggregatorSettings,
    FingerprintSettings,
    FingerprintTrainingSettings,
)
from skufp_pipeline.fingerprint.tables import FingerprintData, Queries
from skufp_pipeline.fingerprint.teachers import best_shot
from skufp_pipeline.fingerprint.views import ViewSet, mean_sku, unit
from skufp_pipeline.policy.policy_train import train_policy
from skufp_pipeline.policy.settings import ActionSettings, PolicyTrainingSettings
from skufp_pipeline.training.history import History, learning_curve
from skufp_pipeline.training.images import LabelledImages
from skufp_pipeline.views.base import train_base
from skufp_pipeline.views.lora import save_lora, train_lora
from skufp_pipeline.views.pipeline import build_pipeline, save_pipeline
from skufp_pipeline.views.settings import LoraSettings, SmallBaseSettings

from ..detection.examples import SETTINGS, TRAINING, rectangles
from ..encoders.examples import write_model
from ..extractors.examples import data as extractor_data
from ..extractors.examples import small
from ..fingerprint.examples import random_views, unit_rows
from ..policy.examples import labels, sharpen_helps
from ..views.examples import CONFIG, CPU, crops, write_config

Log = Callable[[str], None]


def clip(scratch: Path, out: Path, log: Log, device: torch.device, dropout: float) -> History:
    """Stochastic depth draws from torch's own random numbers; with a moving average."""
    tower = write_model(scratch / "tiny-timm.json")
    encoder = create_encoder(
        tower.model_copy(update={"image_tower_kwargs": {"drop_path_rate": dropout}}), device, 1
    )
    texts = LabelledTexts([f"garment {sku}" for sku in range(4)], np.arange(4))
    data = TrainingData(images(3, 0), images(2, 1), np.zeros(4, np.int64), lambda epoch: texts)
    settings = ClipTrainingSettings(epochs=3, batch_size=5, ema_decay=0.9)
    history = fine_tune(encoder, data, settings, 5, scratch, log)
    encoder.save(out / "encoder")
    return history


def reid(scratch: Path, out: Path, log: Log, device: torch.device, dropout: float) -> History:
    settings = ReidSettings(
        model="test_resnet",
        image_size=(32, 24),
        dimension=16,
        training=ReidTrainingSettings(epochs=3, batch_size=6, images_per_sku=3, ema_decay=0.5),
    )
    extractor = create_extractor(settings, device, seed=1)
    data = ExtractorData(images(3, 0), images(2, 1), np.zeros(4, np.int64))
    history = train_extractor(extractor, data, settings, 5, scratch, log).history
    extractor.save(out / "encoder")
    return history


def extractor(name: str) -> Callable[[Path, Path, Log, torch.device, float], History]:
    """Trains a small extractor on photos and pictures; it draws batches, masks and sentences."""

    def train(scratch: Path, out: Path, log: Log, device: torch.device, dropout: float) -> History:
        settings = small(name, scratch)
        made = create_extractor(settings, device, seed=1)
        history = train_extractor(made, extractor_data(), settings, 5, scratch, log).history
        made.save(out / "encoder")
        return history

    return train


def base(scratch: Path, out: Path, log: Log, device: torch.device, dropout: float) -> History:
    """VAE, then UNet and text encoder: 6 steps each."""
    pipeline = build_pipeline(str(write_config(scratch / "sd-nano.json", CONFIG)), device, 0)
    settings = SmallBaseSettings(
        vae_steps=6, unet_steps=6, vae_batch_size=4, unet_batch_size=4, checkpoint_every=2
    )
    curves = train_base(pipeline, crops(), settings, 3, scratch, log)
    save_pipeline(pipeline, out / "pipeline")
    return [row for curve in curves.values() for row in curve]


def lora(scratch: Path, out: Path, log: Log, device: torch.device, dropout: float) -> History:
    pipeline = build_pipeline(str(write_config(scratch / "sd-nano.json", CONFIG)), device, 0)
    settings = LoraSettings(rank=2, alpha=2, steps=6, batch_size=2, learning_rate=0.05, checkpoint_every=2)
    history = train_lora(pipeline, crops(), settings, 5, scratch, log)
    save_lora(pipeline, out)
    return history


def aggregator(scratch: Path, out: Path, log: Log, device: torch.device, dropout: float) -> History:
    """Dropout draws from torch's own random numbers, beside the generator's."""
    views = random_views([1 + sku % 4 for sku in range(12)], 8)
    photos = [photos_of(views, each) for each in (4, 1, 2)]
    teachers = best_shot(views, photos[0].embeddings, photos[0].truth).vectors
    data = FingerprintData(views, *photos, teachers, unit_rows((12, 8), 5))
    model = AggregatorSettings(members=2, tokens=2, layers=1, heads=2, feedforward=16, dropout=dropout)
    training = FingerprintTrainingSettings(
        epochs=4, skus_per_batch=8, queries_per_batch=16, learning_rate=0.05
    )
    settings = FingerprintSettings(aggregator=model, training=training)
    trained, history = train_aggregator(data, settings, 3, device, scratch, log)
    save_aggregator(trained, 8, model, out)
    return history


def policy(scratch: Path, out: Path, log: Log, device: torch.device, dropout: float) -> History:
    """Trains on the CPU whatever `device` is, as everywhere."""
    settings = PolicyTrainingSettings(epochs=6, hidden=16, batch_size=64, dropout=dropout)
    trained, history, _ = train_policy(labels(sharpen_helps), ActionSettings(), settings, 0, scratch, log)
    trained.save(out)
    return history


def look_twice(scratch: Path, out: Path, log: Log, device: torch.device, dropout: float) -> History:
    """Trains on the CPU whatever `device` is, as everywhere."""
    rng = np.random.default_rng(0)
    skus, grid = np.repeat(np.arange(5), 3), PatchGrid(0, 6, 2, 8, 2)
    maps = [rng.standard_normal((15, 4, 6)).astype(np.float16) for _ in range(2)]
    data = PatchData(maps[0], skus, maps[1], skus, nearest_skus(unit_rows((5, 8), 3), 2))
    head = PatchHead(grid)
    head.start(torch.from_numpy(maps[0].astype(np.float32)))
    settings = LookTwiceSettings(dimension=8, steps=8, batch_size=4, checkpoint_every=2)
    history = train_patch_head(head, data, settings, 5, scratch, log)
    head.save(out)
    return history


def detector(scratch: Path, out: Path, log: Log, device: torch.device, dropout: float) -> History:
    """Draws each step's batch from a generator of its own; with a moving average."""
    changes = {"steps": 6, "judge_every": 2, "batch_size": 4}
    settings = SETTINGS.model_copy(update={"training": TRAINING.model_copy(update=changes)})
    data = rectangles(20, 0), rectangles(4, 1)
    network, history = train_detector(*data, settings, 5, device, scratch, log)
    save_detector(SmallModel(network.cpu(), settings), out)
    return history


TRAININGS: dict[str, Callable[[Path, Path, Log, torch.device, float], History]] = {
    function.__name__: function
    for function in (clip, reid, base, lora, aggregator, policy, detector, look_twice)
} | {f"{name}_extractor": extractor(name) for name in NAMES if name != "reid"}


def images(each: int, seed: int) -> LabelledImages:
    """Noisy squares of four SKUs, each about its own grey level."""
    skus = np.repeat(np.arange(4), each)
    noise = np.random.default_rng(seed).integers(0, 40, (len(skus), 16, 16, 3))
    return LabelledImages((noise + 50 * skus[:, None, None, None]).astype(np.uint8), skus)


def photos_of(views: ViewSet, each: int) -> Queries:
    """Queries about the mean view of their SKUs."""
    truth = np.repeat(np.arange(len(views.sku_ids)), each)
    return Queries(unit(mean_sku(views)[truth] + 2.0 * unit_rows((len(truth), 8), each)), truth)


def run(
    name: str,
    folder: Path,
    log: Log = lambda line: None,
    device: torch.device = CPU,
    dropout: float = 0.4,
) -> dict[str, bytes]:
    """Trains below `folder`, or goes on there; what an artifact would keep of it, by file.

    Args:
        dropout: rate of what draws on the device, whose random numbers are its own: 0 compares two devices.
    """
    scratch, out = folder / "scratch", folder / "out"
    for made in (scratch, out):
        made.mkdir(parents=True, exist_ok=True)
    torch.rand(3)  # no two processes stand at the same place in torch's random numbers
    history = TRAININGS[name](scratch, out, log, device, dropout)
    (out / "history.json").write_text(json.dumps(learning_curve(history)))
    return {
        str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()
    }


def run_and_die(name: str, folder: Path, when: str, number: int) -> None:
    """Trains until SIGKILL: in the middle of optimizer step `number`, or of writing file `number`."""
    calls = count(1)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    step, save = torch.optim.AdamW.step, torch.save

    def step_or_die(*arguments: Any, **others: Any) -> Any:
        return die() if next(calls) == number else step(*arguments, **others)

    def save_or_die(state: Any, path: Path) -> None:
        save(state, path)
        if next(calls) == number:
            path.write_bytes(path.read_bytes()[:1000])
            die()

    if when == "step":
        torch.optim.AdamW.step = step_or_die  # type: ignore[method-assign]
    else:
        torch.save = save_or_die
    run(name, folder)
