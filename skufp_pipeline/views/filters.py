"""Accepts safe candidates that match their source in CLIP embedding, colours and sharpness (sec. 4.4).

Thresholds are calibrated on real catalogue views of training SKUs: pairs of views of one SKU should pass,
pairs of views of two SKUs should not.
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

REASONS = ("nsfw", "clip_cosine", "hsv_distance", "sharpness")  # in the order of the checks
CURVE_RATES = (0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99)
OTHERS_TOLERATED = 0.01  # share of other SKUs' views that a loosened threshold may accept alone

_HUES, _VALUES = 8, 4  # bins
_GREY, _COLOURED = 0.05, 0.15  # a pixel is grey below the first chroma, coloured above the second
_CENTRE = 0.6  # standard deviation of the window in half sides; it weights the garment over the background
_UNSAFE = ("a nude person", "a naked body", "pornography", "an explicit sexual photo")
_SAFE = ("a photo of clothing", "a garment on a plain background", "a dressed person", "a catalog photo")


@dataclass(frozen=True)
class Scores:
    """Scores of N candidates against their sources, (N,) each."""

    clip_cosine: NDArray[np.float32]  # of the project's own embeddings
    hsv_distance: NDArray[np.float32]  # Hellinger distance of colour histograms, in [0, 1]
    sharpness: NDArray[np.float32]  # log ratio of the Laplacian variances; 0 is as sharp as the source
    nsfw: NDArray[np.float32]  # from `nsfw_scores`; nan where unknown


@dataclass(frozen=True)
class Thresholds:
    """Limits of accepted scores: least `clip_cosine`, largest `hsv_distance` and `nsfw`, sharpness range."""

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
    """Scores N candidates against their sources.

    Embeddings are (N, D) unit rows, squares (N, S, S, 3) uint8; `nsfw` (N,) is from `nsfw_scores`.
    """
    distance = hellinger(colour_histograms(squares), colour_histograms(source_squares))
    return Scores(
        clip_cosine=(embeddings * source_embeddings).sum(axis=1),
        hsv_distance=distance,
        sharpness=log_sharpness(squares) - log_sharpness(source_squares),
        nsfw=np.full(len(squares), np.nan, np.float32) if nsfw is None else nsfw,
    )


def verdicts(scores: Scores, thresholds: Thresholds) -> list[str]:
    """Returns for each candidate `accepted`, or the first of `REASONS` that rejects it."""
    failed = {
        "nsfw": scores.nsfw > thresholds.nsfw,  # nan (unknown) passes
        "clip_cosine": ~(scores.clip_cosine >= thresholds.clip_cosine),
        "hsv_distance": ~(scores.hsv_distance <= thresholds.hsv_distance),
        "sharpness": ~(
            (scores.sharpness >= thresholds.sharpness_low) & (scores.sharpness <= thresholds.sharpness_high)
        ),
    }
    rows = range(len(scores.clip_cosine))
    return [next((reason for reason in REASONS if failed[reason][row]), ACCEPTED) for row in rows]


def accepted_share(scores: Scores, thresholds: Thresholds) -> float:
    """Returns the share of accepted candidates; nan if there are none."""
    found = verdicts(scores, thresholds)
    return found.count(ACCEPTED) / len(found) if found else float("nan")


def calibrate(same: Scores, other: Scores, settings: FilterSettings) -> Thresholds:
    """Returns the strictest thresholds at which `pass_rate` of second real views are accepted.

    The CLIP and colour thresholds are then loosened to where `OTHERS_TOLERATED` of other SKUs' views pass
    each alone, if that is looser, because an encoder performs better on its training SKUs than on new ones.
    `same` are scores of pairs of views of one training SKU, `other` of two.
    """
    rate = _joint_rate(same, settings)
    return _thresholds(same, other, rate, settings)


def calibration_curve(same: Scores, other: Scores, settings: FilterSettings) -> list[dict[str, float]]:
    """Returns thresholds, and the accepted share of either kind of pair, for each of `CURVE_RATES`."""
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
    """Finds by bisection the quantile per filter at which `pass_rate` of the pairs pass all filters."""
    low, high = settings.pass_rate, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        if accepted_share(same, _quantile_thresholds(same, middle, settings)) < settings.pass_rate:
            low = middle
        else:
            high = middle
    return high


def _quantile_thresholds(same: Scores, rate: float, settings: FilterSettings) -> Thresholds:
    tail = (1 - rate) / 2  # sharpness has a lower and an upper limit
    return Thresholds(
        clip_cosine=float(np.quantile(same.clip_cosine, 1 - rate)),
        hsv_distance=float(np.quantile(same.hsv_distance, rate)),
        sharpness_low=float(np.quantile(same.sharpness, tail)),
        sharpness_high=float(np.quantile(same.sharpness, 1 - tail)),
        nsfw=settings.nsfw_margin,
    )


def _thresholds(same: Scores, other: Scores, rate: float, settings: FilterSettings) -> Thresholds:
    strict = _quantile_thresholds(same, rate, settings)
    return Thresholds(
        clip_cosine=min(strict.clip_cosine, float(np.quantile(other.clip_cosine, 1 - OTHERS_TOLERATED))),
        hsv_distance=max(strict.hsv_distance, float(np.quantile(other.hsv_distance, OTHERS_TOLERATED))),
        sharpness_low=strict.sharpness_low,
        sharpness_high=strict.sharpness_high,
        nsfw=strict.nsfw,
    )


def colour_histograms(squares: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns (N, 8 + 4) centre-weighted HSV histograms: hues of coloured pixels, values of grey pixels.

    A pixel is split between neighbouring bins, so that small changes of light have little effect.
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
    hue_position = hue / 180 * _HUES  # OpenCV's hue is in [0, 180)
    hue_bin = np.floor(hue_position).astype(int)
    hue_share = hue_position - hue_bin
    value_position = value / 255 * (_VALUES - 1)
    value_bin = np.minimum(value_position.astype(int), _VALUES - 2)
    value_share = value_position - value_bin
    bins = np.concatenate([hue_bin % _HUES, (hue_bin + 1) % _HUES, _HUES + value_bin, _HUES + value_bin + 1])
    grey = 1 - coloured
    mass = np.concatenate(
        [coloured * (1 - hue_share), coloured * hue_share, grey * (1 - value_share), grey * value_share]
    )
    counts = np.bincount(bins, mass * np.tile(weight, 4), _HUES + _VALUES)
    return (counts / counts.sum()).astype(np.float32)


def chroma(square: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns (S, S) the largest minus the smallest of R, G and B, in [0, 1]."""
    return (square.max(axis=-1).astype(np.float32) - square.min(axis=-1)) / 255


def hellinger(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns (N,) Hellinger distances, in [0, 1], between the rows of two sets of histograms."""
    overlap = np.sqrt(first.astype(np.float64) * second).sum(axis=1)
    return np.sqrt(np.clip(1 - overlap, 0, 1)).astype(np.float32)


def log_sharpness(squares: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns (N,) the log of 1 + the variance of the grey image's Laplacian."""
    variances = [
        cv2.Laplacian(cv2.cvtColor(square, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var() for square in squares
    ]
    return np.log(np.array(variances, dtype=np.float32) + 1)  # 0 for a flat image, not -inf


def nsfw_scores(
    encoder: Encoder, embeddings: NDArray[np.float32], unsafe: Sequence[bool | None], zero_shot: bool
) -> NDArray[np.float32] | None:
    """Returns (N,) scores, higher for unsafe candidates; None if there are no flags and `zero_shot` is off.

    The score is inf or -inf by the flag, otherwise the cosine to the nearest unsafe concept minus that to
    the nearest safe one.

    Args:
        unsafe: the safety checker's flags; None without a checker.
        zero_shot: whether the encoder is pretrained, so that it knows concepts outside the catalogue.
    """
    if any(flag is not None for flag in unsafe):
        return np.where([bool(flag) for flag in unsafe], np.inf, -np.inf).astype(np.float32)
    if not zero_shot:
        return None
    bad, good = (embed_texts(encoder, texts, len(texts)) for texts in (_UNSAFE, _SAFE))
    return ((embeddings @ bad.T).max(axis=1) - (embeddings @ good.T).max(axis=1)).astype(np.float32)
