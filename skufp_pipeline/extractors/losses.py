"""Losses of the extractors.

Triplets: Hermans et al., 2017, https://arxiv.org/abs/1703.07737. Pairs: the cosine embedding loss. Pictures
and sentences: CLIP's (Radford et al., 2021, https://arxiv.org/abs/2103.00020), with as many positives as a
batch has (UniCL, Yang et al., 2022, https://arxiv.org/abs/2204.03610). Masked patches: SimMIM (Xie et al.,
2021, https://arxiv.org/abs/2111.09886).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def batch_hard_triplet(features: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Compares each image with the farthest of its own SKU and the nearest of another SKU.

    Distances are Euclidean, between `features` (B, D) without normalisation; `labels` (B,) are SKUs.

    Returns:
        Mean of max(0, farthest own - nearest other + margin), a scalar; 0 for a batch of one SKU.
    """
    with torch.autocast(features.device.type, enabled=False):
        rows = features.float()
        squares = rows.square().sum(dim=1)
        distances = (squares[:, None] + squares[None, :] - 2 * rows @ rows.T).clamp_min(1e-12).sqrt()
    same = labels[:, None] == labels[None, :]
    own = distances.masked_fill(~same, -torch.inf).amax(dim=1)
    other = distances.masked_fill(same, torch.inf).amin(dim=1)
    return F.relu(own - other + margin).mean()


def cosine_pairs(anchors: Tensor, positives: Tensor, negatives: Tensor, margin: float) -> Tensor:
    """Returns the mean of 1 - cos(anchor, positive) and of max(0, cos(anchor, negative) - margin), a scalar.

    The three are (B, D), of any norm.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        near = 1 - F.cosine_similarity(anchors.float(), positives.float())
        far = F.relu(F.cosine_similarity(anchors.float(), negatives.float()) - margin)
    return torch.cat([near, far]).mean()


def symmetric_contrastive(images: Tensor, texts: Tensor, alike: Tensor, temperature: float) -> Tensor:
    """Returns the mean cross-entropy of finding each image's texts, and each text's images, a scalar.

    Args:
        images, texts: (B, D), of any norm; row i of both belongs together.
        alike: (B, B) bool, true where image i and text j belong together, as the diagonal does; a row's
            probability is shared evenly. With the diagonal alone it is CLIP's loss.
    """
    with torch.autocast(images.device.type, enabled=False):
        logits = F.normalize(images.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T / temperature
    wanted = alike.float()
    of_images = F.cross_entropy(logits, wanted / wanted.sum(dim=1, keepdim=True))
    of_texts = F.cross_entropy(logits.T, wanted.T / wanted.T.sum(dim=1, keepdim=True))
    return (of_images + of_texts) / 2


def masked_error(predicted: Tensor, patches: Tensor, is_masked: Tensor) -> Tensor:
    """Returns the mean absolute error of the masked patches alone, a scalar.

    `predicted` and `patches` are (B, L, P); `is_masked` (B, L) has a masked patch at least.
    """
    errors = (predicted.float() - patches.float()).abs().mean(dim=-1)
    return (errors * is_masked).sum() / is_masked.sum()
