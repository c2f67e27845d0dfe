"""Samples batches: of any images, of K images for each of P SKUs (P x K), or of one category."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from skufp_pipeline.training.settings import TrainingSettings


def epoch_batches(
    labels: NDArray[np.int64], categories: NDArray[np.int64], settings: TrainingSettings, generator: Generator
) -> list[Tensor]:
    """Returns the batches of one epoch as (B,) rows of `labels`; every epoch has the same number of batches.

    Without `images_per_sku` every image occurs once (with `same_category`, a category's only image is left
    out). Otherwise a batch has K = `images_per_sku` images of each of up to `batch_size / K` SKUs; SKUs with
    more images are drawn more often, and images are repeated where a SKU has fewer than K.

    Args:
        labels: (N,) SKU of each image.
        categories: (S,) category of each SKU.
    """
    of_image = torch.from_numpy(categories[labels]) if settings.same_category else torch.zeros(len(labels))
    if settings.images_per_sku is None:
        return _shuffled(of_image, settings.batch_size, generator)
    return _balanced(
        torch.from_numpy(labels), of_image, settings.batch_size, settings.images_per_sku, generator
    )


def _shuffled(groups: Tensor, batch_size: int, generator: Generator) -> list[Tensor]:
    """Returns every row once, in shuffled batches of one group each; groups of one row are left out.

    No batch holds a single row, which batch normalisation refuses: it joins the batch before.
    """
    order = torch.randperm(len(groups), generator=generator)
    names, sizes = groups.unique(return_counts=True)
    if len(names) <= 1 or sizes.max() == 1:  # groups of one row only are no groups
        *batches, last = order.split(batch_size)
        if len(last) == 1 and batches:
            last = torch.cat([batches.pop(), last])
        return [*batches, last]
    batches = []
    for name in names:
        rows = order[groups[order] == name]
        if len(rows) > 1:  # equal parts avoid a small rest
            batches += rows.tensor_split(min(math.ceil(len(rows) / batch_size), len(rows) // 2))
    return [batches[index] for index in torch.randperm(len(batches), generator=generator)]


def _balanced(
    labels: Tensor, groups: Tensor, batch_size: int, images_per_sku: int, generator: Generator
) -> list[Tensor]:
    """Returns P x K batches; the P SKUs of a batch belong to one group."""
    rows = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
    counts = torch.tensor([len(of_sku) for of_sku in rows], dtype=torch.float64)
    group_of_sku = torch.stack([groups[of_sku[0]] for of_sku in rows])
    group_counts = torch.stack([counts[group_of_sku == name].sum() for name in groups.unique()])
    batches: list[Tensor] = []
    for _ in range(math.ceil(len(labels) / batch_size)):
        name = groups.unique()[torch.multinomial(group_counts, 1, generator=generator)]
        weights = torch.where(group_of_sku == name, counts, 0.0)
        number = min(batch_size // images_per_sku, int((weights > 0).sum()))
        skus = torch.multinomial(weights, number, generator=generator)
        batches.append(torch.cat([_draw(rows[sku], images_per_sku, generator) for sku in skus]))
    return batches


def _draw(rows: Tensor, count: int, generator: Generator) -> Tensor:
    """Draws `count` rows in random order; repeats all of them where there are fewer."""
    order = rows[torch.randperm(len(rows), generator=generator)]
    return order.repeat(math.ceil(count / len(rows)))[:count]


def rows_by_label(labels: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    """Returns the rows with each label, 0 to `count` - 1, ascending.

    >>> [rows.tolist() for rows in rows_by_label(np.array([1, 0, 1]), 3)]
    [[1], [0, 2], []]
    """
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.searchsorted(labels[order], np.arange(1, count))) if count else []
