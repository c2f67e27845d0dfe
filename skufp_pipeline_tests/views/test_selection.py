"""Stable choices: of SKUs for a budget, of views of a SKU, of what is held out."""

from itertools import pairwise

import polars as pl

from skufp_pipeline.views.selection import budget, first_views, parted, sampled

from .examples import catalogue

SKUS = [f"s{n}" for n in range(50)]


def test_a_larger_budget_holds_every_smaller_one() -> None:
    chosen = [set(budget(SKUS, limit, "salt")) for limit in (0, 3, 10, 49, 99, None)]
    assert [len(skus) for skus in chosen] == [0, 3, 10, 49, 50, 50]
    assert all(small <= large for small, large in pairwise(chosen))


def test_a_new_sku_moves_at_most_one_out_of_the_budget() -> None:
    before, after = (set(budget(skus, 10, "salt")) for skus in (SKUS, [*SKUS, "new"]))
    assert len(before - after) <= 1


def test_the_order_of_skus_does_not_matter_and_the_salt_does() -> None:
    assert budget(SKUS[::-1], 10, "a") == budget(SKUS, 10, "a") != budget(SKUS, 10, "b")


def test_first_views_are_the_first_of_each_sku(tmp_path) -> None:
    views = catalogue(tmp_path, skus=2, views=3)
    assert first_views(views, 2)["item_id"].to_list() == [f"train/i{s}{v}_item1" for s in "01" for v in "01"]


def test_the_adapter_learns_from_training_skus_and_others_are_held_out(tmp_path) -> None:
    views = catalogue(tmp_path, skus=6, splits=("train", "validation"))
    training, held_out = parted(views, 2)
    assert set(training["split"]) == {"train"}
    assert training["sku_id"].n_unique() == 2
    assert set(held_out["sku_id"]) == {"s1", "s3", "s5"}


def test_without_other_splits_the_training_skus_that_are_left_are_held_out(tmp_path) -> None:
    training, held_out = parted(catalogue(tmp_path, skus=5), 2)
    assert training["sku_id"].n_unique() == 2
    assert held_out["sku_id"].n_unique() == 3
    assert set(training["sku_id"]).isdisjoint(held_out["sku_id"])


def test_a_sample_is_one_view_of_each_of_some_skus(tmp_path) -> None:
    sample = sampled(catalogue(tmp_path, skus=6), 4)
    assert sample.height == sample["sku_id"].n_unique() == 4
    assert sample.filter(~pl.col("item_id").str.ends_with("0_item1")).height == 0
