"""Weights between the frozen tower and the adapted one (WiSE-FT, Wortsman et al. 2022), without a real photo.

    weights(alpha) = frozen + alpha (adapted - frozen)

The adapted tower knows how a camera changes the catalogue's pictures, the frozen one what lies beyond them:
other pieces of the same fruit, the back of a coat. No synthetic photo shows that, so that Recall@1 of such
photos alone would always go all the way. The choice is the smallest alpha that keeps `kept_gain` of the best
alpha's gain, on photos that are worse than those of the training (`harder`): what the tower knew is not given
up for the last few synthetic photos. The table of all alphas also shows how many of each picture's nearest
neighbours by the frozen tower survive.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from skufp_pipeline.camera.settings import CameraSettings
from skufp_pipeline.encoders.adapt import AdaptationData, SyntheticCamera, adapt, to_input
from skufp_pipeline.encoders.clip import Encoder, unit_rows
from skufp_pipeline.encoders.settings import AdaptationSettings
from skufp_pipeline.measures.metrics import per_query_metrics
from skufp_pipeline.measures.ranks import ranks_of
from skufp_pipeline.randomness import generator
from skufp_pipeline.training.history import History
from skufp_pipeline.training.loop import Log
from skufp_pipeline.training.pixels import to_square

NEIGHBOURS = 10
_BATCH = 64

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Adapted:
    """What `adapt_and_go_back` did: the steps, how each alpha was judged, and the alpha that was taken."""

    history: History
    judged: list["Judgement"]
    alpha: float

    def table(self) -> pl.DataFrame:
        """Returns the judgements, one row each, with the fields as columns."""
        schema = {field.name: pl.Float64() for field in fields(Judgement)}
        return pl.DataFrame([asdict(one) for one in self.judged], schema=schema)

    def left_out(self, photos: int) -> tuple[str | None, ...]:
        """Says what was not done; `photos` is the number of customers' photos."""
        if not self.history:
            return ("not adapted: it needs pictures of two SKUs",)
        return (None if photos else "no training photos: adapted on synthetic photos alone",)


@dataclass(frozen=True)
class Judgement:
    """One alpha, judged without a real photo.

    Attributes:
        recall, mrr: of synthetic photos as the training had them, but other draws.
        hard_recall, hard_mrr: of photos that are worse in every way.
        kept_neighbours: share of each picture's 10 nearest by the frozen tower that are still nearest.
    """

    alpha: float
    recall: float
    mrr: float
    hard_recall: float
    hard_mrr: float
    kept_neighbours: float


def adapt_and_go_back(
    encoder: Encoder,
    data: AdaptationData,
    settings: AdaptationSettings,
    camera: CameraSettings,
    seed: int,
    scratch: Path,
    log: Log,
) -> Adapted:
    """Adapts the image tower of `encoder` in place, and takes back what is not worth its loss.

    With fewer than two SKUs nothing is adapted, and alpha is 0.
    """
    frozen = weights_of(encoder)
    history = adapt(encoder, data, settings, camera, seed, scratch, log)
    if not history:
        return Adapted([], [], 0.0)
    adapted = weights_of(encoder)
    judged = judge_alphas(encoder, frozen, adapted, data, settings, camera, seed)
    alpha = choose_alpha(judged, settings.kept_gain) if settings.alpha is None else settings.alpha
    interpolate(encoder, frozen, adapted, alpha)
    log(f"adaptation: {alpha:g} of the way from the frozen tower to the adapted one")
    return Adapted(history, judged, alpha)


def weights_of(encoder: Encoder) -> dict[str, Tensor]:
    """Returns a copy of the image tower's weights."""
    return {name: value.detach().clone() for name, value in encoder.model.visual.state_dict().items()}


def interpolate(encoder: Encoder, frozen: Weights, adapted: Weights, alpha: float) -> None:
    """Sets the image tower's weights to `frozen + alpha (adapted - frozen)`."""
    mixed = {
        name: torch.lerp(value, adapted[name], alpha) if value.is_floating_point() else value
        for name, value in frozen.items()
    }
    encoder.model.visual.load_state_dict(mixed)


def harder(camera: CameraSettings) -> CameraSettings:
    """Returns a camera with worse light, more cover, more pieces and more extreme sizes than `camera`."""
    low, high = camera.size
    return camera.model_copy(
        update={
            "severity": min(1.0, camera.severity + 0.35),
            "size": (low * 0.7, high * 1.3),
            "turn": camera.turn * 1.5,
            "tilt": min(0.8, camera.tilt * 1.5),
            "occluder": 0.8,
            "pieces": 0.5,
            "glare": 0.5,
        }
    )


def judge_alphas(
    encoder: Encoder,
    frozen: Weights,
    adapted: Weights,
    data: AdaptationData,
    settings: AdaptationSettings,
    camera: CameraSettings,
    seed: int,
) -> list[Judgement]:
    """Judges every alpha of the settings at the encoder's own resolution; leaves the encoder frozen.

    The photos are other draws than those of the training, of `judged_skus` SKUs, searched among all pictures
    of these SKUs; a SKU scores by its best picture.
    """
    rows = _judged_rows(data, settings.judged_skus, seed)
    owner = np.unique(data.skus[rows], return_inverse=True)[1]
    side = encoder.image_size
    first = rows[np.unique(owner, return_index=True)[1]]
    names = [(row, number) for number in range(settings.judged_photos) for row in first.tolist()]
    truth = np.tile(np.arange(len(first)), settings.judged_photos)
    pictures = [to_square(np.asarray(data.pictures[row]), side) for row in rows.tolist()]
    shots = []
    for kind, judged in (("judged", camera), ("judged harder", harder(camera))):
        taken = SyntheticCamera(data, judged, side, seed)
        shots.append([taken.photo(row, kind, row, number).pixels for row, number in names])
    interpolate(encoder, frozen, adapted, 0.0)
    anchors = _embed(encoder, pictures)
    found, neighbours = [], _nearest(anchors)
    for alpha in sorted({0.0, *settings.alphas}):
        interpolate(encoder, frozen, adapted, alpha)
        own = _embed(encoder, pictures) if alpha else anchors
        gallery = anchors + own  # as in `embed.with_anchors`
        gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
        nearest = _nearest(gallery)
        scores = [_scores(_embed(encoder, photos), gallery, truth, owner) for photos in shots]
        kept = (nearest[:, :, None] == neighbours[:, None, :]).any(axis=2).mean()
        found.append(Judgement(alpha, *scores[0], *scores[1], float(kept)))
    interpolate(encoder, frozen, adapted, 0.0)
    return found


def choose_alpha(found: Sequence[Judgement], kept_gain: float) -> float:
    """Returns the smallest alpha that keeps `kept_gain` of the best alpha's gain in MRR of hard photos.

    >>> found = [Judgement(a, 0, 0, 0, mrr, 0) for a, mrr in ((0.0, 0.2), (0.5, 0.55), (1.0, 0.6))]
    >>> choose_alpha(found, 0.8), choose_alpha(found, 0.9), choose_alpha(found[:1], 0.9)
    (0.5, 1.0, 0.0)
    """
    frozen = found[0].hard_mrr
    wanted = frozen + kept_gain * (max(one.hard_mrr for one in found) - frozen)
    return next(one.alpha for one in found if one.hard_mrr >= wanted - 1e-12)


def _judged_rows(data: AdaptationData, skus: int, seed: int) -> NDArray[np.int64]:
    """Returns the rows of all pictures of at most `skus` SKUs."""
    chosen = np.sort(generator(seed, "judged").permutation(data.num_skus)[:skus])
    return np.flatnonzero(np.isin(data.skus, chosen))


@torch.inference_mode()
def _embed(encoder: Encoder, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    batches = (images[start : start + _BATCH] for start in range(0, len(images), _BATCH))
    return np.concatenate(
        [unit_rows(encoder.model.encode_image(to_input(encoder, batch))) for batch in batches]
    )


def _scores(
    photos: NDArray[np.float32],
    gallery: NDArray[np.float32],
    truth: NDArray[np.int64],
    owner: NDArray[np.int64],
) -> tuple[float, float]:
    """Returns Recall@1 and MRR."""
    metrics = per_query_metrics(ranks_of(photos, gallery, truth, owner=owner))
    return float(metrics["recall@1"].mean()), float(metrics["mrr"].mean())


def _nearest(gallery: NDArray[np.float32]) -> NDArray[np.int64]:
    """Returns the (N, K) nearest other rows of each row."""
    scores = gallery @ gallery.T
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(gallery) - 1)]
