"""Small pictures are kept with the index: the same bytes each time, found by SKU, wherever it is copied."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skufp_pipeline.errors import UserError
from skufp_pipeline.photos import open_photo
from skufp_pipeline.search.bundle import current_index
from skufp_pipeline.search.pictures import PICTURES_FILE, load_pictures, write_pictures

from ..graphs import Graph

SKUS = ["belt", "hat", "shirt"]


def write(folder: Path, side: int = 32) -> Path:
    crops = folder / "crops"
    crops.mkdir(parents=True, exist_ok=True)
    for number, sku_id in enumerate(SKUS):
        pixels = np.full((60, 40 * (number + 1), 3), 60 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(crops / f"{sku_id}.jpg")
    write_pictures(folder, SKUS, [f"{sku_id}.jpg" for sku_id in SKUS], side, lambda name: crops / name)
    return folder / PICTURES_FILE


def test_each_sku_has_its_crop_reduced_to_the_side(tmp_path: Path) -> None:
    write(tmp_path)
    pictures = load_pictures(tmp_path)
    assert pictures is not None
    found = {sku_id: open_photo(pictures.get(sku_id) or b"") for sku_id in SKUS}
    assert {sku_id: picture.size for sku_id, picture in found.items()} == {
        "belt": (21, 32),
        "hat": (32, 24),
        "shirt": (32, 16),
    }
    assert [round(float(np.asarray(picture).mean()), -1) for picture in found.values()] == [0, 60, 120]
    assert pictures.get("scarf") is None


def test_a_smaller_crop_is_kept_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, side=1000)
    pictures = load_pictures(tmp_path)
    assert pictures is not None
    assert open_photo(pictures.get("shirt") or b"").size == (120, 60)


def test_the_same_crops_give_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a").read_bytes() == write(tmp_path / "b").read_bytes()


def test_many_skus_are_written_in_several_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skufp_pipeline.search.pictures._AT_ONCE", 2)
    write(tmp_path)
    pictures = load_pictures(tmp_path)
    assert pictures is not None
    assert all(pictures.get(sku_id) for sku_id in SKUS)


def test_a_version_without_pictures_has_none(tmp_path: Path) -> None:
    assert load_pictures(tmp_path) is None


def test_a_damaged_file_is_told_by_name(tmp_path: Path) -> None:
    (tmp_path / PICTURES_FILE).write_bytes(b"no arrow")
    with pytest.raises(UserError, match=r"pictures\.arrow can't be read"):
        load_pictures(tmp_path)


def test_a_missing_crop_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.jpg"):
        write_pictures(tmp_path, ["hat"], ["gone.jpg"], 32, lambda name: tmp_path / name)


def test_a_copied_version_shows_every_sku_without_the_crops(small_graph: Graph, tmp_path: Path) -> None:
    artifact, index = current_index(small_graph.store)
    shutil.copytree(artifact.path, tmp_path / "copy")
    pictures = load_pictures(tmp_path / "copy")
    assert pictures is not None
    for sku_id, image in index.skus.select("sku_id", "image").iter_rows():
        crop = open_photo(small_graph.store.local_path(image))
        assert open_photo(pictures.get(sku_id) or b"").size == crop.size
