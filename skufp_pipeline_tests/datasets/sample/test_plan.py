from collections import Counter

import numpy as np
import pytest

from skufp_pipeline.datasets.sample import SampleSettings
from skufp_pipeline.datasets.sample.garments import LOWER, UPPER, sku_garment
from skufp_pipeline.datasets.sample.plan import Pair, design_of, plan_pairs, plan_shots

SETTINGS = SampleSettings(num_skus=2000, test_fraction=0.1)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return list(plan_pairs(SETTINGS))


def test_every_sku_is_in_exactly_one_pair(pairs: list[Pair]) -> None:
    indexes = [sku.index for pair in pairs for sku in pair.skus]
    assert sorted(indexes) == list(range(2000))


def test_pair_ids_are_unique_and_styles_count_from_one(pairs: list[Pair]) -> None:
    assert len({pair.pair_id for pair in pairs}) == len(pairs)
    for pair in pairs:
        assert [sku.style for sku in pair.skus] == list(range(1, len(pair.skus) + 1))


def test_splits_have_the_fractions_asked_for(pairs: list[Pair]) -> None:
    skus = Counter({"train": 0})
    for pair in pairs:
        skus[pair.split] += len(pair.skus)
    assert skus["train"] / 2000 == pytest.approx(0.6, abs=0.02)
    assert skus["validation"] / 2000 == pytest.approx(0.3, abs=0.02)
    assert skus["test"] / 2000 == pytest.approx(0.1, abs=0.02)


def test_variants_of_a_design_stay_in_one_split(pairs: list[Pair]) -> None:
    splits: dict[tuple[int, int], set[str]] = {}
    for pair in pairs:
        for sku in pair.skus:
            block, side, _ = design_of(sku.index, SETTINGS.variants)
            splits.setdefault((block, side), set()).add(pair.split)
    assert all(len(found) == 1 for found in splits.values())


def test_the_smallest_data_set_has_both_splits() -> None:
    for seed in range(5):
        splits = {pair.split for pair in plan_pairs(SampleSettings(num_skus=50, seed=seed))}
        assert splits == {"train", "validation"}


def test_partners_are_mutual_and_an_upper_with_a_lower_garment(pairs: list[Pair]) -> None:
    partners = {sku.index: sku.partner for pair in pairs for sku in pair.skus}
    together = [(index, partner) for index, partner in partners.items() if partner is not None]
    assert 0.3 < len(together) / 2000 < 0.7
    for index, partner in together[:200]:
        assert partners[partner] == index
        categories = {sku_garment(SETTINGS, k).category_id for k in (index, partner)}
        assert len(categories & set(UPPER)) == 1
        assert len(categories & set(LOWER)) == 1


def test_view_counts_have_a_heavy_tail(pairs: list[Pair]) -> None:
    shots = [shot for pair in pairs for shot in plan_shots(SETTINGS, pair) if not shot.is_stray]
    shop = np.array(list(Counter(shot.sku.index for shot in shots if shot.source == "shop").values()))
    user = np.array(list(Counter(shot.sku.index for shot in shots if shot.source == "user").values()))
    assert len(shop) == 2000, "every SKU has a shop view"
    assert shop.mean() == pytest.approx(4, abs=0.3)
    assert shop.max() == 12
    assert user.mean() == pytest.approx(8, abs=0.6)
    assert np.median(user) < user.mean()
    assert user.max() > 3 * user.mean()
    assert 1 - len(user) / 2000 == pytest.approx(0.03, abs=0.015), "some SKUs have no query"


def test_no_query_at_all_when_every_sku_is_without() -> None:
    settings = SampleSettings(num_skus=50, fraction_without_query=1)
    sources = {shot.source for pair in plan_pairs(settings) for shot in plan_shots(settings, pair)}
    assert sources == {"shop"}
