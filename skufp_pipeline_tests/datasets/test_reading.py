import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skufp_pipeline.datasets.reading import (
    CHUNK,
    build_catalogue,
    clip_bbox,
    keep_first_split,
    keep_pairs,
    map_in_threads,
    skip_summary,
    skipped_row,
    whole_number,
)
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.datasets.table import ITEM_ORDER, ITEM_SCHEMA, SKIPPED_SCHEMA
from skufp_pipeline.errors import ItemError, UserError

from .trees import reasons, table


@pytest.mark.parametrize(
    ("values", "clipped"),
    [
        ([1, 2, 30, 40], [1, 2, 30, 40]),
        ([-5, -5, 99, 99], [0, 0, 40, 60]),
        ([0.4, 0.6, 39.5, 59.6], [0, 1, 40, 60]),
        ((39, 59, 40, 60), [39, 59, 40, 60]),
    ],
)
def test_boxes_are_rounded_and_clipped(values: Any, clipped: list[int]) -> None:
    assert clip_bbox(values, 40, 60) == clipped


@pytest.mark.parametrize(
    "values", [None, 3, "1234", [1, 2, 3], [1, 2, 3, "4"], [1, 2, 3, True], [0, 0, 1, 1e999]]
)
def test_what_is_not_four_finite_numbers_is_malformed(values: Any) -> None:
    with pytest.raises(ItemError) as caught:
        clip_bbox(values, 40, 60)
    assert caught.value.reason == "bbox_malformed"


@pytest.mark.parametrize(
    "values", [[5, 5, 5, 9], [9, 5, 5, 9], [40, 0, 50, 9], [-9, 0, 0, 9], [1, 1, 1.4, 3]]
)
def test_a_box_without_a_pixel_is_empty(values: list[float]) -> None:
    with pytest.raises(ItemError) as caught:
        clip_bbox(values, 40, 60)
    assert caught.value.reason == "bbox_empty"


@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4), st.integers(1, 50), st.integers(1, 50))
def test_a_clipped_box_holds_a_pixel_of_the_image(values: list[float], width: int, height: int) -> None:
    try:
        x1, y1, x2, y2 = clip_bbox(values, width, height)
    except ItemError as error:
        x1, y1, x2, y2, reason = 0, 0, 1, 1, error.reason
    else:
        reason = "bbox_empty"
    assert reason == "bbox_empty"
    assert 0 <= x1 < x2 <= width
    assert 0 <= y1 < y2 <= height


def test_threads_keep_the_order_and_tell_their_progress() -> None:
    told: list[tuple[int, int]] = []
    count = 2 * CHUNK + 1
    squares = map_in_threads(lambda n: n * n, range(count), lambda done, total: told.append((done, total)))
    assert squares == [n * n for n in range(count)]
    assert told == [(CHUNK, count), (2 * CHUNK, count), (count, count)]
    assert map_in_threads(str, []) == []


def test_an_error_in_a_thread_comes_out_and_ends_the_work() -> None:
    done: list[int] = []
    lock = threading.Lock()

    def work(number: int) -> None:
        if number == 0:
            raise ZeroDivisionError
        with lock:
            done.append(number)

    with pytest.raises(ZeroDivisionError):
        map_in_threads(work, range(100 * CHUNK), threads=1)
    assert len(done) < 100 * CHUNK


def test_a_sku_of_two_splits_is_kept_in_the_earlier() -> None:
    items = table(
        {"sku_id": "a", "split": "validation", "image_id": "1"},
        {"sku_id": "a", "split": "train", "image_id": "2"},
        {"sku_id": "b", "split": "test", "image_id": "3"},
        {"sku_id": "b", "split": "validation", "image_id": "4"},
        {"sku_id": "c", "split": "test", "image_id": "5"},
    )
    kept, skipped = keep_first_split(items)
    assert kept.select("sku_id", "split").rows() == [("a", "train"), ("b", "validation"), ("c", "test")]
    assert dict(kept.schema) == ITEM_SCHEMA
    assert skipped["reason"].to_list() == ["sku_in_two_splits"] * 2
    assert skipped["image_id"].to_list() == ["1", "3"]
    assert dict(skipped.schema) == SKIPPED_SCHEMA


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["train", "validation", "test"]))))
def test_after_it_no_sku_is_in_two_splits_and_no_row_is_lost(pairs: list[tuple[str, str]]) -> None:
    items = table(*[{"sku_id": sku_id, "split": split} for sku_id, split in pairs])
    kept, skipped = keep_first_split(items)
    assert len(kept) + len(skipped) == len(items)
    splits: dict[str, set[str]] = {}
    for sku_id, split in kept.select("sku_id", "split").iter_rows():
        splits.setdefault(sku_id, set()).add(split)
    assert all(len(found) == 1 for found in splits.values())
    assert set(splits) == {sku_id for sku_id, _ in pairs}


def test_only_skus_with_both_sides_are_pairs() -> None:
    items = table(
        {"sku_id": "both"},
        {"sku_id": "both", "domain": "query"},
        {"sku_id": "shop"},
        {"sku_id": "user", "domain": "query"},
    )
    kept, skipped = keep_pairs(items)
    assert kept["sku_id"].to_list() == ["both", "both"]
    assert skipped["reason"].to_list() == ["sku_without_query", "sku_without_catalog"]


def test_a_catalogue_is_sorted_with_roles_and_all_that_was_left_out() -> None:
    rows = table(
        {"sku_id": "b", "domain": "query", "split": "validation"},
        {"sku_id": "b", "split": "validation"},
        {"sku_id": "a"},
        {"sku_id": "a", "split": "test"},
    ).drop("role")
    gone = skipped_row("train", "9", 1, "x.jpg", ItemError("broken_image", "x.jpg cannot be decoded"))
    catalogue = build_catalogue(rows.rows(named=True), [gone], True, SplitSettings(), Path("here"))
    assert catalogue.items.select("sku_id", "role").rows() == [("b", "gallery"), ("b", "evaluation")]
    assert catalogue.items.equals(catalogue.items.sort(ITEM_ORDER))
    assert reasons(catalogue) == {"broken_image": 1, "sku_in_two_splits": 1, "sku_without_query": 1}


def test_a_catalogue_of_nothing_says_what_was_left_out() -> None:
    gone = [skipped_row("train", str(n), 1, None, ItemError("style_zero", "")) for n in range(3)]
    with pytest.raises(UserError, match="here holds no usable item; left out: style_zero 3"):
        build_catalogue([], gone, False, SplitSettings(), Path("here"))


def test_a_summary_counts_the_most_frequent_first() -> None:
    rows = [skipped_row(None, None, None, None, ItemError(reason, "")) for reason in "abbaac"]
    catalogue = build_catalogue(table({}).rows(named=True), rows, False, SplitSettings(), Path("here"))
    assert skip_summary(catalogue.skipped) == "a 3, b 2, c 1"
    assert skip_summary(catalogue.skipped.clear()) == "nothing"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({}, "missing_field"), ({"n": "3"}, "bad_field"), ({"n": True}, "bad_field"), ({"n": 11}, "bad_field")],
)
def test_a_field_that_is_no_whole_number_is_named(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ItemError, match="'n'") as caught:
        whole_number(fields, "n", 10)
    assert caught.value.reason == reason


def test_a_whole_number_is_taken() -> None:
    assert [whole_number({"n": value}, "n", 10) for value in (-10, 0, 10)] == [-10, 0, 10]
