"""An index of three products judged with photos whose colours say what they are embedded as."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from skufp_pipeline.datasets.manifest import ManifestSettings, read_photos
from skufp_pipeline.datasets.reading import Row
from skufp_pipeline.errors import UserError
from skufp_pipeline.evaluation.photos import (
    WITHOUT,
    PhotoReport,
    judge_photos,
    photos_to_judge,
    text_report,
)
from skufp_pipeline.hashing import file_digest
from skufp_pipeline.policy.actions import ACTIONS
from skufp_pipeline.policy.network import Calibration, Policy, PolicyNetwork
from skufp_pipeline.policy.settings import ActionSettings
from skufp_pipeline.query.engine import QueryEngine
from skufp_pipeline.search.index import FingerprintIndex

from ..datasets.trees import truncate

SKUS = ("red", "green", "blue")  # their fingerprints are the three axes
NOTHING_USED = pl.DataFrame(schema={"role": pl.String(), "image_digest": pl.String()})


class MeanColour:
    """Embeds a photo as its mean colour."""

    dimension = 3

    def preprocess(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(np.asarray(image, np.float32)).mean(dim=(0, 1))

    def embed_pixels(self, pixels: Tensor) -> NDArray[np.float32]:
        rows = pixels.numpy()
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def an_index(biases: tuple[float, ...] = (0, 0, 0)) -> FingerprintIndex:
    return FingerprintIndex(np.eye(3, dtype=np.float32), pl.DataFrame({"sku_id": SKUS})).with_biases(biases)


def an_engine(index: FingerprintIndex | None = None, policy: Policy | None = None) -> QueryEngine:
    encoder = MeanColour()
    return QueryEngine(index or an_index(), encoder, encoder, policy)  # type: ignore[arg-type]


def a_list(folder: Path, photos: Mapping[str, tuple[str, tuple[int, int, int]]], **boxes: str) -> Path:
    """Photos of one colour each, by name: the SKU that the list says, and the colour."""
    rows: list[Row] = []
    for name, (sku_id, colour) in photos.items():
        Image.new("RGB", (20, 10), colour).save(folder / f"{name}.png")
        rows.append({"sku_id": sku_id, "image_path": f"{name}.png", "bbox": boxes.get(name, "")})
    pl.DataFrame(rows).write_csv(folder / "photos.csv", separator=";")
    return folder / "photos.csv"


def judged(path: Path, engine: QueryEngine, used: pl.DataFrame = NOTHING_USED) -> PhotoReport:
    found = read_photos(path, ManifestSettings(path=str(path)))
    return judge_photos(engine, photos_to_judge(found, path.parent, used), seed=3, resamples=200)


FOUR = {
    "first": ("red", (200, 20, 10)),
    "second": ("green", (200, 100, 10)),
    "third": ("blue", (200, 100, 50)),
    "again": ("red", (90, 30, 20)),
}


def test_ranks_are_among_all_products_and_by_photo(tmp_path: Path) -> None:
    report = judged(a_list(tmp_path, FOUR), an_engine())
    ranks = dict(report.table.select("image_path", "rank").iter_rows())
    assert ranks == {"first.png": 1, "second.png": 2, "third.png": 3, "again.png": 1}
    assert report.table["found"].unique().to_list() == ["red"]
    assert report.metrics == {
        "recall@1": 0.5,
        "recall@5": 1.0,
        "recall@10": 1.0,
        "mrr": pytest.approx((1 + 1 / 2 + 1 / 3 + 1) / 4),
    }
    assert report.skus == 3


def test_a_tie_counts_against_the_right_product(tmp_path: Path) -> None:
    report = judged(a_list(tmp_path, {"grey": ("red", (90, 90, 90))}), an_engine())
    assert report.table["rank"].to_list() == [3]


def test_biases_of_the_index_count_as_in_a_search(tmp_path: Path) -> None:
    path = a_list(tmp_path, {"second": FOUR["second"]})
    assert judged(path, an_engine(an_index((0, 0.9, 0)))).table["rank"].to_list() == [1]


def test_a_removed_product_is_not_searched(tmp_path: Path) -> None:
    report = judged(a_list(tmp_path, FOUR), an_engine(an_index().remove(["red"])))
    assert report.skus == 2
    assert report.unknown_skus() == ["red"]
    ranks = dict(report.table.select("image_path", "rank").iter_rows())
    assert ranks == {"first.png": None, "second.png": 1, "third.png": 2, "again.png": None}
    assert report.metrics["recall@1"] == 0.25
    assert report.metrics["mrr"] == pytest.approx((1 + 1 / 2) / 4)


def test_intervals_resample_products_not_photos(tmp_path: Path) -> None:
    """All photos of one product: however many they are, a resample is the same."""
    photos = {f"{n}": ("red", (200, 20, 10) if n % 2 else (20, 200, 10)) for n in range(8)}
    report = judged(a_list(tmp_path, photos), an_engine())
    assert report.intervals["recall@1"] == (0.5, 0.5)
    low, high = judged(a_list(tmp_path, FOUR), an_engine()).intervals["recall@1"]
    assert low == 0.0
    assert high == 1.0


def test_a_box_is_cut_out_before_it_is_asked_for(tmp_path: Path) -> None:
    path = a_list(tmp_path, {"both": ("green", (200, 0, 0))}, both="0,0,5,10")
    with Image.open(tmp_path / "both.png") as image:
        image.paste((0, 200, 0), (0, 0, 5, 10))
        image.save(tmp_path / "both.png")
    assert judged(path, an_engine()).table["rank"].to_list() == [1]
    whole = a_list(tmp_path, {"whole": ("green", (0, 0, 0))})
    (tmp_path / "both.png").rename(tmp_path / "whole.png")
    assert judged(whole, an_engine()).table["rank"].to_list() == [2]


def test_a_picture_that_training_used_is_left_out_and_a_held_out_one_is_not(tmp_path: Path) -> None:
    path = a_list(tmp_path, FOUR)
    roles = {"first": "gallery", "second": "train", "third": "development", "again": "evaluation"}
    used = pl.DataFrame(
        {
            "role": list(roles.values()),
            "image_digest": [file_digest(tmp_path / f"{name}.png") for name in roles],
        }
    )
    (tmp_path / "first.png").rename(tmp_path / "renamed.png")
    path.write_text(path.read_text().replace("first.png", "renamed.png"))
    report = judged(path, an_engine(), used)
    assert report.table["image_path"].to_list() == ["again.png"]
    assert set(report.left_out["path"]) == {"renamed.png", "second.png", "third.png"}
    assert set(report.left_out["reason"]) == {"in_the_catalogue"}


def test_photos_that_can_not_be_read_are_listed_and_the_others_judged(tmp_path: Path) -> None:
    path = a_list(tmp_path, FOUR)
    (tmp_path / "second.png").unlink()
    Image.effect_noise((80, 80), 90).save(tmp_path / "third.png")
    truncate(tmp_path / "third.png")
    report = judged(path, an_engine())
    assert dict(report.left_out.select("path", "reason").iter_rows()) == {
        "second.png": "missing_image",
        "third.png": "broken_image",
    }
    assert report.metrics["recall@1"] == 1.0
    listing = report.listing()
    assert listing.height == 4
    assert listing.filter(pl.col("reason").is_null())["rank"].to_list() == [1, 1]


def test_nothing_to_judge_is_told(tmp_path: Path) -> None:
    path = a_list(tmp_path, FOUR)
    used = pl.DataFrame(
        {"role": "train", "image_digest": [file_digest(tmp_path / f"{name}.png") for name in FOUR]}
    )
    with pytest.raises(UserError, match="no photo to judge; left out: in_the_catalogue 4"):
        judged(path, an_engine(), used)


def test_a_limit_takes_the_same_photos_of_a_list_again(tmp_path: Path) -> None:
    path = a_list(tmp_path, FOUR)
    found = read_photos(path, ManifestSettings(path=str(path)))
    two, same, all_of_them = (
        photos_to_judge(found, tmp_path, NOTHING_USED, limit).items["orig_image_path"].to_list()
        for limit in (2, 2, None)
    )
    assert len(two) == 2
    assert two == same
    assert set(two) < set(all_of_them)


def test_the_policys_part_is_shown(tmp_path: Path) -> None:
    torch.manual_seed(0)
    gains = tuple(1.0 if name == "white_balance" else -1.0 for name in ACTIONS)
    network = PolicyNetwork(3, 4)
    network.eval()
    policy = Policy(network, Calibration(slope=0.0, offsets=(0.0, *gains[1:])), ActionSettings())
    report = judged(a_list(tmp_path, FOUR), an_engine(policy=policy))
    assert report.table["policy"].unique().to_list() == ["white_balance"]
    assert report.stages["policy"][WITHOUT] == 0.5
    assert "encode_again" in report.stages
    assert "Without the stage policy the right product is first for 50.0% of the photos." in text_report(
        report
    )


def test_the_summary_has_the_agreed_keys_and_the_text_names_them(tmp_path: Path) -> None:
    report = judged(a_list(tmp_path, FOUR), an_engine())
    summary = json.loads(json.dumps(report.summary()))
    names = ["recall@1", "recall@5", "recall@10", "mrr"]
    assert list(summary) == ["queries", "skus", *names, "intervals", "stages"]
    assert (summary["queries"], summary["skus"]) == (4, 3)
    assert list(summary["intervals"]) == names
    assert all(low <= summary[name] <= high for name, (low, high) in summary["intervals"].items())
    assert list(summary["stages"]) == ["decode", "preprocess", "encode", "search", "total"]
    assert all(0 < stage["p50_ms"] <= stage["p95_ms"] for stage in summary["stages"].values())
    lines = text_report(report).splitlines()
    assert lines[0] == "4 photos of 3 products, each searched for among 3 products"
    assert any(line.split() == ["first", "50.0%", "0.0%", "to", "100.0%"] for line in lines)


def test_the_same_photos_give_the_same_figures(tmp_path: Path) -> None:
    path = a_list(tmp_path, FOUR)
    one, two = (judged(path, an_engine()) for _ in range(2))
    assert one.table.equals(two.table)
    assert one.intervals == two.intervals
