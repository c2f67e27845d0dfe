"""Models the views and photos of a SKU as draws from Gaussians (probabilistic LDA: Ioffe 2006).

A SKU is a point y ~ N(mean, B). Its catalog views scatter around y with covariance V, its users' photos
around y + shift with covariance Q; all are estimated from training SKUs and their `train` photos, without
gradients. The posterior mean of y, given views and possibly photos, is a mean weighted by precision in each
direction. A new photo q is assigned to a SKU by

    log N(q; y, Q) = q . (inverse(Q) y) - y . (inverse(Q) y) / 2 + terms equal for all SKUs:

one vector and one bias per SKU, so the query path needs no change.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from skufp_pipeline.fingerprint.settings import GaussianSettings
from skufp_pipeline.fingerprint.tables import Queries
from skufp_pipeline.fingerprint.views import ViewSet, unit

GAUSSIAN_FILE = "gaussian.safetensors"
LEAST_PHOTOS = 20  # to estimate the noise of photos from
NARROWEST = 1e-5  # minimum variance of a direction, relative to the widest one
# Unit rows lose the effect of a vector's length on the score. The bias restores it for a query that scores
# this share of what the SKU's own point scores, as queries near the decision do. Chosen on another rendering.
KEPT_LENGTH = 0.75

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class GaussianModel:
    """Parameters estimated from training SKUs and applied to all SKUs.

    Attributes:
        mean: (D,) mean of the SKUs.
        shift: (D,) mean offset from a SKU to its photos.
        basis: (D, D); in `x @ basis` B is diagonal, V the identity and Q taken as diagonal.
        between, photo_noise: (D,) variances of B and of Q in the basis.
        metric: (D, D) inverse of Q, raised to `power`, of trace D.
        length, bias: mean length and bias of the training SKUs' vectors; they normalise those of all SKUs.
    """

    mean: Matrix
    shift: Matrix
    basis: Matrix
    between: Matrix
    photo_noise: Matrix
    metric: Matrix
    length: Matrix
    bias: Matrix


def gaussian_or_none(
    views: ViewSet, photos: Queries, settings: GaussianSettings | None
) -> tuple[GaussianModel | None, str | None]:
    """Returns the fitted model, None without settings; with too little to fit, None and the reason."""
    if settings is None:
        return None, None
    if len(views.sku_ids) < 2 or len(photos.truth) < LEAST_PHOTOS:
        return None, (
            f"the Gaussian part is switched off: it needs {LEAST_PHOTOS} photos of role train, of two SKUs "
            f"at least; found {len(photos.truth)} photos and {len(views.sku_ids)} SKUs"
        )
    return fit_gaussian(views, photos, settings), None


def fit_gaussian(views: ViewSet, photos: Queries, settings: GaussianSettings) -> GaussianModel:
    """Fits the model to S training SKUs and their `train` photos; generated views are ignored."""
    means, spread = _means(views), _view_noise(views)
    offsets = photos.embeddings - means[photos.truth]
    scatter = np.cov(offsets, rowvar=False, bias=True)
    if spread is None:  # no SKU has two views: V and Q each get half of the scatter
        spread = scatter / 2
    # The mean of n views itself has covariance V / n.
    of_photos = scatter - spread * np.mean(1 / views.counts[photos.truth])
    of_skus = np.cov(means, rowvar=False, bias=True) - spread * np.mean(1 / views.counts)
    view_noise, photo_noise, between = (
        _positive(covariance, settings.shrinkage) for covariance in (spread, of_photos, of_skus)
    )
    whitening = _power(view_noise, -0.5)
    variances, vectors = np.linalg.eigh(whitening @ between @ whitening)
    basis = whitening @ vectors
    metric = _power(photo_noise, -settings.power)
    model = GaussianModel(
        mean=means.mean(axis=0),
        shift=offsets.mean(axis=0),
        basis=basis,
        between=np.maximum(variances, NARROWEST),
        photo_noise=np.einsum("ij,ik,kj->j", basis, photo_noise, basis),
        metric=metric * len(metric) / np.trace(metric),
        length=np.ones(1),
        bias=np.zeros(1),
    )
    return _centred(model, views, photos, settings)


def gaussian_fingerprints(
    model: GaussianModel, views: ViewSet, photos: Queries, settings: GaussianSettings
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(S, D) unit rows and (S,) biases; a SKU without `train` photos (a new one) uses its views alone."""
    rows = posterior(model, views, photos, settings)
    vectors = rows @ model.metric
    lengths = np.linalg.norm(vectors, axis=1)
    own = (rows * vectors).sum(axis=1)  # score of the SKU's own point
    biases = KEPT_LENGTH * (lengths - model.length) * own / lengths - own / 2
    return unit(vectors), (biases / model.length - model.bias).astype(np.float32)


def posterior(model: GaussianModel, views: ViewSet, photos: Queries, settings: GaussianSettings) -> Matrix:
    """(S, D) mean of y given the views and photos (each counts `photo_weight` times), plus the shift."""
    counts = views.counts[:, None]
    sums, photo_counts = np.zeros((len(counts), len(model.mean))), np.zeros((len(counts), 1))
    weights = np.ones(len(photos.truth)) if photos.weights is None else photos.weights
    np.add.at(sums, photos.truth, weights[:, None] * (photos.embeddings - model.shift))
    np.add.at(photo_counts, photos.truth, weights[:, None])
    photo_precision = settings.photo_weight / model.photo_noise
    prior = model.mean @ model.basis / model.between
    weighted = prior + counts * (_means(views) @ model.basis) + sums @ model.basis * photo_precision
    precision = 1 / model.between + counts + photo_counts * photo_precision
    return (weighted / precision) @ np.linalg.inv(model.basis) + model.shift


def with_gaussian(
    model: GaussianModel,
    views: ViewSet,
    photos: Queries,
    aggregated: NDArray[np.float32],
    settings: GaussianSettings,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(S, D) unit rows, the weighted sum of the Gaussian's and `aggregated` (S, D) unit rows; (S,) biases.

    Their errors differ: one models how photos vary, the other what its attention learnt.
    """
    rows, biases = gaussian_fingerprints(model, views, photos, settings)
    weight = settings.aggregator_weight
    return unit(rows + weight * aggregated), biases / np.float32(1 + weight)


def save_gaussian(model: GaussianModel, directory: Path) -> None:
    """Writes all arrays as safetensors."""
    arrays = {field.name: np.ascontiguousarray(getattr(model, field.name)) for field in fields(model)}
    save_file(arrays, directory / GAUSSIAN_FILE)


def load_gaussian(directory: Path) -> GaussianModel | None:
    """Loads the model that `save_gaussian` wrote; None where there was too little to fit one."""
    path = directory / GAUSSIAN_FILE
    return GaussianModel(**load_file(path)) if path.is_file() else None


def _centred(
    model: GaussianModel, views: ViewSet, photos: Queries, settings: GaussianSettings
) -> GaussianModel:
    """The model with the mean vector length and the mean bias of these SKUs; the latter becomes 0."""
    arrays = {field.name: getattr(model, field.name) for field in fields(model)}
    vectors = posterior(model, views, photos, settings) @ model.metric
    arrays["length"] = np.array([np.linalg.norm(vectors, axis=1).mean()])
    _, biases = gaussian_fingerprints(GaussianModel(**arrays), views, photos, settings)
    arrays["bias"] = np.array([biases.mean(dtype=np.float64)])
    return GaussianModel(**arrays)


def _means(views: ViewSet) -> Matrix:
    """(S, D) means of the catalog views, not normalised."""
    catalog = np.where(views.generated[:, :, None], 0, views.views).astype(np.float64)
    return catalog.sum(axis=1) / np.maximum(views.counts, 1)[:, None]


def _view_noise(views: ViewSet) -> Matrix | None:
    """(D, D) covariance of catalog views around their SKU's mean; None where no SKU has two."""
    catalog = views.mask & ~views.generated
    freedom = int(catalog.sum()) - len(catalog)
    if freedom == 0:
        return None
    offsets = (views.views - _means(views)[:, None])[catalog]
    covariance: Matrix = offsets.T @ offsets / freedom
    return covariance


def _positive(covariance: Matrix, shrinkage: float) -> Matrix:
    """Clips the eigenvalues of a covariance to positive values and shrinks them towards their mean."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    values = np.maximum(values, NARROWEST * max(values.max(), NARROWEST))
    return (vectors * ((1 - shrinkage) * values + shrinkage * values.mean())) @ vectors.T


def _power(matrix: Matrix, exponent: float) -> Matrix:
    """A symmetric positive-definite matrix raised to `exponent`."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T
