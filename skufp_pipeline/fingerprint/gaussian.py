"""Views and photos of a SKU as draws from Gaussians around it (probabilistic LDA: Ioffe 2006).

A SKU is a point y ~ N(mean, B). Its catalog views scatter around y with covariance V, its users' photos
around y + shift with covariance Q; all are estimated on training SKUs and their `train` photos. Two things
follow without any gradient. What is known of y, given some views and perhaps some photos, is a weighted mean
that trusts each direction as far as it is steady. And a new photo q is told best from other SKUs' by

    log N(q; y, Q) = q . (inverse(Q) y) - y . (inverse(Q) y) / 2 + what all SKUs share:

one vector and one bias a SKU, searched as any other; the path of a query stays as it is.
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
NARROWEST = 1e-5  # variance of a direction at least, of the widest one's
# Of the score's change with the length of a SKU's vector, what unit rows and a bias keep: queries that are
# close to be won by a SKU score about so much of what its own point does. Chosen on another rendering.
KEPT_LENGTH = 0.75

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class GaussianModel:
    """What training SKUs tell about all SKUs.

    Attributes:
        mean: (D,) of SKUs.
        shift: (D,) from a SKU to its photos.
        basis: (D, D); in `x @ basis` B is diagonal, V the identity and Q taken as diagonal.
        between: (D,) variances of B in the basis.
        photo_noise: (D,) variances of Q in the basis.
        metric: (D, D) inverse of Q, raised to `power`, of trace D.
        length, bias: mean length and bias of the training SKUs' vectors, which make others' comparable.
    """

    mean: Matrix
    shift: Matrix
    basis: Matrix
    between: Matrix
    photo_noise: Matrix
    metric: Matrix
    length: Matrix
    bias: Matrix


def fit_gaussian(views: ViewSet, photos: Queries, settings: GaussianSettings) -> GaussianModel:
    """The model of these training SKUs.

    Args:
        views: S SKUs; generated views are left aside.
        photos: `train` photos of theirs.
    """
    means, spread = _means(views), _view_noise(views)
    offsets = photos.embeddings - means[photos.truth]
    scatter = np.cov(offsets, rowvar=False, bias=True)
    if spread is None:  # no SKU has two views: what parts a photo from its view is shared between the two
        spread = scatter / 2
    # A mean of n views scatters by V / n itself.
    of_photos = scatter - spread * np.mean(1 / views.counts[photos.truth])
    of_skus = np.cov(means, rowvar=False, bias=True) - spread * np.mean(1 / views.counts)
    view_noise, photo_noise, between = (
        _positive(found, settings.shrinkage) for found in (spread, of_photos, of_skus)
    )
    narrow = _power(view_noise, -0.5)
    variances, vectors = np.linalg.eigh(narrow @ between @ narrow)
    basis = narrow @ vectors
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
    """(S, D) unit rows and (S,) biases; a SKU without photos, a new one say, has its views alone.

    Args:
        photos: `train` photos of SKUs of `views`.
    """
    rows = posterior(model, views, photos, settings)
    vectors = rows @ model.metric
    lengths = np.linalg.norm(vectors, axis=1)
    own = (rows * vectors).sum(axis=1)  # what a SKU's own point scores
    biases = KEPT_LENGTH * (lengths - model.length) * own / lengths - own / 2
    return unit(vectors), (biases / model.length - model.bias).astype(np.float32)


def posterior(model: GaussianModel, views: ViewSet, photos: Queries, settings: GaussianSettings) -> Matrix:
    """(S, D) where each SKU's photos are expected: the mean of y given its views and photos, plus the shift.

    `photo_weight` counts each photo so many times.
    """
    counts = views.counts[:, None]
    sums, seen = np.zeros((len(counts), len(model.mean))), np.zeros((len(counts), 1))
    np.add.at(sums, photos.truth, photos.embeddings - model.shift)
    np.add.at(seen, photos.truth, 1)
    trust = settings.photo_weight / model.photo_noise
    known = model.mean @ model.basis / model.between
    weighed = known + counts * (_means(views) @ model.basis) + sums @ model.basis * trust
    precision = 1 / model.between + counts + seen * trust
    return (weighed / precision) @ np.linalg.inv(model.basis) + model.shift


def with_gaussian(
    model: GaussianModel,
    views: ViewSet,
    photos: Queries,
    aggregated: NDArray[np.float32],
    settings: GaussianSettings,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(S, D) unit rows of the Gaussian's vectors and the aggregator's weighed together, and (S,) biases.

    The two err differently: one knows how photos vary, the other what its attention learnt.

    Args:
        aggregated: (S, D) the aggregator's unit rows.
    """
    rows, biases = gaussian_fingerprints(model, views, photos, settings)
    weight = settings.aggregator_weight
    return unit(rows + weight * aggregated), biases / np.float32(1 + weight)


def save_gaussian(model: GaussianModel, directory: Path) -> None:
    """All arrays as safetensors."""
    arrays = {field.name: np.ascontiguousarray(getattr(model, field.name)) for field in fields(model)}
    save_file(arrays, directory / GAUSSIAN_FILE)


def load_gaussian(directory: Path) -> GaussianModel:
    """The model that `save_gaussian` wrote."""
    return GaussianModel(**load_file(directory / GAUSSIAN_FILE))


def _centred(
    model: GaussianModel, views: ViewSet, photos: Queries, settings: GaussianSettings
) -> GaussianModel:
    """The model with the mean length of these SKUs' vectors and their mean bias, which becomes 0."""
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
    """(D, D) covariance of catalog views around their SKU; None where no SKU has two."""
    catalog = views.mask & ~views.generated
    freedom = int(catalog.sum()) - len(catalog)
    if freedom == 0:
        return None
    offsets = (views.views - _means(views)[:, None])[catalog]
    covariance: Matrix = offsets.T @ offsets / freedom
    return covariance


def _positive(covariance: Matrix, shrinkage: float) -> Matrix:
    """The nearest covariance of positive variances, shrunk towards one that is the same in all directions."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    values = np.maximum(values, NARROWEST * max(values.max(), NARROWEST))
    return (vectors * ((1 - shrinkage) * values + shrinkage * values.mean())) @ vectors.T


def _power(matrix: Matrix, exponent: float) -> Matrix:
    """A symmetric positive matrix to the power of `exponent`."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T
