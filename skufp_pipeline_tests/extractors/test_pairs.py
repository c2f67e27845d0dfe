"""Pairs: a photo and a shop picture of its SKU, and a negative of another SKU of the category."""

import numpy as np
import torch
from torch import Generator

from skufp_pipeline.extractors.pairs import pair_batches
from skufp_pipeline.training.images import LabelledImages


def images(labels: list[int], street: list[int] | None) -> LabelledImages:
    is_street = None if street is None else np.isin(np.arange(len(labels)), street)
    return LabelledImages(np.zeros((len(labels), 1, 1, 3), np.uint8), np.array(labels), is_street)


def triples(given: LabelledImages, categories: list[int], seed: int = 0) -> list[list[int]]:
    """Anchor, positive and negative of each pair of an epoch."""
    batches = pair_batches(given, np.array(categories), 6, Generator().manual_seed(seed))
    assert all(len(batch) in (3, 6) for batch in batches)
    return torch.cat([batch.view(3, -1).T for batch in batches]).tolist()


def test_a_photo_is_paired_with_a_picture_of_its_sku_and_one_of_a_sku_of_its_category() -> None:
    """SKUs 0, 1 and 2 have rows 0-3, 4-7 and 8-11, the last two of each photos; 2 is a category alone."""
    labels, street = [0] * 4 + [1] * 4 + [2] * 4, [2, 3, 6, 7, 10, 11]
    found = [row for seed in range(20) for row in triples(images(labels, street), [0, 0, 1], seed)]
    for anchor, positive, negative in found:
        assert anchor in street
        assert positive not in street
        assert negative not in street
        assert labels[anchor] == labels[positive]
        assert labels[negative] == {0: 1, 1: 0}.get(labels[anchor], labels[negative])
        assert labels[negative] != labels[anchor]
    negatives_of_the_single = {labels[negative] for anchor, _, negative in found if labels[anchor] == 2}
    assert negatives_of_the_single == {0, 1}


def test_every_sku_has_as_many_pairs_as_another_and_every_photo_one_before_any_has_two() -> None:
    labels, street = [0] * 4 + [1] * 4 + [2] * 4, [2, 3, 6, 7, 10, 11]
    found = triples(images(labels, street), [0, 0, 0])
    assert sorted(anchor for anchor, _, _ in found) == street


def test_without_photos_two_pictures_of_a_sku_are_a_pair() -> None:
    labels = [0, 0, 1, 1]
    for anchor, positive, negative in triples(images(labels, None), [0, 0]):
        assert anchor != positive
        assert labels[anchor] == labels[positive] != labels[negative]


def test_where_every_picture_is_its_own_product_a_picture_is_its_own_pair() -> None:
    found = triples(images([0, 1, 2], []), [0, 0, 0])
    assert sorted(anchor for anchor, _, _ in found) == [0, 1, 2]
    assert all(anchor == positive != negative for anchor, positive, negative in found)


def test_one_sku_alone_has_no_pairs() -> None:
    assert pair_batches(images([1, 1], None), np.array([0, 0]), 6, Generator().manual_seed(0)) == []


def test_the_generator_decides_the_pairs() -> None:
    given = images([0] * 4 + [1] * 4, [2, 3, 6, 7])
    assert triples(given, [0, 0], 1) == triples(given, [0, 0], 1)
    assert triples(given, [0, 0], 1) != triples(given, [0, 0], 2)
