"""Synthetic photos of a shard: every SKU's by role, the same ones whatever else is in the shard."""

from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest

from skufp_pipeline.camera.settings import SyntheticPhotosSettings, SyntheticSettings
from skufp_pipeline.errors import UserError
from skufp_pipeline.photos import open_photo
from skufp_pipeline.training.synthetic_photos import PHOTO_SCHEMA, render_photos, sheet_of_photos

PHOTOS = SyntheticPhotosSettings(train=2, development=1, evaluation=2, side=64)


@pytest.fixture
def pictures(tmp_path: Path) -> pl.DataFrame:
    """Two pictures each of three SKUs."""
    rows = []
    for number, sku in enumerate("abc"):
        for view in range(2):
            path = tmp_path / f"{sku}{view}.png"
            picture = np.full((40, 30, 3), 255, np.uint8)
            picture[8:32, 6:24] = (60 * number, 200 - 60 * number, 30 + 100 * view)
            cv2.imwrite(str(path), picture)
            rows.append((sku, "train", "Bag", str(path)))
    return pl.DataFrame(rows, schema=["sku_id", "split", "category_name", "path"], orient="row")


def render(
    pictures: pl.DataFrame, folder: Path, seed: int = 3, backgrounds: Path | None = None
) -> tuple[pl.DataFrame, dict[str, bytes]]:
    settings = SyntheticSettings(backgrounds=None if backgrounds is None else str(backgrounds))
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    photos = render_photos(pictures, settings, PHOTOS, seed, scratch, folder)
    return photos, {row["item_id"]: (folder / row["image_path"]).read_bytes() for row in photos.to_dicts()}


def test_every_sku_has_its_photos_by_role_with_the_box_inside(pictures: pl.DataFrame, tmp_path: Path) -> None:
    photos, files = render(pictures, tmp_path / "made")
    assert dict(photos.schema) == PHOTO_SCHEMA
    expected = [
        f"synthetic/{role}/{sku}/{number}"
        for sku in "abc"
        for role, count in (("train", 2), ("development", 1), ("evaluation", 2))
        for number in range(1, count + 1)
    ]
    assert photos["item_id"].to_list() == expected
    assert set(photos["image_path"].str.split("/").list.slice(0, 3).list.join("/")) == {
        f"train/synthetic/{sku}" for sku in "abc"
    }
    for row in photos.to_dicts():
        assert open_photo(files[row["item_id"]]).size == (64, 64)
        assert 0 <= row["x1"] < row["x2"] <= 64
        assert 0 <= row["y1"] < row["y2"] <= 64


def test_the_seed_the_sku_and_the_role_decide_the_bytes(pictures: pl.DataFrame, tmp_path: Path) -> None:
    photos, files = render(pictures, tmp_path / "made")
    again, same = render(pictures, tmp_path / "again")
    assert same == files
    assert again.equals(photos)
    assert len(set(files.values())) == len(files)  # no photo is taken twice, in whatever role
    _, others = render(pictures, tmp_path / "others", seed=4)
    assert not set(others.values()) & set(files.values())


def test_with_a_folder_of_backgrounds_the_other_skus_of_the_shard_change_nothing(
    pictures: pl.DataFrame, tmp_path: Path
) -> None:
    folder = tmp_path / "backgrounds"
    folder.mkdir()
    cv2.imwrite(str(folder / "wall.png"), np.full((20, 20, 3), 120, np.uint8))
    _, together = render(pictures, tmp_path / "together", backgrounds=folder)
    _, alone = render(pictures.filter(sku_id="b"), tmp_path / "alone", backgrounds=folder)
    assert alone == {name: content for name, content in together.items() if "/b/" in name}


def test_a_sku_alone_has_walls_and_cloths_behind_it(pictures: pl.DataFrame, tmp_path: Path) -> None:
    photos, files = render(pictures.filter(sku_id="a"), tmp_path / "made")
    assert len(files) == photos.height == 5


def test_a_shard_without_skus_has_an_empty_table(pictures: pl.DataFrame, tmp_path: Path) -> None:
    photos, _ = render(pictures.clear(), tmp_path / "made")
    assert photos.equals(pl.DataFrame(schema=PHOTO_SCHEMA))
    assert sheet_of_photos(photos, tmp_path).size[1] > 0


def test_a_folder_without_pictures_is_refused(pictures: pl.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"synthetic.backgrounds '.*': expected a folder of pictures"):
        render(pictures, tmp_path / "made", backgrounds=tmp_path / "nowhere")


def test_the_sheet_frames_the_product(pictures: pl.DataFrame, tmp_path: Path) -> None:
    photos, _ = render(pictures, tmp_path / "made")
    sheet = np.asarray(sheet_of_photos(photos, tmp_path / "made")).astype(int)
    red = (sheet[..., 0] > 200) & (sheet[..., 1] < 60) & (sheet[..., 2] < 60)
    assert red.sum() > 15 * 20
