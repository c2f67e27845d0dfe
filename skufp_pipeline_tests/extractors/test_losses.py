"""Losses of the extractors: each equals what is worked out by hand, and ignores what it should ignore."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from skufp_pipeline.extractors.losses import (
    batch_hard_triplet,
    cosine_pairs,
    masked_error,
    symmetric_contrastive,
)


def rows(*values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def test_a_hand_worked_batch_hard_triplet() -> None:
    """On a line: 0 and 3 are one SKU, 4 and 10 another."""
    features = rows((0, 0), (3, 0), (4, 0), (10, 0))
    # (3 - 4), (3 - 1), (6 - 1), (6 - 7), each + 0.5 and not below 0
    expected = (0 + 2.5 + 5.5 + 0) / 4
    loss = batch_hard_triplet(features, torch.tensor([0, 0, 1, 1]), margin=0.5)
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_batch_hard_equals_the_loss_written_out() -> None:
    rng = np.random.default_rng(3)
    features, labels = rng.standard_normal((15, 4)), rng.integers(0, 4, 15)
    losses = []
    for row, label in zip(features, labels, strict=True):
        distances = np.linalg.norm(features - row, axis=1)
        losses.append(max(0.0, distances[labels == label].max() - distances[labels != label].min() + 0.3))
    found = batch_hard_triplet(torch.from_numpy(features).float(), torch.from_numpy(labels), 0.3)
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_batch_hard_gradients_are_finite_where_images_coincide_or_no_other_sku_is_there() -> None:
    features = torch.ones(4, 3, requires_grad=True)
    batch_hard_triplet(features, torch.tensor([0, 0, 1, 1]), 0.3).backward()
    batch_hard_triplet(features, torch.zeros(4, dtype=torch.long), 0.3).backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_hand_worked_cosine_pairs() -> None:
    """Cosines: positives 1 and 0; negatives 0.8 and -1, of which those above 0.5 cost the rest."""
    anchors, positives = rows((2, 0), (0, 3)), rows((5, 0), (1, 0))
    negatives = rows((4, 3), (0, -7))
    expected = (0 + 1 + 0.3 + 0) / 4
    assert cosine_pairs(anchors, positives, negatives, 0.5).item() == pytest.approx(expected, abs=1e-6)


def test_cosine_pairs_are_torchs_cosine_embedding_loss() -> None:
    anchors, positives, negatives = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([1.0] * 6 + [-1.0] * 6)
    pairs = torch.cat([anchors, anchors]), torch.cat([positives, negatives])
    expected = F.cosine_embedding_loss(*pairs, target, margin=0.2)
    torch.testing.assert_close(cosine_pairs(anchors, positives, negatives, 0.2), expected)


def test_a_hand_worked_contrastive_loss() -> None:
    """Cosines [[1, 0], [0.6, 0.8]] at temperature 0.5, each row and each column one softmax."""
    images, texts = rows((1, 0), (0.6, 0.8)), rows((3, 0), (0, 2))

    def surprise(true: float, other: float) -> float:
        return math.log(1 + math.exp((other - true) / 0.5))

    of_images = (surprise(1, 0) + surprise(0.8, 0.6)) / 2
    of_texts = (surprise(1, 0.6) + surprise(0.8, 0)) / 2
    found = symmetric_contrastive(images, texts, torch.eye(2, dtype=torch.bool), 0.5)
    assert found.item() == pytest.approx((of_images + of_texts) / 2, abs=1e-6)


def test_texts_that_are_alike_share_an_images_probability() -> None:
    """Of three texts the first two are one sentence: as well found where both have a half."""
    images = rows((1, 0), (1, 0), (0, 1))
    alike = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    cold = symmetric_contrastive(images, images, alike, 0.01)
    assert cold.item() == pytest.approx(2 / 3 * math.log(2), abs=1e-4)
    apart = symmetric_contrastive(images, images, torch.eye(3, dtype=torch.bool), 0.01)
    assert apart.item() == pytest.approx(cold.item(), abs=1e-4)
    pulled = images.clone().requires_grad_()
    symmetric_contrastive(pulled, images, alike, 1.0).backward()
    assert pulled.grad is not None
    torch.testing.assert_close(pulled.grad[0], pulled.grad[1])


def test_the_masked_error_is_the_mean_over_masked_patches_alone() -> None:
    """Two pictures of two patches of two pixels; errors 1 and 3 in one masked patch, 5 and 5 in the other."""
    patches = torch.zeros(2, 2, 2)
    predicted = torch.tensor([[[1.0, -3.0], [9.0, 9.0]], [[7.0, 7.0], [5.0, 5.0]]])
    is_masked = torch.tensor([[True, False], [False, True]])
    assert masked_error(predicted, patches, is_masked).item() == pytest.approx((2 + 5) / 2)
    unmasked, masked = patches.clone(), patches.clone()
    unmasked[0, 1], masked[0, 0] = 100.0, 100.0
    assert masked_error(predicted, unmasked, is_masked).equal(masked_error(predicted, patches, is_masked))
    assert not masked_error(predicted, masked, is_masked).equal(masked_error(predicted, patches, is_masked))
