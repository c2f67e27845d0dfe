from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import ExifTags, Image

from skufp_pipeline.datasets.manifest import ManifestSettings, read_manifest
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.datasets.table import ITEM_SCHEMA, SKIPPED_SCHEMA, Catalogue
from skufp_pipeline.errors import UserError
from skufp_pipeline_tests.datasets.trees import (
    reasons,
    truncate,
    write_image,
    write_manifest,
    write_png_bomb,
)


def read(path: Path, **settings: Any) -> Catalogue:
    return read_manifest(path, ManifestSettings(path=str(path), **settings), SplitSettings())


def read_rows(folder: Path, *rows: dict[str, Any], **settings: Any) -> Catalogue:
    return read(write_manifest(folder, list(rows)), **settings)


def row(**changes: Any) -> dict[str, Any]:
    good = {"sku_id": "apple-1", "image_path": "a.jpg", "domain": "catalog", "split": "train"}
    return good | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg", "deep/c.jpg"):
        write_image(tmp_path / name)
    return tmp_path


def test_a_csv_becomes_the_internal_table(folder: Path) -> None:
    catalogue = read_rows(
        folder,
        row(category="Apple", title="Granny Smith", description="A green apple", attributes="Tart."),
        row(image_path="deep/c.jpg", domain="query", category="", title="", description="", attributes=""),
    )
    assert dict(catalogue.items.schema) == ITEM_SCHEMA
    assert dict(catalogue.skipped.schema) == SKIPPED_SCHEMA
    catalog, query = catalogue.items.rows(named=True)
    image_id = catalog.pop("image_id")
    assert len(image_id) == 16
    assert int(image_id, 16) != int(query["image_id"], 16)
    assert catalog == {
        "sku_id": "apple-1",
        "split": "train",
        "domain": "catalog",
        "role": "gallery",
        "item_idx": 1,
        "pair_id": None,
        "style": None,
        "category_id": None,
        "category_name": "Apple",
        "orig_image_path": "a.jpg",
        "bbox": [0, 0, 40, 60],
        "occlusion": None,
        "viewpoint": None,
        "title": "Granny Smith",
        "description": "A green apple. Tart.",
    }
    assert (query["category_name"], query["title"], query["description"]) == ("product", None, None)


def test_parquet_gives_the_same_as_csv(folder: Path) -> None:
    rows = [row(sku_id="1", x1=1, y1=2, x2=30, y2=40), row(sku_id="2", image_path="b.jpg", domain="query")]
    from_csv = read_rows(folder, *rows)
    frame = pl.DataFrame(rows).with_columns(pl.col("sku_id").cast(pl.Int64), pl.col("x1").cast(pl.Float64))
    frame.write_parquet(folder / "manifest.parquet")
    assert read(folder / "manifest.parquet").items.equals(from_csv.items)
    assert from_csv.items["bbox"].to_list() == [[1, 2, 30, 40], [0, 0, 40, 60]]


def test_a_parquet_box_may_be_a_list(folder: Path) -> None:
    pl.DataFrame([row(bbox=[1, 2, 30, 40])]).write_parquet(folder / "manifest.parquet")
    assert read(folder / "manifest.parquet").items["bbox"].to_list() == [[1, 2, 30, 40]]


def test_several_boxes_of_one_image_are_numbered_in_row_order(folder: Path) -> None:
    items = read_rows(
        folder,
        row(bbox="20,0,40,60"),
        row(sku_id="pear", bbox="[0, 0, 20.4, 99]"),
        row(image_path="b.jpg", bbox=""),
    ).items
    numbers = items.select("sku_id", "orig_image_path", "item_idx", "bbox").sort(
        "orig_image_path", "item_idx"
    )
    assert numbers.rows() == [
        ("apple-1", "a.jpg", 1, [20, 0, 40, 60]),
        ("pear", "a.jpg", 2, [0, 0, 20, 60]),
        ("apple-1", "b.jpg", 1, [0, 0, 40, 60]),
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sku_id": " "}, "bad_sku_id"),
        ({"sku_id": "x" * 129}, "bad_sku_id"),
        ({"sku_id": "梨" * 40}, "bad_sku_id"),
        ({"image_path": ""}, "bad_image_path"),
        ({"image_path": "/etc/passwd"}, "bad_image_path"),
        ({"image_path": "../a.jpg"}, "bad_image_path"),
        ({"image_path": "deep/../../a.jpg"}, "bad_image_path"),
        ({"image_path": "nowhere.jpg"}, "missing_image"),
        ({"image_path": "deep"}, "missing_image"),
        ({"image_path": "x" * 5000}, "missing_image"),
        ({"image_path": "broken.jpg"}, "broken_image"),
        ({"image_path": "bomb.png"}, "image_too_large"),
        ({"domain": "shop"}, "bad_domain"),
        ({"domain": ""}, "bad_domain"),
        ({"split": "dev"}, "bad_split"),
        ({"split": ""}, "bad_split"),
        ({"bbox": "1,2,3"}, "bbox_malformed"),
        ({"bbox": "a,b,c,d"}, "bbox_malformed"),
        ({"bbox": "1,2,inf,4"}, "bbox_malformed"),
        ({"bbox": "40,0,80,60"}, "bbox_empty"),
        ({"bbox": "9,9,9,20"}, "bbox_empty"),
    ],
)
def test_a_bad_row_is_skipped_with_its_number(folder: Path, changes: dict, reason: str) -> None:
    (folder / "broken.jpg").write_bytes(b"no picture")
    write_png_bomb(folder / "bomb.png", 30_000, 30_000)
    catalogue = read_rows(folder, row(bbox=""), row(image_path="b.jpg") | changes)
    assert len(catalogue.items) == 1
    assert reasons(catalogue) == {reason: 1}
    assert catalogue.skipped["detail"].item().startswith("row 2: ")


def test_a_row_with_too_many_cells_is_skipped(folder: Path) -> None:
    path = write_manifest(folder, [row()])
    path.write_text(path.read_text() + "pear,b.jpg,catalog,train,surprise\n")
    assert reasons(read(path)) == {"malformed_row": 1}


def test_a_half_given_box_is_skipped(folder: Path) -> None:
    corners = {"x1": 1, "y1": 2, "x2": 30, "y2": 40}
    catalogue = read_rows(folder, row(**corners), row(image_path="b.jpg", **corners | {"y2": ""}))
    assert reasons(catalogue) == {"bbox_malformed": 1}


def test_the_same_image_and_box_twice_is_a_duplicate(folder: Path) -> None:
    catalogue = read_rows(
        folder,
        row(bbox=""),
        row(image_path="./a.jpg", bbox="0,0,40,60"),
        row(sku_id="pear", bbox="0,0,50,70"),
        row(bbox="0,0,20,20"),
    )
    assert reasons(catalogue) == {"duplicate_row": 2}
    assert catalogue.skipped["detail"].to_list() == [
        "row 2: the same image and box as row 1",
        "row 3: the same image and box as row 1",
    ]
    assert catalogue.items["item_idx"].to_list() == [1, 2]


def test_a_sku_of_two_splits_stays_in_training(folder: Path) -> None:
    catalogue = read_rows(folder, row(split="validation"), row(image_path="b.jpg", split="train"))
    assert reasons(catalogue) == {"sku_in_two_splits": 1}
    assert catalogue.items["split"].to_list() == ["train"]


def test_without_a_split_column_whole_skus_are_split_by_hash(tmp_path: Path) -> None:
    rows = []
    for n in range(300):
        name = f"{n}.bmp"
        write_image(tmp_path / name, size=(2, 2))
        rows.append({"sku_id": f"sku{n % 150}", "image_path": name, "domain": "catalog"})
    items = read_rows(tmp_path, *rows).items
    assert items.group_by("sku_id").agg(pl.col("split").n_unique())["split"].max() == 1
    share = items.unique("sku_id").filter(split="validation").height / 150
    assert 0.12 < share < 0.28
    assert set(read_rows(tmp_path, *rows, validation_fraction=0).items["split"]) == {"train"}


def test_only_pairs_is_off_unless_asked_for(folder: Path) -> None:
    rows = [row(), row(image_path="b.jpg", domain="query"), row(sku_id="pear", image_path="deep/c.jpg")]
    assert len(read_rows(folder, *rows).items) == 3
    assert reasons(read_rows(folder, *rows, only_pairs=True)) == {"sku_without_query": 1}


def test_exif_orientation_turns_width_and_height(folder: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    write_image(folder / "phone.jpg", size=(40, 60), exif=exif)
    assert read_rows(folder, row(image_path="phone.jpg")).items["bbox"].to_list() == [[0, 0, 60, 40]]


def test_image_ids_depend_on_the_relative_path_alone(folder: Path) -> None:
    alone = read_rows(folder, row(image_path="b.jpg")).items["image_id"].item()
    among = read_rows(folder, row(), row(sku_id="pear", image_path="./b.jpg")).items
    assert among.filter(sku_id="pear")["image_id"].item() == alone


def test_an_unknown_column_gets_a_suggestion(folder: Path) -> None:
    with pytest.raises(
        UserError, match=r"unknown column 'titel'; did you mean 'title'\? \(known columns: sku_id"
    ):
        read_rows(folder, row(titel="x"))


@pytest.mark.parametrize("name", ["sku_id", "image_path", "domain"])
def test_a_missing_required_column_is_named(folder: Path, name: str) -> None:
    path = write_manifest(folder, [{key: value for key, value in row().items() if key != name}])
    with pytest.raises(UserError, match=f"lacks the column '{name}'"):
        read(path)


def test_boxes_are_given_in_one_form(folder: Path) -> None:
    with pytest.raises(UserError, match="give either bbox or all of x1, y1, x2, y2"):
        read_rows(folder, row(bbox="", x1=1, y1=1, x2=2, y2=2))
    with pytest.raises(UserError, match="give either bbox or all of x1, y1, x2, y2"):
        read_rows(folder, row(x1=1, y1=1))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("manifest.csv", b"", "is empty"),
        ("manifest.csv", b"sku_id,image_path,domain\n", "has a header and no rows"),
        ("manifest.csv", b"sku_id,sku_id,image_path,domain\n1,1,a.jpg,query\n", "2 columns named 'sku_id'"),
        ("manifest.csv", b"sku_id,image_path,domain\n\xff,a.jpg,query\n", "is not UTF-8"),
        ("manifest.csv", b'sku_id,image_path,domain\n"1,a.jpg,query\n', "is not a CSV file"),
        ("manifest.parquet", b"PAR1", "is not a readable Parquet file"),
        ("manifest.xlsx", b"", "is neither a .csv nor a .parquet file"),
    ],
)
def test_a_file_that_cannot_be_understood_is_a_user_error(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path / name)


def test_a_missing_manifest_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no manifest"):
        read(tmp_path / "manifest.csv")


def test_a_manifest_without_a_usable_row_says_why(folder: Path) -> None:
    with pytest.raises(UserError, match="no usable item; left out: missing_image 1"):
        read_rows(folder, row(image_path="nowhere.jpg"))


def test_a_spreadsheet_byte_order_mark_and_blank_lines_are_tolerated(folder: Path) -> None:
    path = write_manifest(folder, [row()])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n\r\n")
    assert len(read(path).items) == 1


def test_a_truncated_image_still_has_a_header(folder: Path) -> None:
    truncate(folder / "a.jpg", keep=0.99)
    assert len(read_rows(folder, row()).items) == 1
