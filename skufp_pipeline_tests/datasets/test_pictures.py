"""Pictures without SKUs: what a shop's folder holds is read, or listed with its reason."""

import os
import shutil
from pathlib import Path

import pytest

from skufp_pipeline.datasets.pictures import COPY, PicturesSettings, read_pictures, sku_id_of_path
from skufp_pipeline.datasets.sources import PicturesDataset
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.datasets.table import Catalogue
from skufp_pipeline.errors import UserError

from .trees import write_image


def read(path: Path, **settings: object) -> Catalogue:
    return read_pictures(path, PicturesSettings.model_validate(settings), SplitSettings())


def reasons(found: Catalogue) -> dict[str, str]:
    return dict(found.skipped.select("path", "reason").iter_rows())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of two categories and one of none, with what else lies in such a folder."""
    for name, colour in (("boots/a.jpg", "red"), ("boots/old/b.png", "blue"), ("sandals/a.jpg", "green")):
        write_image(tmp_path / name, colour=colour)
    write_image(tmp_path / "top.webp", colour="yellow")
    write_image(tmp_path / ".hidden.jpg")
    write_image(tmp_path / "__MACOSX" / "boots" / "._a.jpg", colour="black")
    (tmp_path / "Thumbs.db").write_bytes(b"\0\1")
    (tmp_path / "boots" / "prices.csv").write_text("a,b\n")
    return tmp_path


def test_a_picture_is_a_product_of_the_category_that_its_first_folder_names(folder: Path) -> None:
    items = read(folder).items
    rows = items.select("sku_id", "category_name", "orig_image_path", "role", "split").rows()
    assert rows == [
        ("boots:a.jpg", "boots", "boots/a.jpg", "gallery", "train"),
        ("boots:old:b.png", "boots", "boots/old/b.png", "gallery", "train"),
        ("sandals:a.jpg", "sandals", "sandals/a.jpg", "gallery", "train"),
        ("top.webp", "product", "top.webp", "gallery", "train"),
    ]
    assert items["bbox"].to_list() == [[0, 0, 40, 60]] * 4
    assert set(read(folder, categories=False).items["category_name"]) == {"product"}


def test_other_files_are_told_of_and_hidden_ones_ignored(folder: Path) -> None:
    found = read(folder)
    assert found.skipped.is_empty()
    assert found.warnings == ("2 files are no pictures: 'Thumbs.db', 'boots/prices.csv'",)


def test_a_broken_picture_is_listed_with_its_reason(folder: Path) -> None:
    (folder / "boots" / "cut.jpg").write_bytes((folder / "boots" / "a.jpg").read_bytes()[:20])
    (folder / "empty.png").write_bytes(b"")
    (folder / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(16))
    os.rename(os.fsencode(folder / "top.webp"), os.fsencode(folder) + b"/t\xff.webp")
    assert reasons(read(folder)) == {
        "boots/cut.jpg": "broken_image",
        "empty.png": "broken_image",
        "photo.heic": "unsupported_image",
        "t?.webp": "bad_file_name",
    }


def test_of_copies_the_first_in_a_folder_is_kept_and_the_others_are_listed(folder: Path) -> None:
    for copy in ("a copy.jpg", "sandals/a0.jpg"):
        shutil.copy(folder / "boots" / "a.jpg", folder / copy)
    found = read(folder)
    assert reasons(found) == {"a copy.jpg": COPY, "sandals/a0.jpg": COPY}
    assert set(found.skipped["detail"]) == {"the same bytes as boots/a.jpg"}
    assert "boots:a.jpg" in found.items["sku_id"].to_list()


def test_an_id_is_that_of_the_path_whatever_lies_beside_it() -> None:
    names = ["a/b.jpg", "a:b.jpg", "a%3Ab.jpg", "a.jpg", "a.png", *(f"{'x' * 200}{end}" for end in "yz")]
    ids = [sku_id_of_path(name) for name in names]
    assert len(set(ids)) == len(names)
    assert max(map(len, ids)) == 128
    assert ids[0] == "a:b.jpg"


def test_a_manifest_needs_no_sku_ids(folder: Path) -> None:
    shutil.copy(folder / "boots" / "a.jpg", folder / "copy.jpg")
    manifest = folder / "pictures.csv"
    rows = ["image_path;category;title", "copy.jpg;boot;", "boots/a.jpg;boot;Alpine", "sandals/a.jpg;;", ";;"]
    manifest.write_text("\n".join([*rows, "https://shop.example/a.jpg;;"]))
    found = read(manifest)
    assert found.items.select("sku_id", "category_name", "title").rows() == [
        ("boots:a.jpg", "boot", "Alpine"),
        ("sandals:a.jpg", "product", None),
    ]
    counted = dict(found.skipped.group_by("reason").len().iter_rows())
    assert counted == {COPY: 1, "bad_sku_id": 1, "url_refused": 1}


def test_the_sku_ids_of_a_manifest_count_where_it_has_some(folder: Path) -> None:
    shutil.copy(folder / "boots" / "a.jpg", folder / "copy.jpg")
    (folder / "shop.csv").write_text("sku_id,image_path\nA,boots/a.jpg\nB,copy.jpg\nB,top.webp\n")
    assert read(folder / "shop.csv").items["sku_id"].to_list() == ["A", "B", "B"]


@pytest.mark.parametrize(
    ("path", "told"),
    [("nowhere", "neither a folder of pictures nor"), (".", "no usable picture: there is none")],
)
def test_a_folder_without_pictures_is_refused_in_a_sentence(tmp_path: Path, path: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        read(tmp_path / path)


def test_without_a_path_the_shop_pictures_of_the_sample_are_rendered(tmp_path: Path) -> None:
    render = {"num_skus": 50, "image_size": 32, "workers": 1}
    dataset = PicturesDataset.model_validate({"source": "pictures", "path": "", "render": render})
    raws = [tmp_path / "one", tmp_path / "two"]
    for raw in raws:
        assert dataset.write_raw(raw)["pictures"] == 50
    items = dataset.items(raws[0], SplitSettings()).items
    assert items["sku_id"].n_unique() == items.height == 50
    assert items["category_name"].n_unique() > 3
    for path in items["orig_image_path"]:
        assert (raws[0] / path).read_bytes() == (raws[1] / path).read_bytes()
