"""What an extractor is trained on and how: its data, and its objective."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from skufp_pipeline.training.images import Batch, LabelledImages, Sampler, Score, TrainingImages

Sentences = tuple[str, ...]  # what is said of one picture
Measured = tuple[Tensor, dict[str, Tensor]]  # a loss, and its parts by name


@dataclass(frozen=True)
class ExtractorData(TrainingImages):
    """Training images with what is said of each; `held_out` if SKUs stand in for development photos."""

    sentences: Sequence[Sentences] = ()
    development_sentences: Sequence[Sentences] = ()
    held_out: int = 0  # SKUs whose pictures are the development images


@dataclass(frozen=True)
class Objective:
    """How an extractor is trained.

    Attributes:
        learner: every module that is trained; `measure`, `samples` and the score get it, or its average.
        measure: the loss of a batch of the training or the development images.
        samples: pictures to show of a batch, (N, 3, H, W) normalised pixels each: columns of a sheet.
        sampler: draws the batches; None: as the settings say.
        score: of the development images; None: minus the loss.
        quality: the name of the score in the history.
        figures: what else is known of the trained learner, by name.
    """

    learner: nn.Module
    measure: Callable[[nn.Module, Batch, LabelledImages], Measured]
    samples: Callable[[nn.Module, Batch], Sequence[Tensor]] = lambda learner, batch: [batch.pixels]
    sampler: Sampler | None = None
    score: Score | None = None
    quality: str = "development_score"
    figures: Callable[[nn.Module], dict[str, float]] = lambda learner: {}


def classes_of(data: TrainingImages, images: LabelledImages, positives: str) -> NDArray[np.int64]:
    """Returns (N,) the class of each image: its SKU, or its category."""
    return data.categories[images.labels] if positives == "category" else images.labels
