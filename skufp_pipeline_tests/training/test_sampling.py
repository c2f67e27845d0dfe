"""Batches hold what the settings say, and an epoch of them is as large as the data."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from skufp_pipeline.training.sampling import epoch_batches
from skufp_pipeline.training.settings import TrainingSettings

# SKUs 0-2 of category 1, SKUs 3-4 of category 2; SKU 4 has a single image.
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 4])
CATEGORIES = np.array([1, 1, 1, 2, 2])


def batches(seed: int = 0, **settings: Any) -> list[Tensor]:
    chosen = TrainingSettings(**{"batch_size": 4} | settings)
    return epoch_batches(LABELS, CATEGORIES, chosen, Generator().manual_seed(seed))


def skus(batch: Tensor) -> list[int]:
    return sorted(LABELS[batch.numpy()].tolist())


@pytest.mark.parametrize("same_category", [False, True])
def test_every_image_comes_once_where_images_are_drawn(same_category: bool) -> None:
    found = torch.cat(batches(same_category=same_category))
    assert sorted(found.tolist()) == list(range(len(LABELS)))


def test_no_batch_of_one_category_holds_a_single_image() -> None:
    alone = np.array([1, 1, 1, 1, 2])  # SKU 4 and its one image are a category
    chosen = TrainingSettings(batch_size=4, same_category=True)
    found = epoch_batches(LABELS, alone, chosen, Generator().manual_seed(0))
    assert sorted(len(batch) for batch in found) == [3, 3, 4, 4]
    assert sorted(torch.cat(found).tolist()) == list(range(len(LABELS) - 1))


@pytest.mark.parametrize(
    ("images_of_category", "batch_size", "sizes"),
    [
        ([9], 4, [4, 5]),
        ([9], 2, [2, 2, 2, 3]),
        ([8], 4, [4, 4]),
        ([7], 4, [3, 4]),
        ([5, 3], 2, [2, 3, 3]),
        ([1, 1, 1], 2, [3]),
        ([1], 2, [1]),
    ],
)
def test_no_batch_holds_a_single_image(
    images_of_category: list[int], batch_size: int, sizes: list[int]
) -> None:
    categories = np.arange(len(images_of_category))
    labels = np.repeat(categories, images_of_category)
    chosen = TrainingSettings(batch_size=batch_size, same_category=True)
    found = epoch_batches(labels, categories, chosen, Generator().manual_seed(0))
    assert sorted(map(len, found)) == sizes
    assert sorted(torch.cat(found).tolist()) == list(range(len(labels)))


def test_batches_of_one_category_hold_no_other() -> None:
    for settings in ({}, {"images_per_sku": 2}):
        found = [set(CATEGORIES[LABELS[b.numpy()]]) for b in batches(same_category=True, **settings)]
        assert all(len(categories) == 1 for categories in found)
    assert {category for (category,) in found} == {1, 2}
    mixed = [set(CATEGORIES[LABELS[b.numpy()]]) for b in batches()]
    assert any(len(categories) == 2 for categories in mixed)


def test_categories_come_in_any_order() -> None:
    epochs = [batches(seed, same_category=True) for seed in range(8)]
    orders = {tuple(CATEGORIES[LABELS[[batch[0] for batch in epoch]]]) for epoch in epochs}
    assert len(orders) > 1


def test_a_p_x_k_batch_holds_k_images_of_each_of_p_skus() -> None:
    for batch in batches(batch_size=6, images_per_sku=2):
        found, counts = np.unique(skus(batch), return_counts=True)
        assert len(found) == 3
        assert counts.tolist() == [2, 2, 2]


def test_images_are_repeated_only_where_a_sku_has_too_few() -> None:
    repeated = set()
    for seed in range(20):
        for batch in batches(seed, batch_size=6, images_per_sku=3):
            for sku in set(skus(batch)):
                rows = [row for row in batch.tolist() if LABELS[row] == sku]
                assert len(rows) == 3
                if len(set(rows)) < 3:
                    assert len(set(rows)) == (sku == LABELS).sum()
                    repeated.add(sku)
    assert repeated == {2, 4}


def test_a_sku_of_more_images_is_drawn_oftener() -> None:
    drawn = np.bincount(
        [sku for seed in range(100) for b in batches(seed, images_per_sku=2) for sku in set(skus(b))]
    )
    assert drawn[3] > 1.5 * drawn[2] > 1.5 * drawn[4] > 0


def test_a_category_of_few_skus_makes_smaller_batches() -> None:
    sizes = {len(b) for s in range(9) for b in batches(s, batch_size=6, images_per_sku=2, same_category=True)}
    assert sizes == {6, 4}


@pytest.mark.parametrize(
    "settings",
    [{}, {"same_category": True}, {"images_per_sku": 2}, {"images_per_sku": 2, "same_category": True}],
)
def test_epochs_have_as_many_batches_and_the_same_seed_the_same_ones(settings: dict[str, Any]) -> None:
    first, again, other = (batches(seed, **settings) for seed in (1, 1, 2))
    assert len(first) == len(other)
    assert all(one.equal(two) for one, two in zip(first, again, strict=True))
    assert not all(one.equal(two) for one, two in zip(first, other, strict=True))
