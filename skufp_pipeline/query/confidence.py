"""Says how sure the first answer to a photo is, and when the product is probably not in the index.

Confidence is the probability that the first answer is right, by logistic regression on features of the
scores. It is fitted on development photos, and on the same photos with their SKU masked from the index, which
is exact: the first ten of eleven without the SKU are the first ten of the index without it.

The verdict `none` has the guarantee of split conformal prediction. The regression is fitted on one half of
the SKUs; the threshold is a quantile of the other half's confidences. Photos of one SKU are dependent, so
SKUs are what is exchanged: each SKU's photos share the weight of one (Lee, Barber and Willett,
"Distribution-free inference with hierarchical data", 2023, arXiv 2306.06342). All photos then count, which
varies less than one photo a SKU drawn at random.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from skufp_pipeline.datasets.table import DEVELOPMENT
from skufp_pipeline.encoders.patch_tables import patches_of
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.errors import UserError
from skufp_pipeline.hashing import stable_hash
from skufp_pipeline.measures.maxsim import Patches
from skufp_pipeline.measures.metrics import Bin, reliability
from skufp_pipeline.query.look_twice import LookTwice
from skufp_pipeline.query.settings import ConfidenceSettings, Verdict
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.settings import Settings

FILE = "confidence.json"
REGION_SCORE = "region_score"  # the detector's, of the region that was searched for
LISTED = 11  # answers that are looked at: ten are left where the right SKU is masked
Floats = NDArray[np.float64]

# Features of (Q, 10) scores, best first; others are given by name.
OF_SCORES: dict[str, Callable[[Floats], Floats]] = {
    "top": lambda scores: scores[:, 0],
    "margin": lambda scores: scores[:, 0] - scores[:, 1],
    "mean_of_ten": lambda scores: scores.mean(axis=1),
}


class Pairs(NamedTuple):
    """Photos asked of an index, and asked of it without their SKU.

    Attributes:
        sku_ids: (Q,) the right SKU of each.
        present, absent: by name, the (Q,) feature with the SKU and without it.
        right: (Q,) whether the first answer is the SKU.
    """

    sku_ids: NDArray[np.str_]
    present: dict[str, Floats]
    absent: dict[str, Floats]
    right: NDArray[np.bool_]


class Logistic(Settings):
    """P(event) by logistic regression on standardised features.

    Attributes:
        features: names, in the order of the numbers.
        means, scales: by which they are standardised.
    """

    features: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float

    def probability(self, features: Mapping[str, Floats]) -> Floats:
        """(Q,) probabilities by named (Q,) features; raises UserError if one is missing."""
        if missing := [name for name in self.features if name not in features]:
            raise UserError(
                f"the confidence of this index counts {', '.join(missing)}, which this search has not "
                "computed; search with the settings that the index was built with, or build it again"
            )
        rows = np.stack([features[name] for name in self.features], axis=1)
        logits = (rows - self.means) / self.scales @ np.array(self.weights) + self.intercept
        return 1 / (1 + np.exp(-logits))


class Confidence(Settings):
    """What an index version knows of its answers: the content of `confidence.json`.

    Attributes:
        match, alpha, absent: as the settings.
        reject_below: the confidence below which the verdict is `none`.
        photos, skus, synthetic: of the calibration, and whether the photos were synthetic.
        curve, calibration_error: of the confidence on SKUs that it was not fitted on.
        detected: the calibration for regions that a detector found; None where they are judged as the others.
    """

    logistic: Logistic
    match: float
    reject_below: float
    alpha: float
    absent: float
    photos: int
    skus: int
    synthetic: bool
    curve: tuple[Bin, ...]
    calibration_error: float
    detected: "Confidence | None" = None

    def of(self, region_score: float | None) -> "Confidence":
        """The calibration for a region that the detector gave this score; None for any other part."""
        return self if region_score is None or self.detected is None else self.detected

    def judge(self, features: Mapping[str, Floats]) -> Floats:
        """(Q,) confidences by named (Q,) features. Raises as `Logistic.probability`."""
        return self.logistic.probability(features)

    def verdict(self, confidence: float) -> Verdict:
        """The verdict on an answer of this confidence."""
        if confidence < self.reject_below:
            return "none"
        return "match" if confidence >= self.match else "similar"


class NoVerdicts(Settings):
    """The content of `confidence.json` where there is no calibration: why."""

    off: str


_CONTENT: TypeAdapter[Confidence | NoVerdicts] = TypeAdapter(Confidence | NoVerdicts)


def write_confidence(directory: Path, found: Confidence | NoVerdicts) -> None:
    """Writes the file that `read_confidence` reads."""
    (directory / FILE).write_text(found.model_dump_json(indent=1) + "\n")


def read_confidence(directory: Path) -> Confidence | NoVerdicts | None:
    """Reads the file of an index version; None if it has none. Raises UserError if it can't be read."""
    path = directory / FILE
    if not path.is_file():
        return None
    try:
        found: Confidence | NoVerdicts = _CONTENT.validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} can't be read: {error}; build search_index again") from error
    except ValidationError as error:
        raise UserError(f"{path} is no calibration of this version; build search_index again") from error
    return found


def features_of(scores: Floats, second: Floats | None = None) -> dict[str, Floats]:
    """Features by name of (Q, K) scores, best first, and of those of a second look, in any order.

    >>> {name: value.tolist() for name, value in features_of(np.array([[0.75, 0.5, 0.25]])).items()}
    {'top': [0.75], 'margin': [0.25], 'mean_of_ten': [0.5]}
    """
    found = {name: measure(scores[:, : LISTED - 1]) for name, measure in OF_SCORES.items()}
    if second is None:
        return found
    best = -np.sort(-second, axis=1)
    return found | {"second_top": best[:, 0], "second_margin": best[:, 0] - best[:, 1]}


class SecondLooks(NamedTuple):
    """The second look of an index, and the (Q, P, d) patches of photos that it is asked."""

    look: LookTwice
    patches: Patches

    def of(self, rows: NDArray[np.int64]) -> "SecondLooks":
        """Those of some of the photos."""
        return SecondLooks(self.look, self.patches[rows])


def looks_at(look: LookTwice | None, photos: pl.DataFrame) -> SecondLooks | None:
    """The second look at photos by their column `patches`; None without a look or the column."""
    if look is None or "patches" not in photos.columns:
        return None
    return SecondLooks(look, patches_of(photos, *look.patches.patches.shape[2:]))


def second_looks(
    look: LookTwice | None, patches: pl.DataFrame | None
) -> Callable[[pl.DataFrame], SecondLooks | None]:
    """Returns what finds the second look at photos (`item_id`) by the patches that are known of them.

    It finds None without a second look, or where one of the photos has no patches.
    """

    def seen(photos: pl.DataFrame) -> SecondLooks | None:
        if look is None or patches is None:
            return None
        known = photos.select("item_id").join(patches, on="item_id", how="left", maintain_order="left")
        if known["patches"].null_count():
            return None
        return looks_at(look, known)

    return seen


def asked_twice(
    index: FingerprintIndex,
    queries: NDArray[np.float32],
    sku_ids: Sequence[str],
    seen: SecondLooks | None = None,
) -> tuple[dict[str, Floats], dict[str, Floats], NDArray[np.bool_]]:
    """The features of the index's answers and of the answers without each query's SKU, and whether that SKU
    was the first answer."""
    listed = LISTED if seen is None else max(LISTED, seen.look.top + 1)
    rows, scores = index.best(queries, listed)
    names = index.skus["sku_id"].gather(rows.ravel()).to_numpy().reshape(rows.shape)
    is_own = names == np.asarray(sku_ids)[:, None]
    # Moves the SKU behind the others, which keep their order; where it is not among them the last goes.
    others = np.argsort(is_own, axis=1, kind="stable")[:, : rows.shape[1] - 1]
    masked = np.take_along_axis(scores, others, axis=1)
    if seen is None:
        return features_of(scores[:, :-1]), features_of(masked), is_own[:, 0]
    similar = np.empty(rows.shape)
    for number, photo in enumerate(seen.patches):
        similar[number] = seen.look.patches.maxsim(rows[number], photo)
    second, top = scores + seen.look.weight * similar, seen.look.top
    # On ties the lower row is first, as `LookTwice.again` ranks.
    first = np.lexsort((rows[:, :top], -second[:, :top]), axis=1)[:, 0]
    without = np.take_along_axis(second, others, axis=1)[:, :top]
    present = features_of(scores[:, :-1], second[:, :top])
    return present, features_of(masked, without), is_own[np.arange(len(first)), first]


def pairs_of(index: FingerprintIndex, photos: pl.DataFrame, seen: SecondLooks | None = None) -> Pairs:
    """Asks each photo (`sku_id`, `embedding`) with and without its SKU; `region_score` is a feature too."""
    present, absent, right = asked_twice(index, embedding_rows(photos), photos["sku_id"].to_list(), seen)
    if REGION_SCORE in photos.columns:
        score = {REGION_SCORE: photos[REGION_SCORE].to_numpy().astype(np.float64)}
        present, absent = present | score, absent | score
    return Pairs(photos["sku_id"].to_numpy(), present, absent, right)


def fit_logistic(
    features: Mapping[str, Floats], event: NDArray[np.bool_], weights: Floats, l2: float
) -> Logistic:
    """Fits P(event) by Newton's method; `weights` (Q,) say how much each row counts.

    The penalty is `l2 / 2` times the squared weights of standardised features, beside a sum over rows.
    """
    rows = np.stack([*features.values()], axis=1)
    means = np.average(rows, axis=0, weights=weights)
    spread = np.sqrt(np.average((rows - means) ** 2, axis=0, weights=weights))
    scales = np.where(spread > 0, spread, 1.0)
    design = np.column_stack([(rows - means) / scales, np.ones(len(rows))])
    penalty = np.diag([l2] * rows.shape[1] + [1e-6])  # the intercept is all but free
    found = np.zeros(design.shape[1])
    for _ in range(100):
        chance = 1 / (1 + np.exp(-np.clip(design @ found, -500, 500)))
        slope = design.T @ (weights * (event - chance)) - penalty @ found
        curvature = (design * (weights * chance * (1 - chance))[:, None]).T @ design + penalty
        step = np.linalg.solve(curvature, slope)
        found = found + step / max(1.0, float(np.abs(step).max()))  # no further than 1 at once
        if np.abs(step).max() < 1e-10:
            break
    return Logistic(
        features=tuple(features),
        means=tuple(means.tolist()),
        scales=tuple(scales.tolist()),
        weights=tuple(found[:-1].tolist()),
        intercept=float(found[-1]),
    )


def conformal_threshold(scores: Floats, groups: NDArray[np.str_], alpha: float) -> float | None:
    """The largest t with P(score of a further group < t) <= alpha; None with fewer than 1 / alpha - 1 groups.

    Each of the K groups weighs 1 / (K + 1), shared by its scores; the further one weighs as much. It holds
    where groups are exchangeable, and so are the scores within a group.

    >>> conformal_threshold(np.arange(19.0), np.arange(19).astype(str), 0.1)
    1.0
    """
    names, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    weights = 1 / ((len(names) + 1) * sizes[group_of])
    spare = alpha - 1 / (len(names) + 1) + 1e-12  # weight that may lie below t
    if spare < 0:
        return None
    order = np.argsort(scores, kind="stable")
    values, firsts = np.unique(scores[order], return_index=True)
    below = np.concatenate([[0.0], np.cumsum(weights[order])])[firsts]
    return float(values[below <= spare].max())


def calibrated(
    index: FingerprintIndex,
    images: pl.DataFrame,
    synthetic: pl.DataFrame | None,
    settings: ConfidenceSettings,
    seen: Callable[[pl.DataFrame], SecondLooks | None] = lambda photos: None,
) -> Confidence | NoVerdicts:
    """Calibrates on development photos of `images`; on synthetic ones where customers' are too few.

    Args:
        images, synthetic: `sku_id`, `split`, `role`, `embedding`. Customers' photos are of training SKUs;
            synthetic ones may be of any.
        seen: returns the second look at photos, None for an index without one.
    """
    if len(index) <= LISTED:
        return NoVerdicts(off=f"no verdicts: they need an index of more than {LISTED} SKUs")
    chosen = (pl.col("role") == DEVELOPMENT) & pl.col("sku_id").is_in(index.sku_ids.implode())
    photos = images.filter(chosen & (pl.col("split") == "train"))
    found = calibrate(pairs_of(index, photos, seen(photos)), settings)
    if isinstance(found, Confidence) or synthetic is None:
        return found
    photos = synthetic.filter(chosen)
    return calibrate(pairs_of(index, photos, seen(photos)), settings, synthetic=True)


def calibrated_on_regions(
    index: FingerprintIndex,
    found: Confidence | NoVerdicts,
    regions: pl.DataFrame,
    look: LookTwice | None,
    settings: ConfidenceSettings,
) -> Confidence | NoVerdicts:
    """Adds the calibration for regions that a detector found in development photos of training SKUs.

    Where they are of too few SKUs, such regions are judged as the others.

    Args:
        found: of `calibrated`.
        regions: of `query.photo_regions.found_table`.
        look: the second look of the index, if it has one.
    """
    chosen = (pl.col("role") == DEVELOPMENT) & (pl.col("split") == "train")
    photos = regions.filter(chosen & pl.col("sku_id").is_in(index.sku_ids.implode()))
    if isinstance(found, NoVerdicts) or photos.is_empty():
        return found
    detected = calibrate(pairs_of(index, photos, looks_at(look, photos)), settings)
    return found if isinstance(detected, NoVerdicts) else found.model_copy(update={"detected": detected})


def calibrate(pairs: Pairs, settings: ConfidenceSettings, synthetic: bool = False) -> Confidence | NoVerdicts:
    """Fits confidence and verdicts on development photos; `NoVerdicts` says why where there are too few."""
    fitted_on = np.array([stable_hash(sku_id, "confidence") % 2 == 0 for sku_id in pairs.sku_ids], dtype=bool)
    counts = [len(np.unique(pairs.sku_ids[half])) for half in (fitted_on, ~fitted_on)]
    needed = max(settings.least_skus, int(np.ceil(1 / settings.alpha - 1 - 1e-9)))
    if min(counts) < needed:
        return NoVerdicts(
            off=f"no verdicts: they need development photos of {needed} SKUs to fit and of {needed} more for "
            f"the threshold, and there are {counts[0]} and {counts[1]}"
        )
    fits = [_fit(pairs, half, settings) for half in (fitted_on, ~fitted_on)]
    # Each half's confidence by the fit on the other, so that no curve is of photos it was fitted on.
    present, absent = (
        np.where(fitted_on, fits[1].probability(of), fits[0].probability(of))
        for of in (pairs.present, pairs.absent)
    )
    threshold = conformal_threshold(present[~fitted_on], pairs.sku_ids[~fitted_on], settings.alpha)
    assert threshold is not None
    weights = np.repeat([1 - settings.absent, settings.absent], len(pairs.right))
    right = np.concatenate([pairs.right, np.zeros(len(pairs.right), bool)])
    curve, error = reliability(np.concatenate([present, absent]), right, weights)
    return Confidence(
        logistic=fits[0],
        match=settings.match,
        reject_below=min(threshold, settings.match),
        alpha=settings.alpha,
        absent=settings.absent,
        photos=len(pairs.sku_ids),
        skus=sum(counts),
        synthetic=synthetic,
        curve=tuple(curve),
        calibration_error=error,
    )


def _fit(pairs: Pairs, half: NDArray[np.bool_], settings: ConfidenceSettings) -> Logistic:
    """P(the first answer is right) on one half of the photos, with and without their SKUs."""
    count = int(half.sum())
    rows = {
        name: np.concatenate([values[half], pairs.absent[name][half]])
        for name, values in pairs.present.items()
    }
    right = np.concatenate([pairs.right[half], np.zeros(count, bool)])
    weights = 2 * np.repeat([1 - settings.absent, settings.absent], count)
    return fit_logistic(rows, right, weights, settings.l2)
