"""The Gaussian model on SKUs that are drawn from one, and on cases that can be worked out by hand."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from skufp_pipeline.fingerprint.gaussian import (
    GaussianModel,
    fit_gaussian,
    gaussian_fingerprints,
    load_gaussian,
    posterior,
    save_gaussian,
    with_gaussian,
)
from skufp_pipeline.fingerprint.settings import GaussianSettings
from skufp_pipeline.fingerprint.tables import Queries
from skufp_pipeline.fingerprint.views import ViewSet, mean_sku, unit

from .examples import unit_rows, view_set

DIMENSION = 6
NOISY = np.array([0.2, 0.2, 0.1, 0.1, 0.1, 0.1])  # how photos scatter, by direction
SHIFT = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.3])
SETTINGS = GaussianSettings(shrinkage=0.05, power=0.5, photo_weight=1.0, aggregator_weight=0.5)
NONE = Queries(np.empty((0, DIMENSION), np.float32), np.empty(0, np.int64))


def catalogue(skus: int, views: int, photos: int, seed: int) -> tuple[ViewSet, Queries, Queries]:
    """Views that scatter alike, photos that scatter as `NOISY`: those of training, and others."""
    draw = np.random.default_rng(seed)
    points = unit_rows((skus, DIMENSION), seed)
    around = points[:, None] + 0.1 * draw.standard_normal((skus, views, DIMENSION))
    names = [f"s{sku:03d}" for sku in range(skus)]
    everything = np.ones((skus, views), dtype=bool)
    made = ViewSet(names, ["train"] * skus, unit(around), everything, np.zeros_like(everything))

    def some() -> Queries:
        truth = np.repeat(np.arange(skus), photos)
        scatter = NOISY * draw.standard_normal((len(truth), DIMENSION))
        return Queries((points[truth] + SHIFT + scatter).astype(np.float32), truth)

    return made, some(), some()


def plain(**changes: NDArray[np.float64]) -> GaussianModel:
    """Two dimensions in which everything has variance 1 and lies around 0."""
    one, eye, zero = np.ones(2), np.eye(2), np.zeros(2)
    model = GaussianModel(zero, zero, eye, one, one, eye, np.ones(1), np.zeros(1))
    return replace(model, **changes)


def found_first(queries: Queries, rows: NDArray[np.float32], biases: NDArray[np.float32]) -> float:
    return float(((queries.embeddings @ rows.T + biases).argmax(axis=1) == queries.truth).mean())


def photos(*rows: tuple[float, float]) -> Queries:
    """All of the first SKU."""
    return Queries(np.array(rows, dtype=np.float32).reshape(-1, 2), np.zeros(len(rows), dtype=np.int64))


def test_a_point_is_the_mean_of_what_is_known_weighed_by_how_steady_it_is() -> None:
    views = view_set([(1.0, 0.0), (0.0, 1.0)])
    # The prior at 0, two views and one photo, each of variance 1: a quarter of their sum.
    row = posterior(plain(), views, photos((0.6, 0.8)), SETTINGS)
    np.testing.assert_allclose(row, [[1.6 / 4, 1.8 / 4]], atol=1e-6)
    # A photo of variance 4 counts a quarter of a view.
    row = posterior(plain(photo_noise=np.full(2, 4.0)), views, photos((0.6, 0.8)), SETTINGS)
    np.testing.assert_allclose(row, [[1.15 / 3.25, 1.2 / 3.25]], atol=1e-6)


def test_photos_are_taken_back_by_the_shift_and_the_point_is_where_photos_are_expected() -> None:
    shift = np.array([0.2, 0.0])
    row = posterior(plain(shift=shift), view_set([(1.0, 0.0)]), photos((0.8, 0.6)), SETTINGS)
    np.testing.assert_allclose(row, [[(1.0 + 0.6) / 3 + 0.2, 0.6 / 3]], atol=1e-6)


def test_a_photo_weight_of_0_leaves_photos_out() -> None:
    views, settings = view_set([(1.0, 0.0)]), SETTINGS.model_copy(update={"photo_weight": 0.0})
    alone = posterior(plain(), views, photos(), SETTINGS)
    np.testing.assert_array_equal(posterior(plain(), views, photos((0.0, 1.0)), settings), alone)


def test_generated_views_are_left_aside() -> None:
    views = view_set([(1.0, 0.0), (0.0, 1.0)])
    generated = replace(views, generated=np.array([[False, True]]))
    alone = posterior(plain(), view_set([(1.0, 0.0)]), photos(), SETTINGS)
    np.testing.assert_array_equal(posterior(plain(), generated, photos(), SETTINGS), alone)


def test_it_finds_the_shift_and_the_directions_in_which_photos_scatter() -> None:
    views, train, _ = catalogue(400, 4, 5, seed=1)
    model = fit_gaussian(views, train, SETTINGS)
    np.testing.assert_allclose(model.shift, SHIFT, atol=0.03)
    assert np.trace(model.metric) == pytest.approx(DIMENSION)
    assert np.diag(model.metric)[:2].max() < 0.7 * np.diag(model.metric)[2:].min()


def test_photos_that_it_never_saw_are_found_better_than_by_the_mean() -> None:
    views, train, other = catalogue(300, 2, 3, seed=2)
    new, _, of_new = catalogue(300, 2, 3, seed=3)
    model = fit_gaussian(views, train, SETTINGS)
    mean = found_first(of_new, mean_sku(new), np.zeros(300, np.float32))
    assert found_first(of_new, *gaussian_fingerprints(model, new, NONE, SETTINGS)) > mean + 0.1
    by_views = found_first(other, *gaussian_fingerprints(model, views, NONE, SETTINGS))
    assert found_first(other, *gaussian_fingerprints(model, views, train, SETTINGS)) > by_views


def test_rows_are_unit_and_the_biases_of_training_skus_average_0() -> None:
    views, train, _ = catalogue(50, 3, 4, seed=4)
    rows, biases = gaussian_fingerprints(fit_gaussian(views, train, SETTINGS), views, train, SETTINGS)
    assert (rows.dtype, biases.dtype, rows.shape) == (np.float32, np.float32, (50, DIMENSION))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert biases.mean() == pytest.approx(0, abs=1e-6)
    assert biases.std() > 0


def test_a_new_sku_needs_no_photos_and_its_fingerprint_no_other_skus() -> None:
    views, train, _ = catalogue(50, 3, 4, seed=4)
    model = fit_gaussian(views, train, SETTINGS)
    together = gaussian_fingerprints(model, views, NONE, SETTINGS)
    alone = gaussian_fingerprints(model, views.select(np.array([7])), NONE, SETTINGS)
    np.testing.assert_allclose(alone[0], together[0][[7]], atol=1e-6)
    np.testing.assert_allclose(alone[1], together[1][[7]], atol=1e-6)


@pytest.mark.parametrize(("skus", "views", "shown"), [(40, 1, 3), (3, 2, 1), (2, 1, 1)])
def test_few_skus_with_one_view_each_still_make_finite_unit_rows(skus: int, views: int, shown: int) -> None:
    catalog, train, _ = catalogue(skus, views, shown, seed=5)
    rows, biases = gaussian_fingerprints(fit_gaussian(catalog, train, SETTINGS), catalog, train, SETTINGS)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.isfinite(biases).all()


def test_the_aggregators_rows_are_weighed_in_and_the_biases_with_them() -> None:
    views, train, _ = catalogue(30, 3, 4, seed=6)
    model, aggregated = fit_gaussian(views, train, SETTINGS), unit_rows((30, DIMENSION), 7)
    rows, biases = gaussian_fingerprints(model, views, train, SETTINGS)
    both, weighed = with_gaussian(model, views, train, aggregated, SETTINGS)
    np.testing.assert_allclose(both, unit(rows + 0.5 * aggregated), atol=1e-6)
    np.testing.assert_allclose(weighed, biases / 1.5, atol=1e-7)
    without = SETTINGS.model_copy(update={"aggregator_weight": 0.0})
    np.testing.assert_allclose(with_gaussian(model, views, train, aggregated, without)[0], rows, atol=1e-6)


def test_a_saved_model_comes_back_as_it_was(tmp_path: Path) -> None:
    views, train, _ = catalogue(20, 3, 4, seed=8)
    model = fit_gaussian(views, train, SETTINGS)
    save_gaussian(model, tmp_path)
    loaded = load_gaussian(tmp_path)
    for field in fields(model):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(model, field.name))
