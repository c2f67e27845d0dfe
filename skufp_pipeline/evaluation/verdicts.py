"""Judges an index's verdicts on evaluation photos, whose product is in it and, masked, is not.

Every photo is asked of the whole index, which is what is published; the settings (`seen`, `zero`, both) say
whose photos are asked. Photos count alike; intervals are of 95%, over SKUs.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skufp_pipeline.evaluation.protocol import SETTING_SPLITS
from skufp_pipeline.evaluation.report import Share, Verdicts, VerdictsOf
from skufp_pipeline.measures.bootstrap import bootstrap_mean
from skufp_pipeline.measures.metrics import Bin, area_under_roc, reliability
from skufp_pipeline.query.confidence import Confidence, SecondLooks, pairs_of
from skufp_pipeline.query.settings import VERDICTS
from skufp_pipeline.search.index import FingerprintIndex

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class JudgedPhotos:
    """Photos asked with and without their SKU in the index.

    Attributes:
        sku_ids, right: (Q,) the SKU of each, and whether it was the first answer.
        present, absent: (Q,) confidences.
    """

    sku_ids: NDArray[np.str_]
    right: NDArray[np.bool_]
    present: Floats
    absent: Floats

    def calibration(self, absent_share: float) -> tuple[list[Bin], float]:
        """`reliability` of the confidence where that share of the photos is of absent products."""
        count = len(self.right)
        return reliability(
            np.concatenate([self.present, self.absent]),
            np.concatenate([self.right, np.zeros(count, bool)]),
            np.repeat([1 - absent_share, absent_share], count),
        )


def ask_photos(
    index: FingerprintIndex, confidence: Confidence, photos: pl.DataFrame, seen: SecondLooks | None = None
) -> dict[str, JudgedPhotos]:
    """By setting, photos (`sku_id`, `split`, `embedding`) of SKUs that the index has; none without photos.

    `seen` is the second look at all of them, None for an index without one.
    """
    is_known = photos["sku_id"].is_in(index.sku_ids.implode())
    judged = {}
    for setting, splits in SETTING_SPLITS.items():
        rows = np.flatnonzero((is_known & photos["split"].is_in(splits)).to_numpy())
        if len(rows):
            pairs = pairs_of(index, photos[rows], None if seen is None else seen.of(rows))
            sure = [confidence.judge(features) for features in (pairs.present, pairs.absent)]
            judged[setting] = JudgedPhotos(pairs.sku_ids, pairs.right, *sure)
    return judged


def judge_verdicts(
    confidence: Confidence, judged: dict[str, JudgedPhotos], resamples: int, seed: int
) -> Verdicts:
    """The report's part on verdicts."""

    def shares(photos: JudgedPhotos, sure: Floats) -> dict[str, Share]:
        given = np.array([confidence.verdict(value) for value in sure.tolist()])
        return {name: _share(given == name, photos.sku_ids, resamples, seed) for name in VERDICTS}

    def of(photos: JudgedPhotos) -> VerdictsOf:
        matched = photos.present >= confidence.match
        return VerdictsOf(
            photos=len(photos.right),
            skus=len(np.unique(photos.sku_ids)),
            present=shares(photos, photos.present),
            absent=shares(photos, photos.absent),
            right_matches=_share(photos.right[matched], photos.sku_ids[matched], resamples, seed)
            if matched.any()
            else None,
            area_under_roc=area_under_roc(photos.present, photos.absent),
            calibration_error=photos.calibration(confidence.absent)[1],
        )

    return Verdicts(
        alpha=confidence.alpha,
        match=confidence.match,
        absent_share=confidence.absent,
        calibration_photos=confidence.photos,
        calibration_skus=confidence.skus,
        synthetic=confidence.synthetic,
        settings={setting: of(photos) for setting, photos in judged.items()},
    )


def roc(present: Floats, absent: Floats) -> tuple[Floats, Floats]:
    """Shares of present and of absent photos below each confidence, from none to all: the open-set ROC.

    >>> [points.tolist() for points in roc(np.array([0.5, 0.9]), np.array([0.1, 0.5]))]
    [[0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0]]
    """
    bounds = np.unique(np.concatenate([present, absent]))
    below = [
        np.searchsorted(np.sort(values), bounds, side="right") / len(values) for values in (present, absent)
    ]
    rejected, told = (np.concatenate([[0.0], part]) for part in below)
    return rejected, told


def _share(happened: NDArray[np.bool_], sku_ids: NDArray[np.str_], resamples: int, seed: int) -> Share:
    found = bootstrap_mean(happened.astype(np.float64), sku_ids, resamples, seed)
    return Share(share=found.mean, low=found.low, high=found.high)
