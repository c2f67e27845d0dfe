"""The fine-tuning loss of both towers: cross-entropy over SKUs against one unit prototype per SKU.

App. B of the report; the optional margin is ArcFace's (Deng et al., 2019, https://arxiv.org/abs/1801.07698).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def sku_logits(
    embeddings: Tensor, prototypes: Tensor, scale: float, labels: Tensor | None = None, margin: float = 0.0
) -> Tensor:
    """Scaled cosine logits; with `margin` the true SKU's angle counts as `margin` radians wider.

    Args:
        embeddings: (B, D), any norm.
        prototypes: (S, D), any norm; shared by the image and the text tower.
        labels: (B,) true SKUs, needed where `margin` is not 0.

    Returns:
        (B, S) float32 logits.
    """
    with torch.autocast(embeddings.device.type, enabled=False):  # bfloat16 cosines are too coarse to scale
        cosine = F.normalize(embeddings.float(), dim=-1) @ F.normalize(prototypes.float(), dim=-1).T
    if margin == 0.0 or labels is None:
        return scale * cosine
    true = cosine.gather(1, labels[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
    # Past pi - margin the shifted cosine would rise again: hold it there.
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
    """Mean cross-entropy of `labels` (B,) under `sku_logits`; a scalar."""
    logits = sku_logits(embeddings, prototypes, scale, labels, margin)
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
