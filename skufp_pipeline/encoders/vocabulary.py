"""Trains the embeddings of the tokens that occur, and no others.

CLIP knows 49,408 tokens and a catalogue's prompts use some hundreds of them. Gradients and moments of the
others are zero at every step, and to update them all takes longer than the text tower itself.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class OccurringTokens(nn.Module):
    """Stands in for a token embedding of (V, W) while it is trained.

    Args:
        whole: the embedding, which is left as it is until `restored`.
        tokens: (T,) ids that occur, sorted, each once.
    """

    def __init__(self, whole: nn.Embedding, tokens: Tensor) -> None:
        super().__init__()
        self._whole = (whole,)  # in a tuple, so that it counts neither as a part nor as a parameter
        self._tokens = tokens.to(whole.weight.device)
        place = torch.full(
            (whole.num_embeddings,), -1, device=whole.weight.device
        )  # -1: no row of that number
        place[self._tokens] = torch.arange(len(tokens), device=place.device)
        self.register_buffer("place", place, persistent=False)
        self.weight = nn.Parameter(whole.weight.detach()[self._tokens].clone())

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., W) embeddings of ids that occur."""
        return F.embedding(self.get_buffer("place")[tokens], self.weight)

    def restored(self) -> nn.Embedding:
        """The whole embedding with what these rows have learnt."""
        whole = self._whole[0]
        with torch.no_grad():
            whole.weight[self._tokens] = self.weight
        return whole


def occurring_tokens(batches: Iterable[Tensor]) -> Tensor:
    """(T,) the ids in all of the (B, context_length) batches, sorted."""
    return torch.cat([torch.zeros(1, dtype=torch.long), *(batch.unique() for batch in batches)]).unique()


def train_occurring(model: Any, tokens: Tensor) -> None:
    """Has `model` (open_clip's) look up and train these tokens alone; towers of other kinds keep all."""
    if isinstance(getattr(model, "token_embedding", None), nn.Embedding):
        model.token_embedding = OccurringTokens(model.token_embedding, tokens)


def restore_vocabulary(model: Any) -> None:
    """Undoes `train_occurring`; what was learnt stays."""
    if isinstance(getattr(model, "token_embedding", None), OccurringTokens):
        model.token_embedding = model.token_embedding.restored()
