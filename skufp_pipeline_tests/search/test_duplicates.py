"""Near-duplicates among made-up pictures on a circle, and among those of a materialized graph."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.errors import UserError
from skufp_pipeline.search.duplicates import DUPLICATES_SCHEMA, find_duplicates


def table(*pictures: tuple[str, float], role: str = "gallery") -> pl.DataFrame:
    """A row per picture: its SKU, and its embedding's angle in degrees."""
    angles = np.deg2rad([degrees for _, degrees in pictures])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    names = {"sku_id": [sku for sku, _ in pictures], "image_path": [f"{n}.png" for n in range(len(pictures))]}
    return pl.DataFrame({**names, "role": role}).with_columns(embedding_column(rows))


@pytest.fixture
def crop_of(tmp_path: Path) -> Callable[[Mapping[str, Any]], Path]:
    """Every picture has a colour of its own, unless a test writes another."""

    def find(row: Mapping[str, Any]) -> Path:
        path = tmp_path / row["image_path"]
        if not path.exists():
            Image.new("RGB", (4, 4), (int(path.stem), 0, 0)).save(path)
        return path

    return find


def groups(found: pl.DataFrame) -> list[list[str]]:
    return found.group_by("group", maintain_order=True).agg("sku_id")["sku_id"].to_list()


def test_skus_are_grouped_where_a_chain_of_near_pictures_joins_them(crop_of: Any) -> None:
    # cos 10 degrees is 0.9848, cos 12 degrees 0.9781: only neighbours at 10 degrees are near.
    images = table(("a", 0), ("a", 90), ("b", 10), ("c", 20), ("d", 102), ("e", 180), ("f", 190))
    found = find_duplicates(images, crop_of)
    assert dict(found.schema) == DUPLICATES_SCHEMA
    assert groups(found) == [["a", "b", "c"], ["e", "f"]]
    assert found.row(1, named=True) == {
        "group": 1, "sku_id": "b", "kind": "near", "cosine": 0.9848,
        "picture": "2.png", "like_sku_id": "a", "like_picture": "0.png",
    }  # fmt: skip
    assert groups(find_duplicates(images, crop_of, 0.97)) == [["a", "b", "c", "d"], ["e", "f"]]
    assert find_duplicates(images, crop_of, 0.99).is_empty()


def test_pictures_of_one_sku_and_queries_are_no_duplicates(crop_of: Any) -> None:
    images = pl.concat([table(("a", 0), ("a", 0)), table(("b", 0), role="evaluation")])
    assert find_duplicates(images, crop_of).is_empty()
    assert find_duplicates(images.clear(), crop_of).is_empty()


def test_equal_pixels_are_told_from_equal_embeddings(tmp_path: Path, crop_of: Any) -> None:
    images = table(("a", 0), ("b", 0), ("c", 1), ("d", 1.5))
    for name, size in (("0", (4, 4)), ("2", (4, 4)), ("3", (2, 8))):  # the last has the same bytes in rows
        Image.new("RGB", size, "white").save(tmp_path / f"{name}.png", compress_level=int(name))
    found = find_duplicates(images, crop_of, threshold=1)
    assert found.select("sku_id", "kind", "cosine").rows() == [
        ("a", "same", 1.0), ("b", "near", 1.0), ("c", "same", 1.0),
    ]  # fmt: skip


def test_the_threshold_itself_counts(crop_of: Any) -> None:
    images = table(("a", 0), ("b", 0)).with_columns(
        embedding_column(np.array([[1, 0], [0.6, 0.8]], dtype=np.float32))
    )
    unit = np.array([0.6, 0.8], dtype=np.float32).astype(np.float64)
    exact = float(unit[0] / np.linalg.norm(unit))
    assert groups(find_duplicates(images, crop_of, exact)) == [["a", "b"]]
    assert find_duplicates(images, crop_of, exact + 1e-6).is_empty()


def test_only_pictures_that_could_be_equal_are_decoded(crop_of: Any) -> None:
    asked: list[str] = []

    def watched(row: Mapping[str, Any]) -> Path:
        asked.append(row["image_path"])
        return crop_of(row)

    images = table(("a", 0), ("b", 0), ("c", 0), ("d", 10))
    find_duplicates(images, watched, block=2)
    assert sorted(asked) == ["0.png", "1.png", "2.png"]
    with pytest.raises(UserError, match="materialize sku_crops again"):
        find_duplicates(images, lambda row: Path("nowhere"))


def test_any_block_gives_the_groups_of_all_pairs(crop_of: Any) -> None:
    random = np.random.default_rng(3)
    pictures = [(f"s{random.integers(25):02}", float(random.integers(360))) for _ in range(60)]
    images = table(*pictures)
    rows = np.stack(images["embedding"].to_list()).astype(np.float64)
    skus, near = images["sku_id"].to_list(), rows @ rows.T >= 0.9995
    expected: list[set[str]] = [{sku} for sku in set(skus)]
    for i, j in zip(*np.nonzero(near), strict=True):
        joined = [group for group in expected if group & {skus[i], skus[j]}]
        expected = [group for group in expected if group not in joined] + [set().union(*joined)]
    expected = [group for group in expected if len(group) > 1]
    assert len(expected) > 1
    told: list[tuple[int, int]] = []
    results = [find_duplicates(images, crop_of, 0.9995, block=block) for block in (1, 7, 1000)]
    find_duplicates(images, crop_of, 0.9995, lambda *done: told.append(done), block=20)
    assert told == [(n, 6) for n in range(1, 7)]
    assert all(found.equals(results[0]) for found in results)
    for found in results:
        assert sorted(groups(found)) == sorted(sorted(group) for group in expected)
        assert [len(group) for group in groups(found)] == sorted(map(len, expected), reverse=True)


@pytest.mark.parametrize("threshold", [0, 1.1])
def test_a_threshold_that_is_no_cosine_is_refused(crop_of: Any, threshold: float) -> None:
    with pytest.raises(ValueError, match="the threshold must be above 0 and at most 1"):
        find_duplicates(table(("a", 0)), crop_of, threshold)
