"""The second look: what it changes, what not, and how its weight is chosen."""

import numpy as np
import polars as pl

from skufp_pipeline.encoders.settings import LookTwiceSettings
from skufp_pipeline.query.look_twice import LookTwice, choose_weight
from skufp_pipeline.search.index import FingerprintIndex, SearchResult
from skufp_pipeline.search.patches import PatchIndex

EAST, NORTH = [127, 0], [0, 127]
PHOTO = np.array([NORTH], np.int8)


def patches(*skus: list[int]) -> PatchIndex:
    """One picture of one patch a SKU."""
    return PatchIndex(np.array(skus, np.int8)[:, None, None], np.ones(len(skus), np.uint8))


def first(*scores: float) -> SearchResult:
    return SearchResult(np.arange(len(scores)), np.array(scores))


def test_the_best_are_ranked_by_cosine_plus_weighted_maxsim() -> None:
    look = LookTwice(patches(EAST, NORTH, NORTH), 3, 0.25)
    found = look.again(first(0.9, 0.7, 0.6), PHOTO)
    assert found.rows.tolist() == [1, 0, 2]  # 0.95, 0.9, 0.85
    assert found.scores.tolist() == [0.7, 0.9, 0.6]
    assert found.maxsim.tolist() == [1.0, 0.0, 1.0]


def test_skus_after_the_best_keep_their_order_and_are_not_looked_at() -> None:
    look = LookTwice(patches(EAST, NORTH, NORTH, NORTH), 2, 1.0)
    found = look.again(first(0.9, 0.8, 0.7, 0.6), PHOTO)
    assert found.rows.tolist() == [1, 0, 2, 3]
    assert np.isnan(found.maxsim[2:]).all()


def test_ties_go_to_the_lower_row() -> None:
    look = LookTwice(patches(NORTH, NORTH, NORTH), 3, 1.0)
    result = SearchResult(np.array([2, 0, 1]), np.array([0.5, 0.5, 0.5]))
    assert look.again(result, PHOTO).rows.tolist() == [0, 1, 2]


def test_fewer_skus_than_the_second_look_takes_are_ranked_all() -> None:
    look = LookTwice(patches(EAST, NORTH), 20, 1.0)
    assert look.again(first(0.9, 0.8), PHOTO).rows.tolist() == [1, 0]
    assert look.again(first(), PHOTO).rows.tolist() == []


def weighed(settings: LookTwiceSettings, photos: int = 4, helps: bool = True) -> float:
    """Photos of SKU 1 by their patches, of SKU 0 by their vectors."""
    index = FingerprintIndex(np.eye(2, dtype=np.float32), pl.DataFrame({"sku_id": ["a", "b"]}))
    rows = np.tile(np.array([[0.8, 0.6]], np.float32), (photos, 1))
    truth = np.full(photos, 1 if helps else 0)
    seen = np.tile(PHOTO, (photos, 1, 1))
    return choose_weight(index, patches(EAST, NORTH), rows, seen, truth, settings).weight


def test_the_smallest_weight_that_ranks_development_photos_best_is_chosen() -> None:
    assert weighed(LookTwiceSettings(least_photos=2)) == 0.25  # 0.6 + 0.25 > 0.8


def test_where_it_harms_the_second_look_is_off() -> None:
    assert weighed(LookTwiceSettings(least_photos=2), helps=False) == 0


def test_with_few_photos_the_usual_weight_is_taken_and_a_set_one_always() -> None:
    assert weighed(LookTwiceSettings(least_photos=5, usual_weight=0.75)) == 0.75
    assert weighed(LookTwiceSettings(least_photos=2, weight=3.0)) == 3.0
