"""Trains any extractor by its family's objective, in the loop that all image towers share."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from skufp_pipeline.datasets.contact_sheet import contact_sheet
from skufp_pipeline.errors import TooLittleError
from skufp_pipeline.extractors.extractor import Extractor, family_of
from skufp_pipeline.extractors.objective import ExtractorData, Objective
from skufp_pipeline.extractors.settings import ExtractorSettings
from skufp_pipeline.training.history import History
from skufp_pipeline.training.images import (
    Batch,
    Score,
    development_batches,
    sample_batch,
    train_images,
)
from skufp_pipeline.training.loop import Log

_SHOWN = 8  # rows of a sheet


@dataclass(frozen=True)
class Trained:
    """What a training leaves beside the weights.

    Attributes:
        quality: the name of the score in the history.
        figures: what else is known, by name.
        sheet: samples of what it was trained on, a group a row.
    """

    history: History
    quality: str
    figures: dict[str, float]
    sheet: Image.Image


def train_extractor(
    extractor: Extractor,
    data: ExtractorData,
    settings: ExtractorSettings,
    seed: int,
    scratch: Path,
    log: Log,
) -> Trained:
    """Trains `extractor` in place and keeps the weights of the best epoch.

    Raises:
        TooLittleError: fewer than two SKUs or images to train on.
    """
    torch.manual_seed(seed)
    objective = family_of(extractor.name).objective(extractor, data, settings)
    learner, part, training = objective.learner, extractor.tower.pretrained_part, settings.training
    score = objective.score or minus_loss(objective, data)
    history = train_images(
        extractor.name, extractor, learner, part, extractor.image_size, data, training,
        lambda batch: objective.measure(learner, batch, data.images), score, seed, scratch, log,
        objective.quality, sampler=objective.sampler,
    )  # fmt: skip
    with torch.inference_mode():
        figures = objective.figures(learner)
        batch = sample_batch(extractor, extractor.image_size, data, training, objective.sampler)
        columns = objective.samples(learner, batch)
    return Trained(history, objective.quality, figures, sheet_of(extractor, columns))


def loss_of(extractor: Extractor, data: ExtractorData, settings: ExtractorSettings) -> float:
    """Returns the mean loss of the development images, with the same random numbers in every call.

    It is nan without them, where they are too few for the loss, and where a part of what is trained is not
    kept with the extractor (`reid`).
    """
    try:
        objective = family_of(extractor.name).objective(extractor, data, settings)
    except TooLittleError:
        return math.nan
    if objective.learner is not extractor.tower or objective.score is not None:
        return math.nan
    given = extractor, extractor.image_size, data, settings.training, objective.sampler
    with torch.inference_mode():
        return -minus_loss(objective, data)(objective.learner.eval(), development_batches(*given))


def minus_loss(objective: Objective, data: ExtractorData) -> Score:
    """Returns the score that is minus the mean loss of the development images, nan without them."""

    def score(learner: nn.Module, batches: Iterable[Batch]) -> float:
        total, count = 0.0, 0
        for batch in batches:
            loss, _ = objective.measure(learner, batch, data.development)
            total, count = total + float(loss) * len(batch.labels), count + len(batch.labels)
        return -total / count if count else math.nan

    return score


def sheet_of(extractor: Extractor, columns: Iterable[Tensor]) -> Image.Image:
    """Draws normalised pictures (N, 3, H, W), one column each; a row has those of one number."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in extractor.mean_and_std)
    drawn = []
    for column in columns:
        pixels = column[:_SHOWN].float().cpu() * std + mean
        drawn.append((pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy())
    return contact_sheet(list(zip(*drawn, strict=True)))
