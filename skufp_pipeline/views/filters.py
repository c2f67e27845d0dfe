"""Which candidates are accepted: near to their source for CLIP, of its colours, sharp, safe (sec. 4.4).

Thresholds are calibrated on real catalogue views of training SKUs: what two views of one SKU have in common
must pass, what views of two SKUs have must not.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.artifacts.kinds import ACCEPTED
from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.encoders.embed import embed_texts
from skufp_pipeline.views.settings import FilterSettings

REASONS = ("nsfw", "clip_cosine", "hsv_distance", "sharpness")  # in the order they are looked at
CURVE_RATES = (0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99)
OTHERS_TOLERATED = 0.01  # a threshold is loosened while no more of other SKUs' views pass it alone

_HUES, _VALUES = 8, 4  # bins
_GREY, _COLOURED = 0.05, 0.15  # chroma below and above which a pixel is grey or has a colour
_CENTRE = 0.6  # standard deviation of the window, in half sides: the garment counts more than the backdrop
_UNSAFE = ("a nude person", "a naked body", "pornography", "an explicit sexual photo")
_SAFE = ("a photo of clothing", "a garment on a plain background", "a dressed person", "a catalog photo")


@dataclass(frozen=True)
class Scores:
    """(N,) each, of N candidates against their sources.

    Attributes:
        clip_cosine: of the project's own embeddings.
        hsv_distance: Hellinger distance of colour histograms, in [0, 1].
        sharpness: log ratio of the variances of the Laplacian, 0 where as sharp as the source.
        nsfw: how much nearer to an unsafe concept than to a safe one; nan where nothing can tell.
    """

    clip_cosine: NDArray[np.float32]
    hsv_distance: NDArray[np.float32]
    sharpness: NDArray[np.float32]
    nsfw: NDArray[np.float32]


@dataclass(frozen=True)
class Thresholds:
    """A candidate passes from `clip_cosine` and up to `hsv_distance`, within the range of sharpness."""

    clip_cosine: float
    hsv_distance: float
    sharpness_low: float
    sharpness_high: float
    nsfw: float


def score(
    embeddings: NDArray[np.float32],
    squares: NDArray[np.uint8],
    source_embeddings: NDArray[np.float32],
    source_squares: NDArray[np.uint8],
    nsfw: NDArray[np.float32] | None = None,
) -> Scores:
    """The scores of N candidates.

    Args:
        embeddings: (N, D) unit rows; `source_embeddings` likewise.
        squares: (N, S, S, 3) uint8; `source_squares` likewise.
        nsfw: (N,) from `nsfw_scores`; None where nothing can tell.
    """
    distance = hellinger(colour_histograms(squares), colour_histograms(source_squares))
    return Scores(
        clip_cosine=(embeddings * source_embeddings).sum(axis=1),
        hsv_distance=distance,
        sharpness=log_sharpness(squares) - log_sharpness(source_squares),
        nsfw=np.full(len(squares), np.nan, np.float32) if nsfw is None else nsfw,
    )


def verdicts(scores: Scores, thresholds: Thresholds) -> list[str]:
    """`accepted`, or the first of `REASONS` that speaks against it."""
    failed = {
        "nsfw": scores.nsfw > thresholds.nsfw,  # nan passes: nothing could tell
        "clip_cosine": ~(scores.clip_cosine >= thresholds.clip_cosine),
        "hsv_distance": ~(scores.hsv_distance <= thresholds.hsv_distance),
        "sharpness": ~(
            (scores.sharpness >= thresholds.sharpness_low) & (scores.sharpness <= thresholds.sharpness_high)
        ),
    }
    rows = range(len(scores.clip_cosine))
    return [next((reason for reason in REASONS if failed[reason][row]), ACCEPTED) for row in rows]


def accepted_share(scores: Scores, thresholds: Thresholds) -> float:
    """Share of candidates that pass; nan of none."""
    found = verdicts(scores, thresholds)
    return found.count(ACCEPTED) / len(found) if found else float("nan")


def calibrate(same: Scores, other: Scores, settings: FilterSettings) -> Thresholds:
    """The strictest thresholds that `pass_rate` of second real views pass together.

    Then each of CLIP and colour is loosened to where `OTHERS_TOLERATED` of other SKUs' views would pass it
    alone, where that is looser: an encoder knows its training SKUs better than new ones.

    Args:
        same: of pairs of views of one training SKU; `other`: of views of two.
    """
    rate = _joint_rate(same, settings)
    return _thresholds(same, other, rate, settings)


def calibration_curve(same: Scores, other: Scores, settings: FilterSettings) -> list[dict[str, float]]:
    """For each of `CURVE_RATES`: thresholds, and the share of either kind of pair that passes them."""
    curve = []
    for rate in CURVE_RATES:
        thresholds = _thresholds(same, other, rate, settings)
        curve.append(
            {
                "quantile": rate,
                **asdict(thresholds),
                "same_accepted": accepted_share(same, thresholds),
                "other_accepted": accepted_share(other, thresholds),
            }
        )
    return curve


def _joint_rate(same: Scores, settings: FilterSettings) -> float:
    """The quantile for every filter at which `pass_rate` passes all of them, by bisection."""
    low, high = settings.pass_rate, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        if accepted_share(same, _of_quantile(same, middle, settings)) < settings.pass_rate:
            low = middle
        else:
            high = middle
    return high


def _of_quantile(same: Scores, rate: float, settings: FilterSettings) -> Thresholds:
    tail = (1 - rate) / 2  # sharpness has two ends
    return Thresholds(
        clip_cosine=float(np.quantile(same.clip_cosine, 1 - rate)),
        hsv_distance=float(np.quantile(same.hsv_distance, rate)),
        sharpness_low=float(np.quantile(same.sharpness, tail)),
        sharpness_high=float(np.quantile(same.sharpness, 1 - tail)),
        nsfw=settings.nsfw_margin,
    )


def _thresholds(same: Scores, other: Scores, rate: float, settings: FilterSettings) -> Thresholds:
    tight = _of_quantile(same, rate, settings)
    return Thresholds(
        clip_cosine=min(tight.clip_cosine, float(np.quantile(other.clip_cosine, 1 - OTHERS_TOLERATED))),
        hsv_distance=max(tight.hsv_distance, float(np.quantile(other.hsv_distance, OTHERS_TOLERATED))),
        sharpness_low=tight.sharpness_low,
        sharpness_high=tight.sharpness_high,
        nsfw=tight.nsfw,
    )


def colour_histograms(squares: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, 8 + 4) in HSV: hues of coloured pixels, values of grey ones; the centre counts more.

    A pixel is shared between neighbouring bins, so that a small change of light moves little.
    """
    side = squares.shape[1]
    window = np.exp(-0.5 * (np.linspace(-1, 1, side, dtype=np.float32) / _CENTRE) ** 2)
    weight = np.outer(window, window).ravel()
    return np.stack([_histogram(square, weight) for square in squares]) if len(squares) else _no_histograms()


def _no_histograms() -> NDArray[np.float32]:
    return np.empty((0, _HUES + _VALUES), np.float32)


def _histogram(square: NDArray[np.uint8], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    hue, _, value = (
        plane.ravel() for plane in cv2.split(cv2.cvtColor(square, cv2.COLOR_RGB2HSV).astype(np.float32))
    )
    coloured = np.clip((chroma(square).ravel() - _GREY) / (_COLOURED - _GREY), 0, 1)
    place = hue / 180 * _HUES  # OpenCV halves degrees
    left = np.floor(place).astype(int)
    share = place - left
    rung = value / 255 * (_VALUES - 1)
    below = np.minimum(rung.astype(int), _VALUES - 2)
    rise = rung - below
    bins = np.concatenate([left % _HUES, (left + 1) % _HUES, _HUES + below, _HUES + below + 1])
    grey = 1 - coloured
    mass = np.concatenate([coloured * (1 - share), coloured * share, grey * (1 - rise), grey * rise])
    counts = np.bincount(bins, mass * np.tile(weight, 4), _HUES + _VALUES)
    return (counts / counts.sum()).astype(np.float32)


def chroma(square: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(S, S) largest minus smallest of R, G and B, in [0, 1]."""
    return (square.max(axis=-1).astype(np.float32) - square.min(axis=-1)) / 255


def hellinger(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) Hellinger distances of the rows of two sets of histograms, in [0, 1]."""
    overlap = np.sqrt(first.astype(np.float64) * second).sum(axis=1)
    return np.sqrt(np.clip(1 - overlap, 0, 1)).astype(np.float32)


def log_sharpness(squares: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N,) log of the variance of the Laplacian of the grey image."""
    variances = [
        cv2.Laplacian(cv2.cvtColor(square, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var() for square in squares
    ]
    return np.log(np.array(variances, dtype=np.float32) + 1)  # a flat image is at 0, not at -inf


def nsfw_scores(
    encoder: Encoder, embeddings: NDArray[np.float32], unsafe: Sequence[bool | None], zero_shot: bool
) -> NDArray[np.float32] | None:
    """(N,) scores above 0 where a candidate is unsafe, from the best that there is.

    Args:
        unsafe: the safety checker's flags; None where the pipeline has none.
        zero_shot: whether the encoder is pretrained and so knows concepts that no catalogue shows.

    Returns:
        inf or -inf by the flags; else how much nearer to an unsafe concept than to a safe one; None where
        neither can tell.
    """
    if any(flag is not None for flag in unsafe):
        return np.where([bool(flag) for flag in unsafe], np.inf, -np.inf).astype(np.float32)
    if not zero_shot:
        return None
    bad, good = (embed_texts(encoder, texts, len(texts)) for texts in (_UNSAFE, _SAFE))
    return ((embeddings @ bad.T).max(axis=1) - (embeddings @ good.T).max(axis=1)).astype(np.float32)
