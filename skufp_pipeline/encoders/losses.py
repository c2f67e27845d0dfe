"""Losses of the image encoders over SKU labels (App. B of the report).

CLIP: cross-entropy against one unit prototype per SKU, optionally with an ArcFace margin (Deng et al., 2019,
https://arxiv.org/abs/1801.07698) and the CTL centroid loss (Wieczorek et al., 2021, https://arxiv.org/abs/2104.13643).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def sku_logits(
    embeddings: Tensor, prototypes: Tensor, scale: float, labels: Tensor | None = None, margin: float = 0.0
) -> Tensor:
    """Returns (B, S) float32 scaled cosine logits; `margin` radians are added to the true SKU's angle.

    `embeddings` (B, D) and `prototypes` (S, D) have any norm; the towers share the prototypes. Without
    `labels` (B,), the true SKUs, no margin is applied.
    """
    with torch.autocast(embeddings.device.type, enabled=False):  # bfloat16 cosines are too coarse to scale
        cosine = F.normalize(embeddings.float(), dim=-1) @ F.normalize(prototypes.float(), dim=-1).T
    if margin == 0.0 or labels is None:
        return scale * cosine
    true = cosine.gather(1, labels[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
    # Beyond pi the cosine would increase again, so the shifted angle is clamped to pi.
    shifted = torch.cos((torch.acos(true) + margin).clamp(max=torch.pi))
    return scale * cosine.scatter(1, labels[:, None], shifted)


def sku_cross_entropy(
    embeddings: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    *,
    scale: float,
    margin: float = 0.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Returns the mean cross-entropy of `labels` (B,) under `sku_logits`, a scalar."""
    logits = sku_logits(embeddings, prototypes, scale, labels, margin)
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def centroid_triplet(embeddings: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Compares each image with its SKU's centroid, without the image, and the nearest other centroid.

    Distances are squared Euclidean, between unit rows; centroids are normalised like a gallery's means.
    `embeddings` (B, D) have any norm; `labels` (B,) are SKUs. A SKU's only image counts in its centroid only.

    Returns:
        Mean of max(0, own - nearest other + margin), a scalar; 0 if every SKU has one image, or only one SKU.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        rows = F.normalize(embeddings.float(), dim=-1)
        member = F.one_hot(labels.unique(return_inverse=True)[1]).to(rows.dtype)  # (B, C)
        sums, counts = member.T @ rows, member.sum(dim=0)
        own_cosine = (rows * F.normalize(member @ sums - rows, dim=-1)).sum(dim=-1)
        cosines = rows @ F.normalize(sums, dim=-1).T
        other_cosine = cosines.masked_fill(member.bool(), -torch.inf).amax(dim=1)
        paired = (member @ counts > 1) & other_cosine.isfinite()
        # |a - b|^2 = 2 - 2 cos for unit rows
        gaps = F.relu(2 * (other_cosine - own_cosine) + margin)
    return torch.where(paired, gaps, 0.0).sum() / paired.sum().clamp_min(1)
