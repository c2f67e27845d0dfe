import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from skufp_pipeline.encoders.losses import (
    centroid_triplet,
    sku_cross_entropy,
    sku_logits,
)


def plain_cross_entropy(
    embeddings: NDArray[np.float64],
    prototypes: NDArray[np.float64],
    labels: list[int],
    scale: float,
    margin: float,
    smoothing: float,
) -> float:
    """The loss written out one image and one SKU at a time, in float64."""
    losses = []
    for embedding, label in zip(embeddings, labels, strict=True):
        logits = []
        for sku, prototype in enumerate(prototypes):
            cosine = embedding @ prototype / np.linalg.norm(embedding) / np.linalg.norm(prototype)
            angle = math.acos(max(-1.0, min(1.0, cosine)))
            logits.append(scale * math.cos(min(angle + margin * (sku == label), math.pi)))
        log_total = math.log(sum(math.exp(logit) for logit in logits))
        target = [smoothing / len(logits) + (1 - smoothing) * (sku == label) for sku in range(len(logits))]
        losses.append(-sum(share * (logit - log_total) for share, logit in zip(target, logits, strict=True)))
    return float(np.mean(losses))


def rows(*values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def test_logits_are_scaled_cosines_whatever_the_norms() -> None:
    logits = sku_logits(rows((3, 4), (0, -2)), rows((10, 0), (0, 0.1)), scale=10)
    torch.testing.assert_close(logits, rows((6, 8), (0, -10)))


def test_the_margin_widens_the_angle_of_the_true_sku_alone() -> None:
    embedding, prototypes = rows((1, 0)), rows((math.cos(0.3), math.sin(0.3)), (0, 1))
    logits = sku_logits(embedding, prototypes, 2.0, torch.tensor([0]), margin=0.5)
    torch.testing.assert_close(logits, rows((2 * math.cos(0.8), 0)))


def test_the_shifted_angle_stops_at_pi() -> None:
    """Otherwise the opposite of a prototype would score better the larger the margin."""
    embedding = rows((math.cos(3.0), math.sin(3.0)))
    logits = sku_logits(embedding, rows((1, 0)), 1.0, torch.tensor([0]), margin=1.0)
    assert logits.item() == pytest.approx(-1)


def test_the_margin_needs_labels_and_changes_nothing_without() -> None:
    embeddings, prototypes = torch.eye(2), torch.eye(2)
    assert sku_logits(embeddings, prototypes, 1.0, None, margin=0.5).equal(torch.eye(2))


def test_a_hand_worked_case() -> None:
    """Logits (2, 0) and (0, 2), both right: each loss is ln(1 + e^-2)."""
    loss = sku_cross_entropy(torch.eye(2), 5 * torch.eye(2), torch.tensor([0, 1]), scale=2.0)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)))


def test_a_hand_worked_case_with_margin() -> None:
    """The true logit 2 cos(0 + pi/3) = 1, the other 0."""
    loss = sku_cross_entropy(torch.eye(2)[:1], torch.eye(2), torch.tensor([0]), scale=2.0, margin=math.pi / 3)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)), abs=2e-3)


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5, 1.4])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("scale", [1.0, 32.0])
def test_it_equals_the_loss_written_out(margin: float, smoothing: float, scale: float) -> None:
    rng = np.random.default_rng(7)
    embeddings, prototypes = rng.standard_normal((12, 5)), rng.standard_normal((9, 5))
    labels = rng.integers(0, 9, 12)
    found = sku_cross_entropy(
        torch.from_numpy(embeddings).float(),
        torch.from_numpy(prototypes).float(),
        torch.from_numpy(labels),
        scale=scale,
        margin=margin,
        label_smoothing=smoothing,
    )
    expected = plain_cross_entropy(embeddings, prototypes, labels.tolist(), scale, margin, smoothing)
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("reduced", [False, True], ids=["float32", "bfloat16"])
def test_gradients_are_finite_where_embedding_and_prototype_coincide_or_oppose(
    margin: float, reduced: bool
) -> None:
    """The slope of arccos is infinite at 1 and -1, and bfloat16 rounds 0.999 to 1."""
    direction = torch.tensor([0.6, 0.8, 0.0])
    embeddings = torch.stack([direction, -direction, torch.zeros(3)]).requires_grad_()
    prototypes = torch.stack([3 * direction, torch.tensor([0.0, 0.0, 1.0])]).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=reduced):
        loss = sku_cross_entropy(embeddings, prototypes, torch.tensor([0, 0, 1]), scale=32.0, margin=margin)
    loss.backward()
    assert torch.isfinite(loss)
    for tensor in (embeddings, prototypes):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()


def test_logits_keep_their_precision_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(6, 16, generator=generator)
    prototypes = torch.randn(4, 16, generator=generator)
    exact = sku_logits(embeddings, prototypes, 32.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(sku_logits(embeddings, prototypes, 32.0), exact)


def test_a_step_down_the_gradient_turns_the_embedding_to_its_prototype() -> None:
    embedding = rows((1, 1)).requires_grad_()
    prototypes = rows((1, 0), (0, 1))
    sku_cross_entropy(embedding, prototypes, torch.tensor([0]), scale=4.0, margin=0.2).backward()
    assert embedding.grad is not None
    x, y = embedding.grad[0].tolist()
    assert x < 0 < y


def test_a_hand_worked_centroid_loss() -> None:
    """Each is alone with the other of its SKU: own distances 2, other centroids at 45 degrees."""
    embeddings = rows((1, 0), (0, 1), (-1, 0), (0, -1))
    labels = torch.tensor([0, 0, 1, 1])
    # Own: |(1, 0) - (0, 1)|^2 = 2. Other: |(1, 0) - (-1, -1) / sqrt 2|^2 = 2 + sqrt 2.
    loss = centroid_triplet(embeddings, labels, margin=2.0)
    assert loss.item() == pytest.approx(2 - (2 + math.sqrt(2)) + 2.0, abs=1e-6)
    assert centroid_triplet(embeddings, labels, margin=1.0).item() == 0


def test_the_query_is_left_out_of_its_own_centroid() -> None:
    """With it, its centroid would lie at 0 degrees and not at 60."""
    third = math.pi / 3
    embeddings = rows((1, 0), (math.cos(third), math.sin(third)), (0, -1), (0, -1))
    loss = centroid_triplet(embeddings, torch.tensor([0, 0, 1, 1]), margin=10.0)
    own = [2 - 2 * math.cos(third)] * 2 + [0, 0]
    half = third / 2  # the direction of the first SKU's whole centroid
    cosines = [0, -math.sin(third), -math.sin(half), -math.sin(half)]
    expected = np.mean([near - (2 - 2 * cosine) + 10 for near, cosine in zip(own, cosines, strict=True)])
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_an_image_alone_of_its_sku_is_only_a_centroid_for_the_others() -> None:
    embeddings, labels = rows((1, 0), (1, 0), (0, 1)), torch.tensor([0, 0, 1])
    assert centroid_triplet(embeddings, labels, margin=3.0).item() == pytest.approx(0 - 2 + 3)
    alone = torch.eye(3, requires_grad=True)
    loss = centroid_triplet(alone, torch.arange(3), margin=3.0)
    loss.backward()
    assert loss.item() == 0
    assert alone.grad is not None
    assert alone.grad.isfinite().all()
