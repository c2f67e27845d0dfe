"""Restricts training to the embeddings of tokens that occur.

CLIP has 49,408 tokens; a catalogue's prompts use some hundreds. Gradients and moments of the others are
always zero, yet updating them takes longer than the text tower itself.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class OccurringTokens(nn.Module):
    """Replaces the (V, W) token embedding `whole` during training; `restored` writes to `whole`.

    `tokens` (T,) are the sorted unique ids that occur.
    """

    def __init__(self, whole: nn.Embedding, tokens: Tensor) -> None:
        super().__init__()
        self._whole = (whole,)  # in a tuple, so that torch does not register it as a submodule
        self._tokens = tokens.to(whole.weight.device)
        place = torch.full(
            (whole.num_embeddings,), -1, device=whole.weight.device
        )  # -1: the token has no row
        place[self._tokens] = torch.arange(len(tokens), device=place.device)
        self.register_buffer("place", place, persistent=False)
        self.weight = nn.Parameter(whole.weight.detach()[self._tokens].clone())

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns (..., W) embeddings of ids that occur."""
        return F.embedding(self.get_buffer("place")[tokens], self.weight)

    def restored(self) -> nn.Embedding:
        """Copies the trained rows into the whole embedding and returns it."""
        whole = self._whole[0]
        with torch.no_grad():
            whole.weight[self._tokens] = self.weight
        return whole


def occurring_tokens(batches: Iterable[Tensor]) -> Tensor:
    """Returns the (T,) sorted unique ids in all (B, context_length) batches, and always 0, the padding."""
    return torch.cat([torch.zeros(1, dtype=torch.long), *(batch.unique() for batch in batches)]).unique()


def train_occurring(model: Any, tokens: Tensor) -> None:
    """Restricts an open_clip `model` to these tokens; does nothing for text towers of other kinds."""
    if isinstance(getattr(model, "token_embedding", None), nn.Embedding):
        model.token_embedding = OccurringTokens(model.token_embedding, tokens)


def restore_vocabulary(model: Any) -> None:
    """Reverts `train_occurring`, keeping the trained embeddings."""
    if isinstance(getattr(model, "token_embedding", None), OccurringTokens):
        model.token_embedding = model.token_embedding.restored()
