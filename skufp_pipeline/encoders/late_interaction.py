"""Trains the patch head by late interaction: a photo has to find its SKU among look-alikes, patch by patch.

The score is MaxSim (Khattab and Zaharia, 2020, ColBERT) in one direction: each patch of a catalogue picture
looks for its most similar patch of the photo, so that whatever else is in the photo costs nothing; a SKU has
the score of its best picture. The tower stays as it is; a step takes SKUs and their nearest neighbours.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from skufp_pipeline.encoders.patches import PatchHead
from skufp_pipeline.encoders.settings import LookTwiceSettings
from skufp_pipeline.randomness import generator
from skufp_pipeline.training.history import History
from skufp_pipeline.training.loop import Log, Part, Training, set_learning_rate
from skufp_pipeline.training.sampling import rows_by_label
from skufp_pipeline.training.schedule import warm_cosine

Maps = NDArray[np.float16]


@dataclass(frozen=True)
class PatchData:
    """Maps of training SKUs' pictures and photos; photos that judge anything are not among them.

    Attributes:
        photos: (N, P, C) float16.
        photo_skus: (N,) int64 SKU of each, 0 to S - 1.
        views: (M, P, C) float16 of catalogue pictures.
        view_skus: (M,) int64, ascending; every SKU has a picture.
        neighbours: (S, G) int64: each SKU itself, then those nearest to it.
    """

    photos: Maps
    photo_skus: NDArray[np.int64]
    views: Maps
    view_skus: NDArray[np.int64]
    neighbours: NDArray[np.int64]


def nearest_skus(rows: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Returns (S, min(count, S)) SKUs by falling cosine with each of S unit rows, itself first."""
    count = min(count, len(rows))
    found = np.empty((len(rows), count), np.int64)
    for begin in range(0, len(rows), 1024):
        scores = rows[begin : begin + 1024] @ rows.T
        own = np.arange(len(scores))
        scores[own, begin + own] = np.inf
        found[begin : begin + 1024] = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return found


def train_patch_head(
    head: PatchHead, data: PatchData, settings: LookTwiceSettings, seed: int, scratch: Path, log: Log
) -> History:
    """Trains `head` in place; returns one row per step. A killed training goes on from where it was."""
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    parts: dict[str, Part] = {"head": head, "optimizer": optimizer}
    training = Training("look_twice", scratch, parts, log)
    batches = _Batches(data, head.grid.views, settings, seed)
    for step in training.rounds(settings.steps, unit="step", save_every=settings.checkpoint_every):
        rate = settings.learning_rate * warm_cosine(step, settings.steps, settings.warmup_fraction)
        set_learning_rate(optimizer, rate)
        photos, views, present = batches.load(step)
        scores = maxsim_scores(head.patches(photos, head.photo), head.patches(views, head.view), present)
        loss = F.cross_entropy(scores / settings.temperature, torch.arange(len(scores)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        found = float((scores.argmax(dim=1) == torch.arange(len(scores))).float().mean())
        training.history.append(
            {"step": step + 1, "loss": float(loss.detach()), "found": found, "learning_rate": rate}
        )
        training.tell(f"loss {float(loss.detach()):.3f}, {found:.0%} found among look-alikes")
    head.eval()
    return training.history


def maxsim_scores(photos: Tensor, views: Tensor, present: Tensor) -> Tensor:
    """Returns (B, S) MaxSim scores, differentiable.

    Args:
        photos: (B, P, d) unit patches.
        views: (S, V, P, d) unit patches of V pictures of each SKU.
        present: (S, V) bool: which of them there are; each SKU has one at least.
    """
    best = torch.einsum("bpd,svcd->bsvcp", photos, views).amax(dim=-1).mean(dim=-1)
    return best.masked_fill(~present, -torch.inf).amax(dim=-1)


class _Batches:
    """Draws the SKUs of each step: some at random, each with those that are hard to tell from it."""

    def __init__(self, data: PatchData, views: int, settings: LookTwiceSettings, seed: int) -> None:
        self.data, self.size, self.seed = data, settings.batch_size, seed
        count = len(data.neighbours)
        self.views = [rows[:views] for rows in rows_by_label(data.view_skus, count)]
        self.photos = rows_by_label(data.photo_skus, count)

    def load(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns photos (B, P, C), one of each SKU, views (B, V, P, C) and which of these there are."""
        rng = generator(self.seed, "look twice", step)
        skus = self._skus(rng)
        photos = [int(rng.choice(self.photos[sku])) for sku in skus]
        most = max(len(self.views[sku]) for sku in skus)
        rows = np.full((len(skus), most), -1)
        for place, sku in enumerate(skus):
            rows[place, : len(self.views[sku])] = self.views[sku]
        views = self.data.views[np.maximum(rows, 0)]
        return _float(self.data.photos[photos]), _float(views), torch.from_numpy(rows >= 0)

    def _skus(self, rng: np.random.Generator) -> list[int]:
        chosen: dict[int, None] = {}
        for first in rng.permutation(len(self.photos)).tolist():
            chosen |= dict.fromkeys(
                sku for sku in self.data.neighbours[first].tolist() if len(self.photos[sku])
            )
            if len(chosen) >= self.size:
                break
        return list(chosen)[: self.size]


def _float(maps: Maps) -> Tensor:
    return torch.from_numpy(np.asarray(maps, dtype=np.float32))
