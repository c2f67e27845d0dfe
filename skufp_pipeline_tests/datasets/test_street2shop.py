"""Street2Shop's layout is read whole: its quirks are listed, and no street photo is in two places."""

import json
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skufp_pipeline.datasets.street2shop import META, PHOTOS, Pair, Shot, Street2ShopSettings, part_pairs
from skufp_pipeline.errors import UserError
from skufp_pipeline.hashing import stable_fraction

from .street2shop_worlds import pair, picture, read, shots, small_world, write_photo, write_world
from .trees import reasons


def skus(items: pl.DataFrame, split: str, domain: str) -> set[str]:
    return set(items.filter((pl.col("split") == split) & (pl.col("domain") == domain))["sku_id"])


def test_pairs_are_queries_with_their_box_and_retrieval_photos_whole_catalogue_views(tmp_path: Path) -> None:
    found = read(small_world(tmp_path))
    assert found.skipped.is_empty()
    query, view = (
        found.items.filter((pl.col("sku_id") == "dresses_2") & (pl.col("domain") == domain)).row(
            0, named=True
        )
        for domain in ("query", "catalog")
    )
    assert (query["image_id"], query["bbox"], query["role"]) == ("000000002", [4, 5, 14, 25], "evaluation")
    assert (view["orig_image_path"], view["bbox"]) == ("photos/000000012.png", [0, 0, 20, 30])
    assert set(found.items["category_name"]) == {"dresses"}


def test_test_products_and_distractors_are_never_trained_on(tmp_path: Path) -> None:
    items = read(small_world(tmp_path)).items
    assert skus(items, "train", "catalog") == skus(items, "train", "query") == {"dresses_1"}
    assert skus(items, "validation", "catalog") == {"dresses_2", "dresses_3"}
    assert skus(items, "validation", "query") == {"dresses_2"}


def test_distractors_are_left_out_where_only_pairs_are_wanted(tmp_path: Path) -> None:
    found = read(small_world(tmp_path), only_pairs=True)
    assert set(found.items["sku_id"]) == {"dresses_1", "dresses_2"}
    assert reasons(found) == {"sku_without_query": 2}


def test_the_same_number_in_two_categories_is_two_products(tmp_path: Path) -> None:
    root = small_world(tmp_path, retrieval_bags=shots((21, 1)), train_pairs_bags=[], test_pairs_bags=[])
    assert {"bags_1", "dresses_1"} <= set(read(root).items["sku_id"])


def test_photos_are_found_in_folders_and_with_any_suffix(tmp_path: Path) -> None:
    root = small_world(tmp_path)
    write_photo(root, 1).rename(root / PHOTOS / "000000001.jpeg")
    (root / PHOTOS / "deep").mkdir()
    (root / PHOTOS / "000000012.png").rename(root / PHOTOS / "deep" / "000000012.webp")
    found = read(root)
    assert {"photos/000000001.jpeg", "photos/deep/000000012.webp"} <= set(found.items["orig_image_path"])


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (pair(1, 1, bbox=None), "bbox_malformed"),
        (pair(1, 1, bbox={"top": 1, "left": 2}), "bbox_malformed"),
        (pair(1, 1, bbox={"width": "9", "top": 1, "height": 4, "left": 2}), "bbox_malformed"),
        (pair(1, 1, bbox={"width": 0, "top": 1, "height": 4, "left": 2}), "bbox_empty"),
        (pair(1, 1, bbox={"width": 5, "top": 50, "height": 4, "left": 2}), "bbox_empty"),
        ({"product": 1, "bbox": {}}, "missing_field"),
        (pair(1, "one"), "bad_field"),
        (pair(-1, 1), "bad_field"),
        ("no entry", "missing_field"),
        (pair(1, 99), "product_not_listed"),
        (pair(77, 1), "missing_image"),
        (pair(78, 1), "broken_image"),
        (pair(1, 4), "no_catalog_photo"),
        (pair(13, 1), "photo_in_both_domains"),
        (pair(5, 1), "duplicate_row"),
    ],
)  # fmt: skip
def test_an_unusable_pair_is_listed_and_the_others_are_kept(tmp_path: Path, entry: Any, reason: str) -> None:
    retrieval = shots((11, 1), (12, 2), (13, 3), (79, 4))
    root = small_world(tmp_path, train_pairs_dresses=[pair(5, 1), entry], retrieval_dresses=retrieval)
    (root / PHOTOS / "000000077.png").unlink(missing_ok=True)
    (root / PHOTOS / "000000079.png").unlink()
    write_photo(root, 78, content=b"no picture")
    found = read(root)
    queries = found.items.filter(pl.col("domain") == "query")
    assert queries["image_id"].to_list() == ["000000005", "000000002"]
    assert reasons(found) == {"missing_image": 1} | {reason: 2 if reason == "missing_image" else 1}


def test_a_box_that_leaves_the_picture_is_clipped(tmp_path: Path) -> None:
    box = {"width": 100, "top": -5, "height": 20, "left": 4}
    items = read(small_world(tmp_path, train_pairs_dresses=[pair(1, 1, bbox=box)])).items
    assert items.filter(pl.col("image_id") == "000000001")["bbox"].to_list() == [[4, 0, 20, 15]]


def test_a_missing_photo_is_told_with_its_address(tmp_path: Path) -> None:
    root = small_world(tmp_path)
    (root / PHOTOS / "000000014.png").unlink()
    (root / PHOTOS / "photos.txt").write_text("000000014,http://shop.example/14.jpg\n\nnonsense\n")
    (row,) = read(root).skipped.to_dicts()
    assert (row["reason"], row["sku_id"], row["image_id"]) == ("missing_image", "dresses_3", "000000014")
    assert "http://shop.example/14.jpg" in row["detail"]


def test_a_dozen_boxes_of_one_photo_are_a_dozen_items(tmp_path: Path) -> None:
    boxes = [{"width": 3, "top": top, "height": 3, "left": 1} for top in range(12)]
    root = small_world(tmp_path, train_pairs_dresses=[pair(1, 1, bbox=box) for box in boxes])
    items = read(root).items.filter(pl.col("image_id") == "000000001")
    assert items["item_idx"].to_list() == list(range(1, 13))
    assert items["role"].n_unique() == 1


def test_one_catalogue_photo_of_two_products_is_a_view_of_each_and_told(tmp_path: Path) -> None:
    found = read(small_world(tmp_path, retrieval_dresses=shots((11, 1), (12, 2), (12, 3))))
    assert found.items.filter(pl.col("image_id") == "000000012", pl.col("domain") == "catalog").height == 2
    assert any("1 catalogue photos show several products" in line for line in found.warnings)


def test_a_file_that_is_no_list_is_told_and_the_other_files_are_read(tmp_path: Path) -> None:
    root = small_world(tmp_path, train_pairs_bags='[{"photo": 1', retrieval_bags="{}", test_pairs_bags=[])
    found = read(root)
    assert reasons(found) == {"bad_json": 2}
    assert sum("all of its entries are lost" in line for line in found.warnings) == 2
    assert found.items.height == 6


def test_an_unknown_category_and_a_missing_file_are_listed(tmp_path: Path) -> None:
    root = small_world(tmp_path, retrieval_socks=shots((31, 1)), retrieval_hats=shots((32, 1)))
    found = read(root)
    assert reasons(found) == {"unknown_category": 1, "missing_file": 2}
    assert set(found.skipped["path"]) == {
        f"{META}/{name}_hats.json" for name in ("train_pairs", "test_pairs")
    } | {f"{META}/retrieval_socks.json"}


def test_only_the_wanted_categories_are_read(tmp_path: Path) -> None:
    root = small_world(tmp_path, retrieval_hats=shots((32, 1)), train_pairs_hats=[], test_pairs_hats=[])
    assert set(read(root, categories=["dresses"]).items["category_name"]) == {"dresses"}


@pytest.mark.parametrize("missing", [META, Path(PHOTOS)])
def test_a_folder_of_another_layout_is_refused(tmp_path: Path, missing: Path) -> None:
    root = small_world(tmp_path)
    (root / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="expected Street2Shop's layout"):
        read(root)


def test_a_data_set_without_a_training_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no usable training pair"):
        read(small_world(tmp_path, train_pairs_dresses=[]))


def test_a_street_photo_of_the_test_leaves_training(tmp_path: Path) -> None:
    root = small_world(
        tmp_path,
        train_pairs_dresses=[pair(1, 1), pair(2, 1), pair(3, 1)],
        retrieval_dresses=shots((11, 1), (12, 2)),
    )
    write_photo(root, 3, content=picture(2))  # the test's photo under another number
    found = read(root)
    assert skus(found.items, "train", "query") == {"dresses_1"}
    assert found.items.filter(pl.col("domain") == "query")["image_id"].to_list() == ["000000001", "000000002"]
    assert reasons(found) == {"photo_in_two_splits": 2}


def test_a_product_of_the_test_leaves_training(tmp_path: Path) -> None:
    found = read(small_world(tmp_path, train_pairs_dresses=[pair(1, 1), pair(4, 2)]))
    assert skus(found.items, "validation", "query") == {"dresses_2"}
    assert found.items.filter(pl.col("sku_id") == "dresses_2")["split"].unique().to_list() == ["validation"]
    assert reasons(found) == {"sku_in_two_splits": 1}


def test_without_test_pairs_products_that_share_a_photo_are_parted_together() -> None:
    def chain(name: str) -> list[Pair]:
        """Three products, linked by two photos."""
        places = [(f"{name}-p", "a"), (f"{name}-p", "b"), (f"{name}-q", "b"), (f"{name}-q", "c")]
        return [Pair(photo, f"{name}_{sku}", (0, 0, 1, 1), "train", "hats") for photo, sku in places]

    pairs = [one for number in range(40) for one in chain(f"{number:02d}")]
    listed = [Shot("shop", one.sku_id, "hats") for one in pairs]
    split_of = part_pairs(pairs, listed, 0.4).split_of
    by_chain = defaultdict(set)
    for sku_id, split in split_of.items():
        by_chain[sku_id[:2]].add(split)
    assert {len(splits) for splits in by_chain.values()} == {1}
    assert {name for name, splits in by_chain.items() if splits == {"validation"}} == {
        name for name in by_chain if stable_fraction(f"{name}_a", "street2shop-split") < 0.4
    }
    assert set(split_of.values()) == {"train", "validation"}


# A small world: pairs of (photo, product), and which bytes each photo has.
PAIRS = st.lists(st.tuples(st.integers(1, 8), st.integers(1, 6)), max_size=12)
LISTED = (*range(1, 7), 10)  # products
CONTENTS = st.lists(st.integers(1, 8), min_size=8, max_size=8)


@settings(max_examples=40)
@given(train=PAIRS, test=PAIRS, contents=CONTENTS, shared=st.sets(st.integers(1, 8), max_size=2))
def test_no_street_photo_is_in_two_splits_roles_or_domains(
    train: list[tuple[int, int]], test: list[tuple[int, int]], contents: list[int], shared: set[int]
) -> None:
    with TemporaryDirectory() as folder:
        root = write_world(
            Path(folder),
            photos=False,
            train_pairs_tops=[pair(*one) for one in [*train, (50, 10)]],  # by its hash always of training
            test_pairs_tops=[pair(*one) for one in test],
            retrieval_tops=shots(*((100 + n, n) for n in LISTED), *((photo, 1) for photo in shared)),
        )
        for number, content in enumerate(contents, start=1):
            write_photo(root, number, content=picture(content))
        for number in (50, *(100 + n for n in LISTED)):
            write_photo(root, number)
        found = read(root, validation_fraction=0.8)  # used where there are no test pairs
        bytes_of = {path.stem: path.read_bytes() for path in (root / PHOTOS).iterdir()}
    places = defaultdict(set)
    for row in found.items.iter_rows(named=True):
        places[bytes_of[row["image_id"]]].add((row["split"], row["role"], row["domain"]))
    assert all(len(seen) == 1 for seen in places.values() if any(place[2] == "query" for place in seen))
    assert found.items.group_by("sku_id").agg(pl.col("split").n_unique())["split"].max() == 1
    written = len(train) + len(test) + 1 + len(LISTED) + len(shared)
    assert found.items.height + found.skipped.height == written


def test_a_larger_ratio_contains_a_smaller_one_item_by_item(tmp_path: Path) -> None:
    products = range(1, 61)
    root = write_world(
        tmp_path,
        train_pairs_hats=[pair(100 + n // 2, n) for n in products if n % 3 == 0],
        test_pairs_hats=[pair(500 + n // 2, n) for n in products if n % 3 == 1],
        retrieval_hats=shots(*((1000 + n, n) for n in products)),
    )
    found = {ratio: read(root, ratio=ratio).items for ratio in (0.3, 0.6, 1.0)}
    assert found[0.3].height < found[0.6].height < found[1.0].height
    for smaller, larger in ((0.3, 0.6), (0.6, 1.0)):
        both = found[smaller].join(found[larger], on=found[larger].columns, how="semi", nulls_equal=True)
        assert both.height == found[smaller].height
    everyone = found[1.0]["sku_id"].unique()
    chosen = {sku for sku in everyone if stable_fraction(sku, "street2shop-ratio") < 0.6}
    assert set(found[0.6]["sku_id"]) == chosen
    distractors = {f"hats_{n}" for n in products if n % 3 == 2}
    assert 0.3 < len(chosen & distractors) / len(distractors) < 0.9


def test_a_ratio_is_told(tmp_path: Path) -> None:
    root = write_world(
        tmp_path,
        train_pairs_hats=[pair(n, n) for n in range(1, 30)],
        test_pairs_hats=[pair(40, 40)],
        retrieval_hats=shots(*((100 + n, n) for n in (*range(1, 30), 40))),
    )
    (told,) = read(root, ratio=0.5).warnings
    assert "of 30 products are read" in told


def test_what_is_read_does_not_depend_on_the_order_of_entries(tmp_path: Path) -> None:
    entries = [
        pair(1, 1),
        pair(1, 3),
        pair(3, 1),
        pair(1, 1, bbox={"width": 2, "top": 1, "height": 2, "left": 1}),
    ]
    first = read(small_world(tmp_path, train_pairs_dresses=entries)).items
    (tmp_path / META / "train_pairs_dresses.json").write_text(json.dumps(entries[::-1]))
    assert read(tmp_path).items.equals(first)


def test_a_setting_that_reads_nothing_is_refused() -> None:
    for wrong in ({"ratio": 0}, {"categories": []}, {"categories": ["socks"]}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Street2ShopSettings.model_validate(wrong)
