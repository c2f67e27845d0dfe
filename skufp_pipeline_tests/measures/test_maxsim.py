"""MaxSim by hand, its direction, and that it is exact."""

import numpy as np
import pytest

from skufp_pipeline.measures.maxsim import LARGEST_DIMENSION, maxsim, similarities

EAST, NORTH, WEST = [127, 0], [0, 127], [-127, 0]


def patches(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.int8)


def test_each_patch_of_a_picture_takes_its_best_patch_of_the_photo() -> None:
    photo = patches(EAST, WEST)
    pictures = np.stack([patches(EAST, EAST), patches(EAST, NORTH), patches(NORTH, NORTH)])[:, None]
    assert maxsim(photo, pictures, np.ones(3, int)).tolist() == [1.0, 0.5, 0.0]


def test_what_else_is_in_the_photo_costs_nothing() -> None:
    picture = patches(EAST)[None, None]
    clutter = patches(EAST, WEST, NORTH, NORTH)
    assert maxsim(clutter, picture, np.ones(1, int)) == maxsim(patches(EAST), picture, np.ones(1, int))


def test_a_sku_has_the_score_of_its_best_picture_and_of_none_that_it_lacks() -> None:
    views = np.stack([np.stack([patches(NORTH), patches(EAST)]), np.stack([patches(NORTH), patches(EAST)])])
    assert maxsim(patches(EAST), views, np.array([2, 1])).tolist() == [1.0, 0.0]


def test_it_equals_whole_numbers_on_any_patches() -> None:
    rng = np.random.default_rng(0)
    photo = rng.integers(-127, 128, (7, 64), np.int8)
    views = rng.integers(-127, 128, (5, 3, 9, 64), np.int8)
    counts = rng.integers(1, 4, 5)
    products = np.einsum("nvcd,pd->nvcp", views.astype(np.int64), photo.astype(np.int64)).max(axis=3)
    expected = [products[sku, : counts[sku]].sum(axis=1).max() / (9 * 127**2) for sku in range(5)]
    assert maxsim(photo, views, counts).tolist() == expected


def test_the_largest_products_are_exact() -> None:
    long = np.full((1, LARGEST_DIMENSION), 127, np.int8)
    assert similarities(long, long).item() == LARGEST_DIMENSION * 127**2


@pytest.mark.parametrize("dimension", [3, LARGEST_DIMENSION + 1])
def test_patches_that_can_t_be_compared_are_refused(dimension: int) -> None:
    with pytest.raises(ValueError, match="can't be compared"):
        maxsim(np.zeros((1, dimension), np.int8), np.zeros((1, 1, 1, 2), np.int8), np.ones(1, int))
