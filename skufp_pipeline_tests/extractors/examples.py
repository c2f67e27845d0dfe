"""The seven extractors as small as they can be, and pictures of four SKUs to train them on."""

from pathlib import Path
from typing import Any

import numpy as np

from skufp_pipeline.extractors.objective import ExtractorData
from skufp_pipeline.extractors.settings import ExtractorSettings, ExtractorsSettings
from skufp_pipeline.training.images import LabelledImages

from ..encoders.examples import VIT_VISION, write_model

SKUS, SIDE = 4, 16
SIZE = {"image_size": (32, 32)}
RATES = {"learning_rate": 3e-3, "backbone_learning_rate": 3e-3, "warmup_fraction": 0.0}
BRIEF: dict[str, Any] = {"epochs": 3, "batch_size": 8, "patience": None, **RATES}
SMALL: dict[str, dict[str, Any]] = {
    "reid": {"model": "test_resnet", "image_size": (32, 24), "dimension": 16},
    "xception": {"model": "test_resnet", "dimension": 8, **SIZE},
    "clip_vit": {},
    "resnet50": {"model": "test_resnet", **SIZE},
    "clip": {},
    "vit": {"model": "test_vit", **SIZE},
    "autoencoder": {"channels": (4, 8), "dimension": 8, "image_size": (16, 16)},
}


def small(
    name: str, folder: Path, changes: dict[str, Any] | None = None, **training: Any
) -> ExtractorSettings:
    """The settings of a small extractor; a model of open_clip has its config in `folder`."""
    options = {**SMALL[name], **(changes or {})}
    if name in ("clip_vit", "clip") and "model" not in options:
        folder.mkdir(parents=True, exist_ok=True)
        options["model"] = write_model(folder / f"tiny-{name}.json", VIT_VISION).model
    per_sku = {"images_per_sku": 2} if name in ("reid", "resnet50") else {}
    given = {**BRIEF, **per_sku, **training}
    settings = ExtractorsSettings.model_validate({name: {**options, "training": given}})
    return settings.wanted()[name]


def labelled(each: int, seed: int, photos: int = 1) -> LabelledImages:
    """Noisy squares of four SKUs, each about its own grey level; the last `photos` of each are photos."""
    skus = np.repeat(np.arange(SKUS), each)
    noise = np.random.default_rng(seed).integers(0, 40, (len(skus), SIDE, SIDE, 3))
    pixels = (noise + 50 * skus[:, None, None, None]).astype(np.uint8)
    return LabelledImages(pixels, skus, np.tile(np.arange(each) >= each - photos, SKUS))


def data(each: int = 3, development: int = 2, photos: int = 1) -> ExtractorData:
    """SKUs 0 and 1 are of one category, 2 and 3 of another."""
    fit, judged = labelled(each, 0, photos), labelled(development, 1, photos) if development else nothing()
    said = [[(f"garment {sku}", f"thing {sku // 2}") for sku in part.labels] for part in (fit, judged)]
    return ExtractorData(fit, judged, np.array([0, 0, 1, 1]), said[0], said[1])


def nothing() -> LabelledImages:
    return LabelledImages(np.zeros((0, SIDE, SIDE, 3), np.uint8), np.zeros(0, np.int64), np.zeros(0, bool))
