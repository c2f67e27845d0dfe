"""The losses of the fingerprint model: App. C of the report, eqs 10-13, as functions of tensors."""

import torch.nn.functional as F
from torch import Tensor


def embedding_regression(fingerprints: Tensor, teachers: Tensor) -> Tensor:
    """Mean squared L2 distance of (S, D) unit rows to their best-shot teachers (S, D), eqs 10 and 11."""
    return (fingerprints - teachers).square().sum(dim=-1).mean()


def rank_distillation(queries: Tensor, teachers: Tensor, fingerprints: Tensor, temperature: float) -> Tensor:
    """KL(softmax(q.t / tau) || softmax(q.f / tau)) over SKUs, mean over queries, eq. 12.

    Queries are (Q, D) unit rows, teachers and fingerprints (S, D).
    """
    target = F.log_softmax(queries @ teachers.T / temperature, dim=-1)
    student = F.log_softmax(queries @ fingerprints.T / temperature, dim=-1)
    return F.kl_div(student, target, log_target=True, reduction="batchmean")


def classification(queries: Tensor, fingerprints: Tensor, truth: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each (Q, D) query's SKU, row `truth` (Q,), among (S, D) unit fingerprints, eq. 13."""
    return F.cross_entropy(queries @ fingerprints.T / temperature, truth)
