from pathlib import Path

import pytest

from skufp_pipeline.datasets.deepfashion2 import (
    CATEGORIES,
    DeepFashion2Settings,
    inventory,
    read_deepfashion2,
)
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.datasets.table import ITEM_ORDER, ITEM_SCHEMA, SKIPPED_SCHEMA, Catalogue
from skufp_pipeline.errors import UserError
from skufp_pipeline_tests.datasets.trees import (
    annotate,
    good_pair,
    item,
    reasons,
    truncate,
    write_image,
    write_json,
    write_png_bomb,
)


def read(root: Path, **settings: object) -> Catalogue:
    return read_deepfashion2(root, DeepFashion2Settings(**settings), SplitSettings())


def skipped_train(root: Path, **settings: object) -> dict[str, int]:
    """Reasons and counts, less the note that there are no other splits."""
    counts = reasons(read(root, **settings))
    assert counts.pop("missing_split") == 2
    return counts


def test_shop_and_user_pictures_become_catalog_and_query_rows(tmp_path: Path) -> None:
    good_pair(tmp_path, pair_id=7)
    catalogue = read(tmp_path)
    assert dict(catalogue.items.schema) == ITEM_SCHEMA
    assert dict(catalogue.skipped.schema) == SKIPPED_SCHEMA
    catalog, query = catalogue.items.rows(named=True)
    assert catalog == {
        "sku_id": "000007_01_01",
        "split": "train",
        "domain": "catalog",
        "role": "gallery",
        "image_id": "000001",
        "item_idx": 1,
        "pair_id": 7,
        "style": 1,
        "category_id": 1,
        "category_name": "short sleeve top",
        "orig_image_path": "train/image/000001.jpg",
        "bbox": [5, 10, 30, 50],
        "occlusion": 2,
        "viewpoint": 2,
        "title": None,
        "description": None,
    }
    assert (query["domain"], query["image_id"]) == ("query", "000002")
    assert query["role"] in ("train", "development", "evaluation")


def test_item10_comes_after_item2_and_keeps_its_number(tmp_path: Path) -> None:
    good_pair(tmp_path)
    items = {f"item{n}": item(bounding_box=[n, n, 30, 50]) for n in (10, 2, 1)}
    annotate(tmp_path, "000003", "user", **items)
    many = read(tmp_path).items.filter(image_id="000003")
    assert many["item_idx"].to_list() == [1, 2, 10]
    assert many["bbox"].to_list() == [[1, 1, 30, 50], [2, 2, 30, 50], [10, 10, 30, 50]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"style": 0}, "style_zero"),
        ({"category_id": 0}, "unknown_category"),
        ({"category_id": 14}, "unknown_category"),
        ({"style": None}, "missing_field"),
        ({"category_id": None}, "missing_field"),
        ({"bounding_box": None}, "missing_field"),
        ({"style": "one"}, "bad_field"),
        ({"style": 2**40}, "bad_field"),
        ({"bounding_box": [10, 10, 10, 50]}, "bbox_empty"),
        ({"bounding_box": [30, 10, 5, 50]}, "bbox_empty"),
        ({"bounding_box": [40, 0, 80, 60]}, "bbox_empty"),
        ({"bounding_box": [-9, -9, 0, 60]}, "bbox_empty"),
        ({"bounding_box": [1, 2, 3]}, "bbox_malformed"),
        ({"bounding_box": "1,2,3,4"}, "bbox_malformed"),
        ({"bounding_box": [1, 2, None, 4]}, "bbox_malformed"),
        ({"bounding_box": [1, 2, float("nan"), 4]}, "bbox_malformed"),
        ({"bounding_box": {"x1": 1}}, "bbox_malformed"),
    ],
)
def test_a_bad_item_is_skipped_with_its_reason(tmp_path: Path, changes: dict, reason: str) -> None:
    good_pair(tmp_path)
    annotate(tmp_path, "000003", "user", item1=item(), item2=item(**changes))
    catalogue = read(tmp_path)
    assert len(catalogue.items) == 3
    (row,) = catalogue.skipped.filter(reason=reason).rows(named=True)
    assert (row["split"], row["image_id"], row["item_idx"]) == ("train", "000003", 2)
    assert row["path"] == "train/image/000003.jpg"


def test_the_missing_field_is_named(tmp_path: Path) -> None:
    good_pair(tmp_path)
    annotate(tmp_path, "000003", "user", item1=item(style=None))
    detail = read(tmp_path).skipped.filter(reason="missing_field")["detail"].item()
    assert detail == "the field 'style' is missing"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"pair_id": 1, "item1": item()}, "missing_field"),
        ({"source": "user", "item1": item()}, "missing_field"),
        ({"source": "street", "pair_id": 1, "item1": item()}, "unknown_source"),
        ({"source": ["user"], "pair_id": 1, "item1": item()}, "unknown_source"),
        ({"source": "user", "pair_id": "1", "item1": item()}, "bad_field"),
        ({"source": "user", "pair_id": 10**30, "item1": item()}, "bad_field"),
        ({"source": "user", "pair_id": 1}, "no_items"),
        ([], "bad_json"),
    ],
)
def test_a_bad_annotation_is_skipped_whole(tmp_path: Path, fields: object, reason: str) -> None:
    good_pair(tmp_path)
    write_image(tmp_path / "train/image/000003.jpg")
    write_json(tmp_path, "000003", fields)
    assert skipped_train(tmp_path) == {reason: 1}


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000, '{"source": "\xff'])
def test_bad_json_is_skipped(tmp_path: Path, text: str) -> None:
    good_pair(tmp_path)
    annotate(tmp_path, "000003", "user")
    (tmp_path / "train/annos/000003.json").write_text(text, encoding="latin-1")
    catalogue = read(tmp_path)
    (row,) = catalogue.skipped.filter(reason="bad_json").rows(named=True)
    assert row["path"] == "train/annos/000003.json"
    assert row["item_idx"] is None


def test_an_annotation_without_image_is_skipped(tmp_path: Path) -> None:
    good_pair(tmp_path)
    write_json(tmp_path, "000003", {"source": "user", "pair_id": 1, "item1": item()})
    assert skipped_train(tmp_path) == {"missing_image": 1}


def test_an_image_without_annotation_is_skipped(tmp_path: Path) -> None:
    good_pair(tmp_path)
    write_image(tmp_path / "train/image/000003.jpg")
    assert skipped_train(tmp_path) == {"missing_annotation": 1}


def test_hidden_files_are_no_part_of_the_data_set(tmp_path: Path) -> None:
    good_pair(tmp_path)
    for name in ("image/._000001.jpg", "annos/._000001.json", "annos/.DS_Store"):
        (tmp_path / "train" / name).write_bytes(b"resource fork")
    assert skipped_train(tmp_path) == {}


def test_an_unreadable_image_header_is_skipped(tmp_path: Path) -> None:
    good_pair(tmp_path)
    annotate(tmp_path, "000003", "user")
    (tmp_path / "train/image/000003.jpg").write_bytes(b"not a picture")
    annotate(tmp_path, "000004", "user")
    (tmp_path / "train/image/000004.jpg").write_bytes(b"")
    assert skipped_train(tmp_path) == {"broken_image": 2}


def test_only_the_header_of_an_image_is_read(tmp_path: Path) -> None:
    good_pair(tmp_path)
    truncate(tmp_path / "train/image/000002.jpg", keep=0.99)
    assert skipped_train(tmp_path) == {}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [20_000, 10_001])
def test_a_png_bomb_is_skipped(tmp_path: Path, side: int) -> None:
    good_pair(tmp_path)
    annotate(tmp_path, "000003", "user")
    write_png_bomb(tmp_path / "train/image/000003.jpg", side, side)
    assert skipped_train(tmp_path) == {"image_too_large": 1}


def test_max_pixels_is_a_setting(tmp_path: Path) -> None:
    good_pair(tmp_path)
    annotate(tmp_path, "000003", "user")
    write_image(tmp_path / "train/image/000003.jpg", size=(82, 120))
    assert skipped_train(tmp_path, max_pixels=40 * 60) == {"image_too_large": 1}


def test_a_bbox_is_rounded_and_clipped_to_the_image(tmp_path: Path) -> None:
    good_pair(tmp_path)
    annotate(tmp_path, "000003", "user", item1=item(bounding_box=[-3.2, 4.6, 99, 59.8]))
    assert read(tmp_path).items.filter(image_id="000003")["bbox"].to_list() == [[0, 5, 40, 60]]


def test_occlusion_and_viewpoint_outside_1_to_3_are_unknown(tmp_path: Path) -> None:
    good_pair(tmp_path)
    annotate(tmp_path, "000003", "user", item1=item(occlusion=0, viewpoint=4))
    annotate(tmp_path, "000004", "user", item1=item(occlusion=None, viewpoint="2"))
    rows = read(tmp_path).items.filter(domain="query").select("occlusion", "viewpoint").rows()
    assert rows == [(2, 2), (None, None), (None, None)]


def test_category_names_come_from_the_category_id(tmp_path: Path) -> None:
    assert len(CATEGORIES) == 13
    items = {f"item{n}": item(category_id=n, category_name="?") for n in CATEGORIES}
    annotate(tmp_path, "000001", "shop", **items)
    annotate(tmp_path, "000002", "user", **items)
    found = dict(read(tmp_path).items.select("category_id", "category_name").iter_rows())
    assert found == CATEGORIES


def test_only_pairs_drops_skus_without_both_domains(tmp_path: Path) -> None:
    good_pair(tmp_path)
    annotate(tmp_path, "000003", "shop", pair_id=2)
    annotate(tmp_path, "000004", "shop", pair_id=2)
    annotate(tmp_path, "000005", "user", pair_id=3)
    assert skipped_train(tmp_path) == {"sku_without_query": 2, "sku_without_catalog": 1}
    assert set(read(tmp_path).items["sku_id"]) == {"000001_01_01"}
    assert skipped_train(tmp_path, only_pairs=False) == {}
    assert len(read(tmp_path, only_pairs=False).items) == 5


def test_queries_of_validation_skus_are_for_evaluation_only(tmp_path: Path) -> None:
    good_pair(tmp_path)
    good_pair(tmp_path, "validation", pair_id=2)
    validation = read(tmp_path).items.filter(split="validation")
    assert validation["role"].to_list() == ["gallery", "evaluation"]


def test_a_missing_validation_or_test_split_is_noted(tmp_path: Path) -> None:
    good_pair(tmp_path)
    write_image(tmp_path / "test/image/000001.jpg")
    skipped = read(tmp_path).skipped
    assert skipped["path"].to_list() == ["validation/annos", "test/annos"]
    assert set(skipped["reason"]) == {"missing_split"}
    assert read(tmp_path, splits=("train",)).skipped.is_empty()


def test_a_missing_root_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is not a folder; expected DeepFashion2's layout"):
        read(tmp_path / "nowhere")


def test_missing_train_annotations_are_a_user_error(tmp_path: Path) -> None:
    write_image(tmp_path / "train/image/000001.jpg")
    with pytest.raises(UserError, match="has no train/annos folder; expected DeepFashion2's layout"):
        read(tmp_path)
    (tmp_path / "train/annos").mkdir()
    with pytest.raises(UserError, match=r"train/annos holds no \.json file"):
        read(tmp_path)


def test_a_train_split_without_a_usable_item_says_why(tmp_path: Path) -> None:
    annotate(tmp_path, "000001", "shop", item1=item(style=0))
    with pytest.raises(UserError, match="no usable item; left out: missing_split 2, style_zero 1"):
        read(tmp_path)
    good_pair(tmp_path, "validation", pair_id=2)
    with pytest.raises(UserError, match="train holds no usable item"):
        read(tmp_path)


def test_rows_come_in_the_same_order_on_every_run(tmp_path: Path) -> None:
    for n in range(40):
        good_pair(tmp_path, pair_id=40 - n, first_id=2 * n + 1)
    first, second = read(tmp_path), read(tmp_path)
    assert first.items.equals(second.items)
    assert first.items.equals(first.items.sort(ITEM_ORDER))


def test_progress_is_told_up_to_the_last_annotation(tmp_path: Path) -> None:
    good_pair(tmp_path)
    told: list[tuple[int, int]] = []
    read_deepfashion2(
        tmp_path, DeepFashion2Settings(), SplitSettings(), lambda done, total: told.append((done, total))
    )
    assert told[-1] == (2, 2)


def test_inventory_counts_files_per_split(tmp_path: Path) -> None:
    good_pair(tmp_path)
    write_image(tmp_path / "train/image/000003.jpg")
    write_image(tmp_path / "test/image/000001.jpg")
    assert inventory(tmp_path) == {
        "train": {"images": 3, "annotations": 2},
        "validation": {"images": 0, "annotations": 0},
        "test": {"images": 1, "annotations": 0},
    }


def test_equal_pair_numbers_in_two_splits_are_different_garments(tmp_path: Path) -> None:
    good_pair(tmp_path, "train", pair_id=1)
    good_pair(tmp_path, "train", pair_id=2, first_id=3)
    good_pair(tmp_path, "validation", pair_id=1)
    good_pair(tmp_path, "validation", pair_id=5000, first_id=3)
    items = read(tmp_path).items
    assert items.group_by("split", "sku_id").len().sort("split", "sku_id").rows() == [
        ("train", "000001_01_01", 2),
        ("train", "000002_01_01", 2),
        ("validation", "validation_000001_01_01", 2),
        ("validation", "validation_005000_01_01", 2),
    ]
    assert set(items.filter(split="validation")["pair_id"]) == {1, 5000}


def test_pair_numbers_of_one_count_keep_the_reference_ids(tmp_path: Path) -> None:
    good_pair(tmp_path, "train", pair_id=1)
    good_pair(tmp_path, "validation", pair_id=2)
    assert set(read(tmp_path).items["sku_id"]) == {"000001_01_01", "000002_01_01"}


def test_every_item_of_an_image_that_is_missing_is_listed_with_its_sku(tmp_path: Path) -> None:
    good_pair(tmp_path)
    annotate(tmp_path, "000003", "shop", pair_id=9, item1=item(), item2=item(style=2), item3=item(style=0))
    (tmp_path / "train/image/000003.jpg").unlink()
    left_out = read(tmp_path).skipped.filter(image_id="000003").sort("item_idx")
    assert left_out.select("sku_id", "item_idx", "reason").rows() == [
        ("000009_01_01", 1, "missing_image"),
        ("000009_02_01", 2, "missing_image"),
        (None, 3, "style_zero"),
    ]
