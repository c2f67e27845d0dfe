"""The losses of the fingerprint model: App. C of the report, eqs 10-13, as functions of tensors."""

import torch.nn.functional as F
from torch import Tensor


def embedding_regression(fingerprints: Tensor, teachers: Tensor) -> Tensor:
    """Mean squared L2 distance to the best-shot teachers, eqs 10 and 11.

    Args:
        fingerprints: (S, D) unit rows.
        teachers: (S, D) unit rows.
    """
    return (fingerprints - teachers).square().sum(dim=-1).mean()


def rank_distillation(queries: Tensor, teachers: Tensor, fingerprints: Tensor, temperature: float) -> Tensor:
    """KL(softmax(q.t / tau) || softmax(q.f / tau)) over SKUs, mean over queries, eq. 12.

    Args:
        queries: (Q, D) unit rows.
        teachers: (S, D) unit rows.
        fingerprints: (S, D) unit rows.
    """
    target = F.log_softmax(queries @ teachers.T / temperature, dim=-1)
    student = F.log_softmax(queries @ fingerprints.T / temperature, dim=-1)
    return F.kl_div(student, target, log_target=True, reduction="batchmean")


def classification(queries: Tensor, fingerprints: Tensor, truth: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each query's own SKU among all fingerprints, eq. 13.

    Args:
        queries: (Q, D) unit rows.
        fingerprints: (S, D) unit rows.
        truth: (Q,) row of the query's SKU in `fingerprints`.
    """
    return F.cross_entropy(queries @ fingerprints.T / temperature, truth)
