"""Products that are added beside a manifest."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from skufp_pipeline.datasets.added import added_folder, fitted, read_added, write_added
from skufp_pipeline.datasets.manifest import ManifestSettings, checked_row, read_manifest
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.datasets.table import Catalogue
from skufp_pipeline.errors import UserError
from skufp_pipeline_tests.datasets.trees import write_image, write_manifest


def read(path: Path) -> Catalogue:
    return read_manifest(path, ManifestSettings(path=str(path)), SplitSettings())


def jpeg(folder: Path, colour: str) -> bytes:
    write_image(folder / f"{colour}.jpg", colour=colour)
    return (folder / f"{colour}.jpg").read_bytes()


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg"):
        write_image(tmp_path / name)
    rows = [
        {"sku_id": "a", "image_path": "a.jpg", "title": "Old", "price": "5", "brand": "X"},
        {"sku_id": "b", "image_path": "b.jpg", "title": "Bee", "price": "7", "brand": "Y"},
    ]
    return write_manifest(tmp_path, rows)


def test_an_added_product_is_read_with_its_pictures_and_new_columns(manifest: Path, tmp_path: Path) -> None:
    row = {"sku_id": "c", "title": "New", "price": 9.5, "colour": "red"}
    file, pictures = write_added(manifest, row, [jpeg(tmp_path, "green"), jpeg(tmp_path, "blue")])
    assert file.parent == added_folder(manifest) == tmp_path / "manifest.added"
    catalogue = read(manifest)
    new = catalogue.items.filter(pl.col("sku_id") == "c")
    assert set(new["orig_image_path"]) == {f"manifest.added/{picture.name}" for picture in pictures}
    assert new.select("title", "domain", "split").unique().rows() == [("New", "catalog", "train")]
    assert catalogue.skus.rows(named=True) == [
        {"sku_id": "a", "price": 5.0, "brand": "X", "colour": None},
        {"sku_id": "b", "price": 7.0, "brand": "Y", "colour": None},
        {"sku_id": "c", "price": 9.5, "brand": None, "colour": "red"},
    ]
    assert catalogue.skipped.is_empty()


def test_the_row_that_was_added_last_counts(manifest: Path, tmp_path: Path) -> None:
    for title, price, colour in (("Newer", 6, "green"), ("Newest", 8, "blue")):
        write_added(manifest, {"sku_id": "a", "title": title, "price": price}, [jpeg(tmp_path, colour)])
    catalogue = read(manifest)
    own = catalogue.items.filter(pl.col("sku_id") == "a")
    assert own.height == 2  # the manifest's picture, and the last one that was added
    assert own["title"].unique().to_list() == ["Newest"]
    assert catalogue.skus.row(0, named=True) == {"sku_id": "a", "price": 8, "brand": "X"}
    assert len(list(added_folder(manifest).iterdir())) == 2


def test_without_additions_a_manifest_reads_as_ever(manifest: Path, tmp_path: Path) -> None:
    before = read(manifest)
    file, _ = write_added(manifest, {"sku_id": "c"}, [jpeg(tmp_path, "green")])
    assert read(manifest).items.height == 3
    file.unlink()
    after = read(manifest)
    assert after.items.equals(before.items)
    assert after.skus.equals(before.skus)


def test_an_added_product_has_the_split_of_its_sku(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    rows = [{"sku_id": "a", "image_path": "a.jpg", "domain": "catalog", "split": "test"}]
    manifest = write_manifest(tmp_path, rows)
    for sku_id in ("a", "b"):
        write_added(manifest, {"sku_id": sku_id}, [jpeg(tmp_path, "green")])
    items = read(manifest).items
    assert dict(items.select("sku_id", "split").unique().rows()) == {"a": "test", "b": "train"}
    assert items["domain"].unique().to_list() == ["catalog"]


def test_a_cell_that_does_not_fit_a_typed_column_is_left_out_and_told(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    frame = pl.DataFrame({"sku_id": [1], "image_path": ["a.jpg"], "since": [date(2026, 1, 2)], "new": [True]})
    frame.write_parquet(tmp_path / "m.parquet")
    write_added(tmp_path / "m.parquet", {"sku_id": 2, "since": "2026-03-04"}, [jpeg(tmp_path, "green")])
    write_added(tmp_path / "m.parquet", {"sku_id": 3, "since": "soon", "new": 1}, [jpeg(tmp_path, "blue")])
    catalogue = read(tmp_path / "m.parquet")
    assert catalogue.skus.rows() == [
        ("1", date(2026, 1, 2), True),
        ("2", date(2026, 3, 4), None),
        ("3", None, None),
    ]
    told = "\n".join(catalogue.warnings)
    assert "since of the added SKU 3 is 'soon'; it is left out, because the column holds a date" in told
    assert "new of the added SKU 3 is 1; it is left out, because the column holds true or false" in told


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({}, "sku_id is empty"),
        ({"sku_id": True}, "sku_id 'true' is a bool"),
        ({"sku_id": "c", "image_path": "/etc/passwd"}, "names image_path, which its picture decides"),
        ({"sku_id": "c", "domain": "query"}, "names domain"),
        (
            {"sku_id": "c", "price": "cheap"},
            "price is 'cheap', and the manifest's column holds a whole number",
        ),
        ({"sku_id": "c", "brand": "X", " brand ": "Y"}, "two columns of one name"),
    ],
)
def test_a_row_that_the_manifest_can_not_hold_is_refused(
    manifest: Path, row: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        checked_row(manifest, ManifestSettings(path=str(manifest)), row)


def test_a_checked_row_has_an_id_as_ids_are_read(manifest: Path) -> None:
    settings = ManifestSettings(path=str(manifest))
    row = {" sku_id": " 1001.0 ", "title": "", "price": 3, "brand": None, "size": "L"}
    assert checked_row(manifest, settings, row) == {"sku_id": "1001", "price": 3, "size": "L"}


@pytest.mark.parametrize("text", ["{", "[]", '{"row": {}}', '{"row": {}, "pictures": ["../../secret.jpg"]}'])
def test_a_file_that_was_not_added_is_told_by_name(manifest: Path, text: str) -> None:
    added_folder(manifest).mkdir()
    (added_folder(manifest) / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.added/x\.json"):
        read_added(manifest)


@pytest.mark.parametrize(
    ("value", "kind", "cell"),
    [
        (None, pl.Int64(), None),
        ("", pl.Boolean(), None),
        (5, pl.String(), "5"),
        ("5", pl.Int64(), 5),
        ("5.5", pl.Float64(), 5.5),
        (["red ", "", "navy"], pl.List(pl.String()), ["red", "navy"]),
        ("red", pl.List(pl.String()), ["red"]),
        (False, pl.Boolean(), False),
        ("2026-01-02T03:04:05+00:00", pl.Datetime("us", "UTC"), datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ],
)
def test_values_become_cells_of_a_column(value: Any, kind: pl.DataType, cell: Any) -> None:
    assert fitted(value, kind) == cell


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (5.5, pl.Int64()),
        (True, pl.Int64()),
        (2**63, pl.Int64()),
        ("five", pl.Float64()),
        (float("inf"), pl.Float64()),
        ("yes", pl.Boolean()),
        ("2026-13-01", pl.Date()),
        ("2026-01-02T03:04:05", pl.Datetime("us", "UTC")),
    ],
)
def test_values_that_a_column_can_not_hold_are_refused(value: Any, kind: pl.DataType) -> None:
    with pytest.raises(ValueError, match=r"^(a |true or false)"):
        fitted(value, kind)
