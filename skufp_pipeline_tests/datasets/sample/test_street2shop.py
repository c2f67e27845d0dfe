"""The miniature is Street2Shop in small: categories, distractors, photos of two products."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from skufp_pipeline.datasets.sample import SampleSettings
from skufp_pipeline.datasets.sample.plan import has_query
from skufp_pipeline.datasets.sample.street2shop import MiniatureSummary, category_of, render_street2shop
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.datasets.street2shop import META, Street2ShopSettings, read_street2shop
from skufp_pipeline.errors import UserError

SETTINGS = SampleSettings(
    num_skus=50,
    image_size=32,
    mean_shop_views=1.2,
    mean_user_views=1.2,
    fraction_without_query=0.3,
    two_item_fraction=0.4,
    train_fraction=0.5,
    workers=1,
)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MiniatureSummary]:
    root = tmp_path_factory.mktemp("street2shop")
    return root, render_street2shop(SETTINGS, root)


def lists(root: Path, kind: str) -> list[dict[str, Any]]:
    return [
        entry
        for path in sorted((root / META).glob(f"{kind}_*.json"))
        for entry in json.loads(path.read_text())
    ]


def test_each_of_deepfashion2s_categories_is_one_of_street2shops() -> None:
    tops, outerwear, pants, dresses = ["tops"] * 2, ["outerwear"] * 2, ["pants"] * 2, ["dresses"] * 4
    found = [category_of(category_id) for category_id in range(1, 14)]
    assert found == [*tops, *outerwear, *tops, *pants, "skirts", *dresses]


def test_its_summary_counts_what_it_wrote(rendered: tuple[Path, MiniatureSummary]) -> None:
    root, summary = rendered
    photos = list((root / "photos").glob("*.jpg"))
    addresses = (root / "photos" / "photos.txt").read_text().splitlines()
    assert len(photos) == summary.shop_photos + summary.street_photos == len(addresses)
    assert addresses[0] == "000000001,https://photos.example.com/000000001.jpg"
    assert len(lists(root, "train_pairs")) == summary.train_pairs > 0
    assert len(lists(root, "test_pairs")) == summary.test_pairs > 0
    assert {entry["product"] for entry in lists(root, "retrieval")} == set(range(1, 51))


def test_every_distractor_is_in_a_retrieval_file_alone(rendered: tuple[Path, MiniatureSummary]) -> None:
    root, summary = rendered
    paired = {entry["product"] for kind in ("train_pairs", "test_pairs") for entry in lists(root, kind)}
    alone = {number for number in range(1, 51) if not has_query(SETTINGS, number - 1)}
    assert len(alone) == summary.distractors > 5
    assert not paired & alone


def test_some_street_photos_show_two_products(rendered: tuple[Path, MiniatureSummary]) -> None:
    shown = Counter(entry["photo"] for entry in lists(rendered[0], "train_pairs"))
    assert max(shown.values()) == 2


def test_all_of_it_is_read_in_several_categories(rendered: tuple[Path, MiniatureSummary]) -> None:
    root, summary = rendered
    found = read_street2shop(root, Street2ShopSettings(), SplitSettings())
    assert found.skipped.is_empty()
    assert found.items.height == summary.shop_photos + summary.train_pairs + summary.test_pairs
    assert found.items["category_name"].n_unique() >= 3
    assert found.warnings == ()


def test_the_same_settings_give_the_same_bytes(
    rendered: tuple[Path, MiniatureSummary], tmp_path: Path
) -> None:
    render_street2shop(SETTINGS, tmp_path / "again")
    files = sorted(path.relative_to(rendered[0]) for path in rendered[0].rglob("*") if path.is_file())
    assert files == sorted(
        path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()
    )
    assert all(
        (rendered[0] / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files
    )


def test_a_used_directory_is_refused(rendered: tuple[Path, MiniatureSummary]) -> None:
    with pytest.raises(UserError, match="needs an empty directory"):
        render_street2shop(SETTINGS, rendered[0])
