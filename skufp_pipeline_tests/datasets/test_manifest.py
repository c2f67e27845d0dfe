import csv
import io
import os
import unicodedata
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest
from PIL import ExifTags, Image

from skufp_pipeline.datasets import manifest
from skufp_pipeline.datasets.manifest import ManifestSettings, read_manifest, read_photos
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
    words = ("category_name", "title", "description")
    assert [query[name] for name in words] == [catalog[name] for name in words]


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
        ({"sku_id": "two\nlines"}, "bad_sku_id"),
        ({"sku_id": "zero\u200bwidth"}, "bad_sku_id"),
        ({"sku_id": "4.01235E+12"}, "bad_sku_id"),
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


def test_the_same_sku_image_and_box_twice_is_a_duplicate(folder: Path) -> None:
    catalogue = read_rows(
        folder,
        row(bbox=""),
        row(image_path="./a.jpg", bbox="0,0,40,60"),
        row(sku_id="pear", bbox="0,0,50,70"),
        row(bbox="0,0,20,20"),
    )
    assert catalogue.skipped["reason"].to_list() == ["duplicate_row"]
    assert catalogue.skipped["detail"].to_list() == ["row 2: the same SKU, image and box as row 1"]
    kept = catalogue.items.select("sku_id", "item_idx", "bbox").rows()
    assert kept == [
        ("apple-1", 1, [0, 0, 20, 20]),
        ("apple-1", 2, [0, 0, 40, 60]),
        ("pear", 3, [0, 0, 40, 60]),
    ]


def test_all_skus_that_share_a_picture_are_kept(folder: Path) -> None:
    catalogue = read_rows(folder, *(row(sku_id=f"shirt-{size}", size=size) for size in "SML"))
    assert catalogue.skipped.is_empty()
    assert catalogue.items.select("sku_id", "item_idx").rows() == [
        ("shirt-L", 1),
        ("shirt-M", 2),
        ("shirt-S", 3),
    ]
    assert catalogue.items["image_id"].n_unique() == 1
    assert catalogue.skus.rows() == [("shirt-L", "L"), ("shirt-M", "M"), ("shirt-S", "S")]


@pytest.mark.parametrize("order", [1, -1])
def test_a_picture_that_is_both_catalog_and_query_is_catalog(folder: Path, order: int) -> None:
    rows = [row(domain="query"), row(domain="catalog")][::order]
    catalogue = read_rows(folder, *rows)
    assert catalogue.items["domain"].to_list() == ["catalog"]
    assert reasons(catalogue) == {"duplicate_row": 1}


def test_a_skus_words_are_its_first_in_file_order(folder: Path) -> None:
    rows = [
        row(image_path="nowhere.jpg", title="", brand="", category=""),
        row(title="Granny Smith", brand="", category=""),
        row(image_path="b.jpg", title="Golden", brand="Acme", category="Apple", domain="query"),
        row(sku_id="pear", title="", brand="", category=""),
    ]
    catalogue = read_rows(folder, *rows)
    words = catalogue.items.select("sku_id", "domain", "title", "category_name").rows()
    assert words == [
        ("apple-1", "catalog", "Granny Smith", "Apple"),
        ("apple-1", "query", "Granny Smith", "Apple"),
        ("pear", "catalog", None, "product"),
    ]
    assert catalogue.skus.rows() == [("apple-1", "Acme"), ("pear", None)]
    assert catalogue.warnings == (
        "1 SKU has several values of 'title', the first is used; not so row 3 of SKU 'apple-1'",
    )


def test_a_sku_of_two_splits_stays_in_training(folder: Path) -> None:
    catalogue = read_rows(folder, row(split="validation"), row(image_path="b.jpg", split="train"))
    assert reasons(catalogue) == {"sku_in_two_splits": 1}
    assert catalogue.items["split"].to_list() == ["train"]


def test_without_a_split_column_whole_skus_are_split_by_hash(tmp_path: Path) -> None:
    rows = []
    for n in range(300):
        name = f"{n}.bmp"
        write_image(tmp_path / name, size=(2, 2))
        domain = "query" if n >= 150 else "catalog"
        rows.append({"sku_id": f"sku{n % 150}", "image_path": name, "domain": domain})
    items = read_rows(tmp_path, *rows).items
    assert items.group_by("sku_id").agg(pl.col("split").n_unique())["split"].max() == 1
    share = items.unique("sku_id").filter(split="validation").height / 150
    assert 0.12 < share < 0.28
    assert set(read_rows(tmp_path, *rows, validation_fraction=0).items["split"]) == {"train"}


def test_without_a_photo_and_a_split_column_every_sku_may_train(folder: Path) -> None:
    rows = [{"sku_id": f"sku{n}", "image_path": "a.jpg", "domain": "catalog"} for n in range(40)]
    assert set(read_rows(folder, *rows).items["split"]) == {"train"}
    without = [{"sku_id": one["sku_id"], "image_path": "a.jpg"} for one in rows]
    assert set(read_rows(folder, *without).items["split"]) == {"train"}
    photo = {"sku_id": "sku0", "image_path": "b.jpg", "domain": "query"}
    assert set(read_rows(folder, *rows, photo).items["split"]) == {"train", "validation"}
    given = [{**one, "split": "validation"} for one in rows]
    assert set(read_rows(folder, *given).items["split"]) == {"validation"}


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


def test_a_likely_misspelling_is_kept_with_a_warning(folder: Path) -> None:
    catalogue = read_rows(folder, row(titel="x", price="9.90"))
    assert catalogue.skus.to_dicts() == [{"sku_id": "apple-1", "titel": "x", "price": 9.9}]
    (warning,) = catalogue.warnings
    assert warning.endswith("the column 'titel' is kept as it is; did you mean 'title'?")


def test_columns_of_a_csv_are_numbers_where_all_cells_are(folder: Path) -> None:
    columns = {
        "stock": ("3", "40"), "price": ("9.90", "12"), "gtin": ("0401", "12"), "size": ("38", "M"),
        "cost": ("9,90", "8"), "grouped": ("1,000", "2"), "empty": ("", ""),
    }  # fmt: skip
    first, second = ({name: cells[i] for name, cells in columns.items()} for i in (0, 1))
    skus = read_rows(folder, row(**first), row(sku_id="pear", **second)).skus
    assert skus.drop("sku_id").to_dict(as_series=False) == {
        "stock": [3, 40], "price": [9.9, 12.0], "gtin": ["0401", "12"], "size": ["38", "M"],
        "cost": [9.9, 8.0], "grouped": ["1,000", "2"], "empty": [None, None],
    }  # fmt: skip


def test_columns_of_a_parquet_keep_their_types_and_nested_ones_become_words(folder: Path) -> None:
    cells = {
        "price": Decimal("19.99"), "launched": date(2026, 3, 1), "sold_out": False, "big": 2**63,
        "colours": ["red", "navy"], "cut": {"fit": "slim", "pockets": 2}, "nothing": None,
        "raw": b"caf\xc3\xa9", "attributes": ["warm", "light"], "title": 501.0,
    }  # fmt: skip
    frame = pl.DataFrame([row(**cells)], schema_overrides={"big": pl.UInt64})
    frame.write_parquet(folder / "manifest.parquet")
    catalogue = read(folder / "manifest.parquet")
    assert catalogue.skus.drop("sku_id").to_dicts() == [
        {
            "price": 19.99, "launched": date(2026, 3, 1), "sold_out": False, "big": 2**63,
            "colours": ["red", "navy"], "cut": "fit slim, pockets 2", "nothing": None, "raw": "café",
        }
    ]  # fmt: skip
    assert catalogue.items.select("title", "description").row(0) == ("501", "warm, light")


@pytest.mark.parametrize(
    ("value", "sku_id"),
    [
        (1001.0, "1001"),
        (1001, "1001"),
        (Decimal("1001.00"), "1001"),
        (b"A-1", "A-1"),
        ("1001.0", "1001"),
        ("007", "007"),
        (" Cafe\u0301 ", "Caf\u00e9"),
        ("梨" * 128, "梨" * 128),
        ("1.50", "1.50"),
        (float(2**53), None),
        (1001.5, None),
        (b"\xff", None),
        (["A-1"], None),
        ("梨" * 129, None),
        (True, None),
    ],
)
def test_an_id_has_one_reading_or_is_refused(folder: Path, value: Any, sku_id: str | None) -> None:
    rows = {"sku_id": [value], "image_path": ["a.jpg"], "domain": ["catalog"], "split": ["train"]}
    pl.DataFrame(rows).write_parquet(folder / "manifest.parquet")
    if sku_id is None:
        with pytest.raises(UserError, match="no usable item; left out: bad_sku_id 1"):
            read(folder / "manifest.parquet")
    else:
        assert read(folder / "manifest.parquet").items["sku_id"].to_list() == [sku_id]


def test_an_id_that_may_be_another_sku_is_refused(folder: Path) -> None:
    catalogue = read_rows(folder, row(sku_id="1001"), row(sku_id="1001.0", image_path="b.jpg"))
    assert catalogue.items["sku_id"].to_list() == ["1001"]
    assert catalogue.skipped["detail"].to_list() == [
        "row 2: sku_id '1001.0' may be '1001', which is a SKU too; keep one"
    ]


def test_ids_of_a_column_that_has_rounded_them_are_refused(folder: Path) -> None:
    frame = pl.DataFrame([row(sku_id=16_777_217.0)]).with_columns(pl.col("sku_id").cast(pl.Float32))
    frame.write_parquet(folder / "manifest.parquet")
    with pytest.raises(UserError, match="sku_id is Float32, which has rounded large ids"):
        read(folder / "manifest.parquet")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_file_is_found_in_either_unicode_form(folder: Path, form: Literal["NFC", "NFD"]) -> None:
    other = "NFD" if form == "NFC" else "NFC"
    on_disk = unicodedata.normalize(form, "été/café.jpg")
    write_image(folder / on_disk)
    (folder / os.fsdecode(b"stray-\xff.jpg")).touch()
    catalogue = read_rows(
        folder, row(image_path=unicodedata.normalize(other, on_disk)), row(image_path=on_disk)
    )
    assert catalogue.items["orig_image_path"].to_list() == [on_disk]
    assert reasons(catalogue) == {"duplicate_row": 1}


def test_two_files_that_differ_in_their_unicode_form_are_two_images(folder: Path) -> None:
    for name in ("\u00e9.jpg", "e\u0301.jpg"):
        write_image(folder / name)
    items = read_rows(folder, row(image_path="\u00e9.jpg"), row(image_path="e\u0301.jpg")).items
    assert items["image_id"].n_unique() == 2


@pytest.mark.parametrize("name", ["sku_id", "image_path"])
def test_a_missing_required_column_is_named(folder: Path, name: str) -> None:
    path = write_manifest(folder, [{key: value for key, value in row().items() if key != name}])
    with pytest.raises(UserError, match=f"lacks the column '{name}'"):
        read(path)


def test_without_a_domain_all_rows_are_catalog_and_it_is_said(folder: Path) -> None:
    bare = [{"sku_id": "apple", "image_path": "a.jpg"}, {"sku_id": "pear", "image_path": "b.jpg"}]
    found = read(write_manifest(folder, bare))
    assert found.items["domain"].to_list() == ["catalog", "catalog"]
    assert found.items["role"].to_list() == ["gallery", "gallery"]
    (told,) = found.warnings
    assert told.endswith("has no column 'domain': all its pictures are taken as catalog pictures")


@pytest.mark.parametrize("name", ["Domain", "domian"])
def test_a_misspelt_domain_is_not_taken_for_a_catalogue_without_photos(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"lacks the column 'domain' \(is it '{name}'\?\)"):
        read(write_manifest(folder, [{"sku_id": "a", "image_path": "a.jpg", name: "query"}]))


def test_a_list_of_photos_is_read_as_queries_with_their_boxes_alone(folder: Path) -> None:
    rows = [
        {"sku_id": "apple", "image_path": "a.jpg", "split": "nonsense", "title": "One", "bbox": "1,2,30,40"},
        {"sku_id": "apple", "image_path": "b.jpg", "split": "train", "title": "Two", "bbox": ""},
        {"sku_id": "pear", "image_path": "gone.jpg", "split": "test", "title": "", "bbox": ""},
        {"sku_id": "pear", "image_path": "https://shop.example/a.jpg", "split": "", "title": "", "bbox": ""},
    ]
    path = write_manifest(folder, rows)
    found = read_photos(path, ManifestSettings(path=str(path)))
    kept = {row["orig_image_path"]: row for row in found.items.to_dicts()}
    assert {name: (row["domain"], row["sku_id"]) for name, row in kept.items()} == {
        "a.jpg": ("query", "apple"),
        "b.jpg": ("query", "apple"),
    }
    assert [kept[name]["bbox"] for name in ("a.jpg", "b.jpg")] == [[1, 2, 30, 40], [0, 0, 40, 60]]
    assert sorted(found.skipped["reason"]) == ["missing_image", "url_refused"]
    assert found.skus.columns == ["sku_id"]


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
        ("manifest.csv", b",sku_id,image_path,domain\n0,1,a.jpg,query\n", "a column without a name; name it"),
        ("manifest.csv", b"SKU,image_path,domain\n1,a.jpg,query\n", r"lacks the column 'sku_id'; required"),
        ("manifest.csv", b"sku id,image_path,domain\n1,a.jpg,query\n", r"'sku_id' \(is it 'sku id'\?\)"),
        ("manifest.csv", b"sku_id,image_path,domain\n\x81,a.jpg,query\n", "row 1, column 'sku_id'"),
        (
            "manifest.csv",
            b"sku_id,image_path,domain,title\n1,a.jpg,query,Cr\xe8me\n",
            r"may read 'Crème' or 'Crčme' in row 1, column 'title'; save it as CSV UTF-8",
        ),
        ("manifest.csv", b"\xef\xbb\xbfsku_id;\xff\n", "is not utf-8-sig text: the header, column 2"),
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


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "utf-8"])
def test_what_spreadsheets_write_is_read(folder: Path, delimiter: str, encoding: str) -> None:
    lines = [
        ("sku_id", "image_path", "domain", "title"),
        ("ä-1", "a.jpg", "catalog", "Größe 38, 5 € “süß”"),
    ]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(lines)
    (folder / "manifest.csv").write_bytes(text.getvalue().encode(encoding))
    assert read(folder / "manifest.csv").items.select("sku_id", "title").rows() == [lines[1][::3]]


def test_an_encoding_that_is_named_is_not_guessed(folder: Path) -> None:
    path = write_manifest(folder, [row(title="Crème")])
    path.write_bytes(path.read_text().encode("cp1252"))
    assert read(path, encoding="cp1252").items["title"].to_list() == ["Crème"]
    with pytest.raises(UserError, match="unknown encoding 'ansi-western'"):
        read(path, encoding="ansi-western")


def test_a_spreadsheet_byte_order_mark_and_blank_lines_are_tolerated(folder: Path) -> None:
    path = write_manifest(folder, [row()])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n\r\n")
    assert len(read(path).items) == 1


def test_a_truncated_image_still_has_a_header(folder: Path) -> None:
    truncate(folder / "a.jpg", keep=0.99)
    assert len(read_rows(folder, row()).items) == 1


def test_progress_counts_rows_and_then_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "REPORTED", 2)
    write_image(tmp_path / "a.jpg")
    rows = [{"sku_id": f"s{row}", "image_path": "a.jpg", "domain": "catalog"} for row in range(5)]
    path, seen = write_manifest(tmp_path, rows), list[tuple[int, int]]()
    read_manifest(
        path,
        ManifestSettings(path=str(path)),
        SplitSettings(),
        lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 6), (4, 6), (6, 6)]
