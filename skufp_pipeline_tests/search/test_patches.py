"""Patches in an index bundle."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.errors import UserError
from skufp_pipeline.photos import whole_photo
from skufp_pipeline.search.bundle import picture_paths
from skufp_pipeline.search.patches import (
    LookTwiceFile,
    PatchIndex,
    ShownPictures,
    load_patches,
    save_look_twice,
)
from skufp_pipeline.search.pictures import load_pictures
from skufp_pipeline_tests.encoders.examples import picture

SHAPE = (2, 1, 4)  # V, P, d
FILE = LookTwiceFile(top=20, weight=0.5, chosen_on=None)


def table(**skus: list[int]) -> pl.DataFrame:
    """One picture for each number, whose patch it fills."""
    rows = [(sku, [value] * 4) for sku, values in skus.items() for value in values]
    schema = {"sku_id": pl.String(), "patches": pl.Array(pl.Int8, 4)}
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_patches_are_found_by_row_whatever_their_shard(tmp_path: Path) -> None:
    shards = [table(hat=[1, 2, 3]), table(belt=[4], coat=[5, 6])]
    PatchIndex.write(tmp_path, pl.Series(["belt", "coat", "hat"]), shards, SHAPE)
    save_look_twice(tmp_path, FILE)
    found = load_patches(tmp_path, 3)
    assert found is not None
    patches, counts = found[0].of_rows(np.array([2, 0]))
    assert patches[:, :, 0, 0].tolist() == [[1, 2], [4, 0]]  # no more than V pictures
    assert counts.tolist() == [2, 1]
    assert found[1] == FILE


def test_the_picture_that_is_explained_is_the_thumbnails_if_its_patches_are_kept(tmp_path: Path) -> None:
    for name, colour in (("a1", "red"), ("a2", "lime"), ("b1", "blue"), ("b3", "black")):
        picture(colour).save(tmp_path / f"{name}.png")
    skus = pl.DataFrame({"sku_id": ["a", "b", "c"], "image": ["shop/a2.png", "shop/b3.png", None]})
    teachers = pl.DataFrame({"sku_id": ["a", "b"], "image_path": ["a2.png", "b3.png"]})
    names = ["a1", "a2", "b1", "b2", "b3", "c1"]
    images = pl.DataFrame({"sku_id": [name[0] for name in names], "item_id": names})
    listed = picture_paths(skus, teachers, images.with_columns(image_path=pl.format("{}.png", "item_id")))
    shown = ShownPictures(listed, 64, lambda path: tmp_path / path.removeprefix("shop/"))
    items = table(a=[1, 2], b=[3, 4, 5], c=[6]).with_columns(item_id=pl.Series(names))
    index = PatchIndex.write(tmp_path, skus["sku_id"], [items], SHAPE, shown)
    save_look_twice(tmp_path, FILE)
    found = load_patches(tmp_path, 3)
    assert found is not None
    for patches in (index, found[0]):
        explained = [patches.of_picture(row) for row in range(3)]
        assert [None if one is None else one[0, 0] for one in explained] == [2, 3, 6]  # b3 is not kept
        assert patches.of_sku(1)[:, 0].tolist() == [3, 4]
    further = load_pictures(tmp_path / "patch_pictures")
    assert further is not None
    assert further.get("a") is None  # it is the SKU's own thumbnail
    jpeg = further.get("b")
    assert jpeg is not None
    assert whole_photo(jpeg).getpixel((5, 5)) == (0, 0, 254)


def test_a_bundle_without_patches_has_none(tmp_path: Path) -> None:
    assert load_patches(tmp_path, 3) is None


def test_a_sku_without_patches_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 SKUs have no patches, such as 'hat'"):
        PatchIndex.write(tmp_path, pl.Series(["belt", "hat"]), [table(belt=[1])], SHAPE)


@pytest.mark.parametrize("damage", ["cut", "missing", "other"])
def test_a_damaged_file_is_told(damage: str, tmp_path: Path) -> None:
    PatchIndex.write(tmp_path, pl.Series(["belt"]), [table(belt=[1])], SHAPE)
    save_look_twice(tmp_path, FILE)
    path = tmp_path / "patches.npy"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:40])
    elif damage == "missing":
        path.unlink()
    else:
        np.save(path, np.zeros((7, *SHAPE), np.int8))
    with pytest.raises(UserError, match="materialize search_index again"):
        load_patches(tmp_path, 1)
