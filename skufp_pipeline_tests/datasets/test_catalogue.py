import os
from pathlib import Path

import polars as pl
import pytest

from skufp_pipeline.datasets.catalogue import (
    folder_listing,
    require_searchable,
    with_image_digests,
    with_shards,
)
from skufp_pipeline.errors import UserError
from skufp_pipeline.hashing import stable_shard

from .trees import table, write_image


def test_all_rows_of_a_sku_are_in_one_shard() -> None:
    items = table(*[{"sku_id": f"sku{number % 30}", "image_id": str(number)} for number in range(90)])
    sharded = with_shards(items, 4)
    assert sharded.schema["shard"] == pl.Int32
    assert sharded.drop("shard").equals(items)
    assert sharded.group_by("sku_id").agg(pl.col("shard").n_unique())["shard"].unique().to_list() == [1]
    assert sharded["shard"].to_list() == [stable_shard(sku_id, 4) for sku_id in items["sku_id"]]
    assert set(sharded["shard"]) == {0, 1, 2, 3}


def test_a_new_sku_moves_no_other_to_another_shard() -> None:
    before = with_shards(table({"sku_id": "a"}, {"sku_id": "b"}), 8)
    after = with_shards(table({"sku_id": "0"}, {"sku_id": "a"}, {"sku_id": "b"}), 8)
    assert after.filter(pl.col("sku_id") != "0").equals(before)


def test_an_image_is_known_by_its_bytes(tmp_path: Path) -> None:
    for name, colour in (("a.png", "red"), ("same.png", "red"), ("b.png", "blue")):
        write_image(tmp_path / name, colour=colour)
    items = table(*[{"orig_image_path": name} for name in ("b.png", "a.png", "same.png", "b.png")])
    told: list[tuple[int, int]] = []
    found = with_image_digests(items, tmp_path.joinpath, lambda done, total: told.append((done, total)))
    b, a, same, again = found["image_digest"].to_list()
    assert a == same != b == again
    assert found.drop("image_digest").equals(items)
    assert told[-1] == (3, 3)
    write_image(tmp_path / "b.png", colour="green")
    changed = with_image_digests(items, tmp_path.joinpath)["image_digest"].to_list()
    assert changed[1:3] == [a, same]
    assert changed[0] != b


def test_no_rows_have_no_digests(tmp_path: Path) -> None:
    found = with_image_digests(table(), tmp_path.joinpath)
    assert found.is_empty()
    assert found.schema["image_digest"] == pl.String


def test_a_listing_counts_files_and_bytes_of_the_whole_tree(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_text("1")
    (tmp_path / "deep" / "b").write_text("22")
    listing = folder_listing(tmp_path)
    assert (listing["files"], listing["bytes"]) == (2, 3)
    assert folder_listing(tmp_path) == listing


def test_a_file_name_that_is_no_unicode_is_listed(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"stray-\xff.jpg")).write_text("1")
    assert folder_listing(tmp_path)["files"] == 1


@pytest.mark.parametrize("change", ["content", "time", "name", "new"])
def test_a_listing_changes_with_the_folder(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a"
    path.write_text("1")
    os.utime(path, (1000, 1000))
    before = folder_listing(tmp_path)["digest"]
    if change == "content":
        path.write_text("22")
        os.utime(path, (1000, 1000))
    elif change == "time":
        os.utime(path, (1001, 1001))
    elif change == "name":
        path.rename(tmp_path / "b")
    else:
        (tmp_path / "b").touch()
    assert folder_listing(tmp_path)["digest"] != before


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([{"sku_id": "a"}, {"sku_id": "a"}, {"sku_id": "b", "domain": "query"}], r"one \(a\) among 3"),
        ([{"sku_id": "a", "domain": "query"}], "none among 1"),
    ],
)
def test_pictures_of_fewer_than_two_skus_are_refused(rows: list[dict[str, str]], found: str) -> None:
    items = table(*[{"domain": "catalog", **row} for row in rows])
    with pytest.raises(UserError, match=f"two SKUs at least; found {found}"):
        require_searchable(items)
    require_searchable(table({"sku_id": "a", "domain": "catalog"}, {"sku_id": "b", "domain": "catalog"}))
