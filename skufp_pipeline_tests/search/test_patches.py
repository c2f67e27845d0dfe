"""Patches in an index bundle."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.errors import UserError
from skufp_pipeline.search.patches import LookTwiceFile, PatchIndex, load_patches, save_look_twice

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
