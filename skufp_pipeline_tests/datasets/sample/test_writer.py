import hashlib
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import polars as pl
import pytest

from skufp_pipeline.datasets.sample import SampleSettings, SampleSummary, render_sample
from skufp_pipeline.datasets.sample.garments import CATEGORIES
from skufp_pipeline.datasets.sample.writer import DEGRADATION_SCHEMA
from skufp_pipeline.errors import UserError

SETTINGS = SampleSettings(
    num_skus=50, image_size=64, mean_shop_views=2, mean_user_views=2, fraction_without_query=0.1, workers=1
)
ITEM_KEYS = {
    "category_id", "category_name", "style", "bounding_box", "occlusion", "viewpoint", "scale", "zoom_in",
    "landmarks", "segmentation",
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sample") / "raw"


@pytest.fixture(scope="module")
def summary(root: Path) -> SampleSummary:
    return render_sample(SETTINGS, root)


@pytest.fixture(scope="module")
def annotations(root: Path, summary: SampleSummary) -> dict[str, dict[str, Any]]:
    """By `<split>/<image id>`."""
    files = sorted(root.glob("*/annos/*.json"))
    return {f"{file.parts[-3]}/{file.stem}": json.loads(file.read_text()) for file in files}


def items_of(annotation: dict[str, Any]) -> list[dict[str, Any]]:
    return [annotation[key] for key in sorted(annotation) if key.startswith("item")]


def bytes_under(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_settings_give_the_same_bytes_for_any_number_of_workers(
    root: Path, summary: SampleSummary, tmp_path: Path, workers: int
) -> None:
    again = render_sample(SETTINGS.model_copy(update={"workers": workers}), tmp_path)
    assert again == summary
    assert bytes_under(tmp_path) == bytes_under(root)


def test_another_seed_gives_other_pictures(root: Path, summary: SampleSummary, tmp_path: Path) -> None:
    render_sample(SETTINGS.model_copy(update={"seed": 18}), tmp_path)
    first = "train/image/000001.jpg"
    assert (tmp_path / first).read_bytes() != (root / first).read_bytes()


def test_images_and_annotations_are_numbered_alike_from_one(root: Path, summary: SampleSummary) -> None:
    assert set(summary.images) == {"train", "validation"}
    for split, count in summary.images.items():
        expected = [f"{number:06d}" for number in range(1, count + 1)]
        assert sorted(file.stem for file in (root / split / "image").glob("*.jpg")) == expected
        assert sorted(file.stem for file in (root / split / "annos").glob("*.json")) == expected


def test_pictures_have_the_size_asked_for(root: Path, summary: SampleSummary) -> None:
    for file in root.glob("*/image/*.jpg"):
        assert cv2.imread(str(file)).shape == (64, 64, 3)


def test_every_annotation_follows_deepfashion2(annotations: dict[str, dict[str, Any]]) -> None:
    for annotation in annotations.values():
        items = items_of(annotation)
        assert set(annotation) == {"source", "pair_id"} | {f"item{k + 1}" for k in range(len(items))}
        assert annotation["source"] in ("shop", "user")
        assert annotation["pair_id"] > 0
        for item in items:
            check_item(item)


def check_item(item: dict[str, Any]) -> None:
    assert set(item) == ITEM_KEYS
    category = CATEGORIES[item["category_id"]]
    assert item["category_name"] == category.name
    assert item["style"] >= 0
    assert all(item[key] in (1, 2, 3) for key in ("occlusion", "viewpoint", "scale", "zoom_in"))
    left, top, right, bottom = item["bounding_box"]
    assert -3 <= left < right <= 64 + 3
    assert -3 <= top < bottom <= 64 + 3
    assert len(item["landmarks"]) == 3 * category.landmarks
    assert set(item["landmarks"][2::3]) <= {0, 1, 2}
    assert all(0 <= place < 64 for k in (0, 1) for place in item["landmarks"][k::3])
    assert all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in item["segmentation"])


def test_splits_share_no_pair(annotations: dict[str, dict[str, Any]]) -> None:
    pairs = {split: set() for split in ("train", "validation")}
    for key, annotation in annotations.items():
        pairs[key.split("/")[0]].add(annotation["pair_id"])
    assert pairs["train"]
    assert pairs["validation"]
    assert not pairs["train"] & pairs["validation"]


def test_the_summary_counts_what_was_written(
    annotations: dict[str, dict[str, Any]], summary: SampleSummary
) -> None:
    items = [item for annotation in annotations.values() for item in items_of(annotation)]
    sources = Counter(annotation["source"] for annotation in annotations.values())
    assert (summary.shop_images, summary.user_images) == (sources["shop"], sources["user"])
    assert summary.items == len(items)
    assert summary.style_zero_items == sum(item["style"] == 0 for item in items) > 0
    assert summary.two_item_images == sum(len(items_of(a)) == 2 for a in annotations.values()) > 0
    assert summary.pairs == len({annotation["pair_id"] for annotation in annotations.values()})


def test_every_sku_has_a_shop_view_and_some_have_no_query(
    annotations: dict[str, dict[str, Any]], summary: SampleSummary
) -> None:
    skus: dict[str, set[tuple[int, int, int]]] = {"shop": set(), "user": set()}
    for annotation in annotations.values():
        for item in items_of(annotation):
            if item["style"] > 0:
                sku = (annotation["pair_id"], item["style"], item["category_id"])
                skus[annotation["source"]].add(sku)
    assert len(skus["shop"]) == summary.skus == 50
    assert len(skus["user"]) == summary.skus_with_query < 50
    assert skus["user"] < skus["shop"]


def test_an_image_of_two_skus_shares_their_pair(annotations: dict[str, dict[str, Any]]) -> None:
    both = [a for a in annotations.values() if len(items_of(a)) == 2 and a["item2"]["style"] > 0]
    assert both
    assert all(annotation["item1"]["style"] != annotation["item2"]["style"] for annotation in both)


def test_every_customers_photo_has_its_degradations_and_no_shops_photo_has(
    root: Path, annotations: dict[str, dict[str, Any]], summary: SampleSummary
) -> None:
    table = pl.read_parquet(root / "degradations" / "*.parquet")
    assert table.schema == pl.Schema(DEGRADATION_SCHEMA)
    named = [f"{split}/{image_id}" for split, image_id in table.select("split", "image_id").iter_rows()]
    assert sorted(named) == sorted(key for key, a in annotations.items() if a["source"] == "user")
    assert table["severity"].is_between(0, 1.5).all()
    assert table["hidden"].is_between(0, 1).all()
    assert table["outside"].is_between(0, 0.66).all()  # MINIMUM_IN_FRAME of the landmarks are inside
    assert table["jpeg_quality"].is_between(30, 80).all()
    hard = table.filter(pl.col("severity") > table["severity"].median())
    assert hard["noise"].mean() > table["noise"].mean()


def test_image_numbers_do_not_follow_the_skus(annotations: dict[str, dict[str, Any]]) -> None:
    pairs = [annotation["pair_id"] for key, annotation in annotations.items() if key.startswith("train/")]
    neighbours_alike = sum(a == b for a, b in pairwise(pairs))
    assert neighbours_alike < 0.2 * len(pairs)


def test_a_larger_data_set_keeps_the_pictures_of_the_first_skus(
    root: Path, summary: SampleSummary, tmp_path: Path
) -> None:
    render_sample(SETTINGS.model_copy(update={"num_skus": 60}), tmp_path)
    small, large = (pictures_by_pair(folder) for folder in (root, tmp_path))
    assert len(small) < len(large)
    assert all(large[pair] == pictures for pair, pictures in small.items())


def pictures_by_pair(root: Path) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for file in root.glob("*/annos/*.json"):
        picture = root / file.parts[-3] / "image" / f"{file.stem}.jpg"
        digest = hashlib.sha256(picture.read_bytes()).hexdigest()
        found.setdefault(json.loads(file.read_text())["pair_id"], set()).add(digest)
    return found


def test_progress_ends_at_the_number_of_images(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    done = render_sample(SETTINGS, tmp_path, progress=lambda written, total: calls.append((written, total)))
    total = sum(done.images.values())
    assert calls[-1] == (total, total)
    assert [written for written, _ in calls] == sorted(written for written, _ in calls)


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="empty directory"):
        render_sample(SETTINGS, tmp_path)
