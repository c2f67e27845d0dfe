"""Training on pairs of a customer's photo and a shop picture, as Street2Shop's systems are.

A pair has one negative: a shop picture of another SKU of its category. Where a SKU has no photos, two of its
pictures make a pair, or one picture augmented twice.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from skufp_pipeline.extractors.extractor import Extractor
from skufp_pipeline.extractors.losses import cosine_pairs
from skufp_pipeline.extractors.objective import ExtractorData, Measured, Objective
from skufp_pipeline.extractors.settings import PairTrainingSettings
from skufp_pipeline.training.images import Batch, LabelledImages
from skufp_pipeline.training.sampling import rows_by_label


def pair_objective(extractor: Extractor, data: ExtractorData, settings: PairTrainingSettings) -> Objective:
    """Returns the objective of the cosine embedding loss over pairs."""

    def measure(learner: nn.Module, batch: Batch, images: LabelledImages) -> Measured:
        trained: Any = learner
        anchors, positives, negatives = trained.embed(batch.pixels).tensor_split(3)
        loss = cosine_pairs(anchors, positives, negatives, settings.margin)
        return loss, {"pair_loss": loss}

    def sampler(images: LabelledImages, generator: Generator) -> list[Tensor]:
        return pair_batches(images, data.categories, settings.batch_size, generator)

    def samples(learner: nn.Module, batch: Batch) -> list[Tensor]:
        return list(batch.pixels.tensor_split(3))

    return Objective(extractor.tower, measure, samples, sampler)


def pair_batches(
    images: LabelledImages, categories: NDArray[np.int64], batch_size: int, generator: Generator
) -> list[Tensor]:
    """Returns the batches of one epoch as rows of `images`: anchors, then as many positives and negatives.

    There are as many pairs as photos, and pictures of SKUs without photos. The SKUs take turns, so that each
    occurs equally often. Of fewer than two SKUs there are no pairs.

    Args:
        categories: category of each SKU.
        batch_size: images in a batch at most.
    """
    rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    rows_of = rows_by_label(images.labels, len(categories))
    is_street = np.zeros(len(images.labels), bool) if images.is_street is None else images.is_street
    anchors, shop = _anchors_and_shop(rows_of, is_street)
    skus = np.array([sku for sku, rows in enumerate(rows_of) if len(rows)])
    if len(skus) < 2:
        return []
    rivals = {category: skus[categories[skus] == category] for category in set(categories[skus])}
    count = sum(len(anchors[sku]) for sku in skus)
    turns = np.concatenate([rng.permutation(skus) for _ in range(-(-count // len(skus)))])[:count]
    shuffled, taken = {sku: rng.permutation(anchors[sku]) for sku in skus}, dict.fromkeys(skus.tolist(), 0)
    triples = np.empty((count, 3), np.int64)
    for number, sku in enumerate(turns.tolist()):
        anchor = shuffled[sku][taken[sku] % len(shuffled[sku])]
        taken[sku] += 1
        others = shop[sku][shop[sku] != anchor]
        of_category = rivals[categories[sku]]
        rival = _another(of_category if len(of_category) > 1 else skus, sku, rng)
        positive = rng.choice(others) if len(others) else anchor
        triples[number] = anchor, positive, rng.choice(shop[rival])
    return [part.T.flatten() for part in torch.from_numpy(triples).split(batch_size // 3)]


def _anchors_and_shop(
    rows_of: list[NDArray[np.int64]], is_street: NDArray[np.bool_]
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Returns each SKU's photos and each SKU's shop pictures; all its rows where it has none of a kind."""
    anchors = [rows[is_street[rows]] if is_street[rows].any() else rows for rows in rows_of]
    shop = [rows if is_street[rows].all() else rows[~is_street[rows]] for rows in rows_of]
    return anchors, shop


def _another(skus: NDArray[np.int64], sku: int, rng: np.random.Generator) -> int:
    """Draws one of the sorted `skus` (two or more) but `sku`."""
    drawn = int(rng.integers(len(skus) - 1))
    return int(skus[drawn + (drawn >= int(np.searchsorted(skus, sku)))])
