"""Calibrates the filters on pairs of catalogue views of training SKUs, and evaluates them on other views.

In the evaluation, planted bad candidates must be rejected and second real views must pass.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from skufp_pipeline.datasets.table import CATALOG
from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.hashing import stable_hash
from skufp_pipeline.views.filters import (
    Scores,
    Thresholds,
    accepted_share,
    calibrate,
    calibration_curve,
    chroma,
    score,
)
from skufp_pipeline.views.selection import (
    LEAST_PAIRS,
    budget,
    for_calibration,
    require_calibration,
    too_few_pairs,
)
from skufp_pipeline.views.settings import FilterSettings
from skufp_pipeline.views.tables import squares

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
Plant = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

HUE_TURN = 90  # degrees
_COLOURED = 0.2  # smallest chroma at which a rotated hue is visible
_LEAST_COLOURED = 0.1  # smallest share of such pixels at which it changes the garment


@dataclass(frozen=True)
class RealViews:
    """Catalogue views of some SKUs."""

    sku_ids: NDArray[np.str_]
    embeddings: NDArray[np.float32]  # (N, D)
    squares: NDArray[np.uint8]  # (N, S, S, 3)

    def scores(self, pairs: NDArray[np.int64]) -> Scores:
        """Scores the first view of each pair (P, 2) as a candidate for the second."""
        candidate, source = pairs[:, 0], pairs[:, 1]
        return score(
            self.embeddings[candidate],
            self.squares[candidate],
            self.embeddings[source],
            self.squares[source],
        )


def fit_filters(
    views: RealViews, settings: FilterSettings, seed: int
) -> tuple[Thresholds, list[dict[str, float]]]:
    """Calibrates thresholds on `views` of training SKUs; returns them and the calibration curve.

    Raises:
        TooLittleError: too few SKUs with two views.
    """
    same = same_sku_pairs(views.sku_ids, settings.pairs, seed)
    other = other_sku_pairs(views.sku_ids, settings.pairs, seed)
    if min(len(same), len(other)) < LEAST_PAIRS:
        raise too_few_pairs(len(same), len(other))
    scores = views.scores(same), views.scores(other)
    return calibrate(*scores, settings), calibration_curve(*scores, settings)


def calibrate_and_measure(
    images: pl.DataFrame, encoder: Encoder, batch_size: int, settings: FilterSettings, seed: int
) -> dict[str, Any]:
    """Calibrates on half of the training SKUs and evaluates on other SKUs.

    Args:
        images: embeddings of every crop, with the `path` of its file; queries are ignored.

    Returns:
        `thresholds`, `curve`, and `figures` by set of SKUs: `training`, the other half of the training
        SKUs, and `unseen`, the SKUs of other splits, on which the encoder was not trained.

    Raises:
        TooLittleError: too few SKUs with two views.
    """
    catalog = images.filter(pl.col("domain") == CATALOG)
    require_calibration(catalog, settings.skus)
    is_training = pl.col("split") == "train"
    sets = {
        "calibration": catalog.filter(is_training & for_calibration()),
        "training": catalog.filter(is_training & ~for_calibration()),
        "unseen": catalog.filter(~is_training),
    }

    def embed(squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        starts = range(0, len(squares), batch_size)
        parts = [[Image.fromarray(s) for s in squares[i : i + batch_size]] for i in starts]
        return np.concatenate([encoder.embed_images(part) for part in parts])

    views = {name: _real_views(rows, settings) for name, rows in sets.items()}
    thresholds, curve = fit_filters(views.pop("calibration"), settings, seed)
    figures = {
        name: planted_figures(real, embed, thresholds, settings.pairs, seed)
        for name, real in views.items()
        if len(real.sku_ids)
    }
    return {"thresholds": asdict(thresholds), "curve": curve, "figures": figures}


def _real_views(images: pl.DataFrame, settings: FilterSettings) -> RealViews:
    chosen = budget(images["sku_id"].to_list(), settings.skus, "view-filters")
    rows = images.filter(pl.col("sku_id").is_in(chosen)).sort("sku_id", "item_id")
    paths = [Path(path) for path in rows["path"]]
    return RealViews(rows["sku_id"].to_numpy(), embedding_rows(rows), squares(paths, settings.side))


def same_sku_pairs(sku_ids: NDArray[np.str_], limit: int, seed: int) -> NDArray[np.int64]:
    """Returns at most `limit` rows (candidate, source) of two views of one SKU: all, or a seeded sample."""
    frame = pl.DataFrame({"sku": sku_ids}).with_row_index("row")
    pairs = frame.join(frame, on="sku").filter(pl.col("row") != pl.col("row_right"))
    found = pairs.select("row", "row_right").sort("row", "row_right").to_numpy().astype(np.int64)
    return _subsample(found, limit, seed)


def other_sku_pairs(sku_ids: NDArray[np.str_], limit: int, seed: int) -> NDArray[np.int64]:
    """Samples at most `limit` rows (candidate, source) of views of two SKUs."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, max(len(sku_ids), 1), (4 * limit if len(sku_ids) else 0, 2))
    return np.asarray(drawn[sku_ids[drawn[:, 0]] != sku_ids[drawn[:, 1]]][:limit], dtype=np.int64)


def _subsample(pairs: NDArray[np.int64], limit: int, seed: int) -> NDArray[np.int64]:
    if len(pairs) <= limit:
        return pairs
    return pairs[np.sort(np.random.default_rng(seed).choice(len(pairs), limit, replace=False))]


def planted_figures(
    views: RealViews, embed: Embed, thresholds: Thresholds, limit: int, seed: int
) -> dict[str, dict[str, float]]:
    """Returns the number of candidates and the share accepted, for every kind of planted candidate.

    `second_view` must pass; `other_sku`, `hue_turned`, `blank` and `noise` must not; `bad` is these four
    together. Only coloured crops are used for `hue_turned`, since others do not change.
    `embed` returns unit rows of squares (N, S, S, 3).
    """
    chosen = _subsample(np.arange(len(views.sku_ids))[:, None].repeat(2, 1), limit, seed)[:, 0]
    bad = {"other_sku": views.scores(other_sku_pairs(views.sku_ids, limit, seed))}
    for name, plant in (("hue_turned", turn_hue), ("blank", _blank), ("noise", _noise)):
        rows = chosen[[is_coloured(views.squares[row]) for row in chosen]] if plant is turn_hue else chosen
        bad[name] = _planted(views, rows.astype(np.int64), plant, embed)
    second = views.scores(same_sku_pairs(views.sku_ids, limit, seed))
    figures = {"second_view": _figure(second, thresholds)}
    figures |= {name: _figure(scores, thresholds) for name, scores in bad.items()}
    count = sum(figures[name]["count"] for name in bad)
    passed = sum(figures[name]["count"] * figures[name]["accepted"] for name in bad if figures[name]["count"])
    figures["bad"] = {"count": count, "accepted": passed / count if count else float("nan")}
    return figures


def _planted(views: RealViews, rows: NDArray[np.int64], plant: Plant, embed: Embed) -> Scores:
    sources = views.squares[rows]
    squares = np.stack([plant(square) for square in sources]) if len(rows) else sources
    embeddings = embed(squares) if len(rows) else views.embeddings[rows]
    return score(embeddings, squares, views.embeddings[rows], sources)


def _figure(scores: Scores, thresholds: Thresholds) -> dict[str, float]:
    return {"count": len(scores.clip_cosine), "accepted": accepted_share(scores, thresholds)}


def turn_hue(square: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rotates every hue of the square by `HUE_TURN` degrees."""
    hsv = cv2.cvtColor(square, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + HUE_TURN // 2) % 180  # OpenCV's hue is in units of 2 degrees
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.uint8, copy=False)


def is_coloured(square: NDArray[np.uint8]) -> bool:
    """Returns whether enough pixels have a visible hue."""
    return bool((chroma(square) > _COLOURED).mean() >= _LEAST_COLOURED)


def _blank(square: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Fills the square with its mean colour, the hardest blank to reject."""
    mean = square.reshape(-1, 3).mean(axis=0).round()
    return np.broadcast_to(mean, square.shape).astype(np.uint8)


def _noise(square: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns uniform noise, seeded with the square's bytes so that it is repeatable."""
    rng = np.random.default_rng(stable_hash(square.tobytes().hex(), "planted-noise"))
    return rng.integers(0, 256, square.shape, dtype=np.uint8)


def each_figure(found: Mapping[str, Any]) -> list[tuple[str, str, dict[str, float]]]:
    """Lists (set of SKUs, kind of candidate, figure) from the result of `calibrate_and_measure`."""
    return [
        (name, kind, figure) for name, kinds in found["figures"].items() for kind, figure in kinds.items()
    ]
