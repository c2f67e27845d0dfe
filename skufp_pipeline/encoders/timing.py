"""Measures how long an encoder takes on this machine to embed a picture and to train on one."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from skufp_pipeline.camera.settings import CameraSettings
from skufp_pipeline.encoders.adapt import AdaptationData, adapt
from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.encoders.clip_train import LabelledTexts, TrainingData, fine_tune
from skufp_pipeline.encoders.settings import AdaptationSettings, ClipTrainingSettings, EncoderSettings
from skufp_pipeline.photos import whole_photo
from skufp_pipeline.training.images import LabelledImages

EMBEDDED, TRAINED, BATCH = 16, 32, 16  # pictures


@dataclass(frozen=True)
class Speed:
    """Seconds for one picture: decoded and embedded, or trained on once."""

    embedding: float
    training: float


def measure_speed(encoder: Encoder, pictures: Sequence[Path], settings: EncoderSettings) -> Speed:
    """Embeds some of the pictures and takes training steps on them; changes the encoder's weights.

    The first picture and the first epoch or step are not counted: they load code and allocate memory.
    """
    paths = [pictures[number % len(pictures)] for number in range(EMBEDDED)]
    encoder.embed_images([whole_photo(paths[0])])
    started = time.perf_counter()
    images = [whole_photo(path) for path in paths]
    encoder.embed_images(images)
    embedding = (time.perf_counter() - started) / len(paths)
    if settings.adaptation is not None:
        return Speed(embedding, _adaptation_seconds(encoder, images, settings.adaptation))
    return Speed(embedding, 1 / _train(encoder, images, settings.training)[-1]["images_per_second"])


def _adaptation_seconds(
    encoder: Encoder, images: Sequence[Image.Image], settings: AdaptationSettings
) -> float:
    """Seconds that a photo of an adaptation takes, over two steps of `TRAINED` photos after a first one."""
    count, side = TRAINED, (settings.cache_side, settings.cache_side)
    pixels = np.stack([np.asarray(images[number % len(images)].resize(side)) for number in range(count)])
    none = pixels[:0]
    anchors = encoder.embed_images(images)[np.arange(count) % len(images)]
    data = AdaptationData(pixels, np.ones(count), np.arange(count), none, np.arange(0), anchors, none)
    started = 0.0
    for steps in (1, 2):
        short = settings.model_copy(update={"steps": steps, "most_steps": steps, "passes": 0.0})
        with tempfile.TemporaryDirectory() as scratch:
            started = time.perf_counter()
            adapt(encoder, data, short, CameraSettings(), 0, Path(scratch), lambda line: None)
    return (time.perf_counter() - started) / (2 * TRAINED)


def _train(encoder: Encoder, images: Sequence[Image.Image], settings: ClipTrainingSettings) -> list[dict]:
    """Two epochs on `TRAINED` pictures, with as many prompts for each as the settings say."""
    side = (settings.cache_side, settings.cache_side)
    pixels = np.stack([np.asarray(images[number % len(images)].resize(side)) for number in range(TRAINED)])
    labels = np.arange(TRAINED)
    none = LabelledImages(pixels[:0], labels[:0])
    texts = LabelledTexts([f"a photo of product {label}" for label in labels], labels)
    data = TrainingData(
        LabelledImages(pixels, labels), none, np.zeros(TRAINED, dtype=np.int64), lambda epoch: texts
    )
    prompts = -(-settings.text_batch_size * BATCH // settings.batch_size)
    changes = {"epochs": 2, "batch_size": BATCH, "text_batch_size": prompts, "images_per_sku": None}
    short = settings.model_copy(update={**changes, "centroid_weight": 0.0, "head_only_epochs": 0})
    with tempfile.TemporaryDirectory() as scratch:
        return list(fine_tune(encoder, data, short, 0, Path(scratch), lambda line: None))
