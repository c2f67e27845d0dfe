"""Rows with embedded pictures become Street2Shop's layout, whoever opens the files."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skufp_pipeline.datasets.sources import Street2ShopDataset
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.datasets.street2shop_rows import IMAGES, REQUIRED, hub_parts, parquet_parts, write_rows
from skufp_pipeline.errors import UserError

from .street2shop_worlds import picture
from .trees import reasons


def row(street: int, product: int, shop: int, kind: str = "train", **changes: Any) -> dict[str, Any]:
    """A row as petr7555/street2shop has it: whole ids, boxes as floats, pictures as bytes and path."""
    return {
        "type": kind,
        "category": "pants",
        "street_photo_id": street,
        "product_id": product,
        "width": 10.0,
        "top": 5.0,
        "height": 20.0,
        "left": 4.0,
        "shop_photo_id": shop,
        "street_photo_url": f"http://street.example/{street}.jpg",
        "shop_photo_url": f"http://shop.example/{shop}.jpg",
        "street_photo_image": {"bytes": picture(street), "path": None},
        "shop_photo_image": {"bytes": picture(shop), "path": None},
    } | changes


ROWS = [row(1, 1, 11), row(1, 1, 12), row(2, 2, 13, "test"), row(3, 1, 11)]


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def dataset(**origin: str) -> Street2ShopDataset:
    return Street2ShopDataset.model_validate({"source": "street2shop", **origin})


def raw(given: Street2ShopDataset, folder: Path) -> tuple[Path, dict[str, Any]]:
    folder.mkdir()
    return folder, dict(given.write_raw(folder))


def test_rows_become_the_layout_with_each_picture_once(tmp_path: Path) -> None:
    given = dataset(path=str(write_parquet(tmp_path / "rows" / "a.parquet", ROWS).parent))
    folder, counts = raw(given, tmp_path / "raw")
    assert counts == {
        "rows": 4, "pictures": 6, "photos": 6, "photos_without_picture": 0, "photos_with_several_pictures": 0,
    }  # fmt: skip
    assert given.folder is None
    assert given.root(folder) == folder
    found = given.catalogue(folder, SplitSettings(), 1)
    assert found.skipped.is_empty()
    assert found.items.select("sku_id", "split", "domain", "image_id").rows() == [
        ("pants_1", "train", "catalog", "000000011"),
        ("pants_1", "train", "catalog", "000000012"),
        ("pants_1", "train", "query", "000000001"),
        ("pants_1", "train", "query", "000000003"),
        ("pants_2", "validation", "catalog", "000000013"),
        ("pants_2", "validation", "query", "000000002"),
    ]
    assert found.items["bbox"].to_list()[2] == [4, 5, 14, 25]
    assert given.find(folder)(found.items["orig_image_path"][2]).read_bytes() == picture(1)


def test_the_hub_loads_a_folder_in_its_format_to_the_same_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    data = tmp_path / "hub" / "data"
    write_parquet(data / "train-00000-of-00001.parquet", [one for one in ROWS if one["type"] == "train"])
    write_parquet(data / "test-00000-of-00001.parquet", [ROWS[2]])
    found = []
    for origin in ("hub", "path"):
        given = dataset(**{origin: str(tmp_path / "hub")})
        assert given.listing() == given.listing()
        folder, _ = raw(given, tmp_path / f"raw-{origin}")
        found.append(given.items(folder, SplitSettings()).items)
    assert found[0].equals(found[1])
    assert found[0].height == 6


def test_pictures_may_be_bytes_or_files_beside_the_table_and_ids_any_whole_number(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "eleven.png").write_bytes(picture(11))
    (tmp_path / "outside.png").write_bytes(picture(13))
    cells = [picture(1), picture(2)], [{"path": "eleven.png"}, {"path": "../outside.png"}]
    rows = [
        row(1, 1, 11, street_photo_id="1", product_id="1", shop_photo_id="11"),
        row(2, 2, 13, "test", street_photo_id="2", product_id="2", shop_photo_id="13"),
    ]
    for number, one in enumerate(rows):
        one.update(zip(IMAGES, (part[number] for part in cells), strict=True))
    write_parquet(folder / "a.parquet", rows)
    given = dataset(path=str(folder))
    out, counts = raw(given, tmp_path / "raw")
    assert counts["photos_without_picture"] == 1
    found = given.items(out, SplitSettings())
    assert found.items["sku_id"].unique().to_list() == ["pants_1"]
    assert reasons(found) == {"missing_image": 1, "no_catalog_photo": 1}


def test_bad_values_and_missing_pictures_are_listed_with_the_address(tmp_path: Path) -> None:
    rows = [
        *ROWS,
        row(4, 1, 11, width=None),
        row(5, 1, 11, street_photo_image=None),
        row(6, 1, 11, street_photo_id=None),
        row(7, 1, 11, category="socks"),
        row(8, 1, 11, street_photo_image={"bytes": b"no picture", "path": "x.jpg"}),
    ]
    given = dataset(path=str(write_parquet(tmp_path / "a.parquet", rows)))
    folder, _ = raw(given, tmp_path / "raw")
    found = given.items(folder, SplitSettings())
    assert found.items.height == 6
    assert reasons(found) == {
        "bbox_malformed": 1, "missing_image": 1, "bad_field": 1, "unknown_category": 2, "broken_image": 1,
    }  # fmt: skip
    (missing,) = found.skipped.filter(reason="missing_image")["detail"]
    assert "http://street.example/5.jpg" in missing


def test_the_first_picture_of_a_photo_is_kept_and_others_are_counted(tmp_path: Path) -> None:
    other = row(1, 1, 12, shop_photo_image={"bytes": picture(99), "path": None})
    rows = [row(1, 1, 11, street_photo_image=None), *ROWS, other]
    counts = write_rows(parquet_parts(write_parquet(tmp_path / "a.parquet", rows)), tmp_path / "raw")
    assert (counts["photos_with_several_pictures"], counts["photos_without_picture"]) == (1, 0)
    kept = {path.read_bytes() for path in (tmp_path / "raw" / "photos").rglob("*") if path.is_file()}
    assert {picture(1), picture(12)} <= kept


@pytest.mark.parametrize("kind", [{}, {"type": 1}])  # none, and a number of a library's own
def test_rows_without_a_type_are_of_the_split_that_their_file_names(
    tmp_path: Path, kind: dict[str, int]
) -> None:
    bare = [{name: value for name, value in one.items() if name in REQUIRED} | kind for one in ROWS]
    write_parquet(tmp_path / "rows" / "train-00000-of-00001.parquet", [bare[0]])
    write_parquet(tmp_path / "rows" / "test-00000-of-00001.parquet", [bare[2]])
    write_rows(parquet_parts(tmp_path / "rows"), tmp_path / "raw")
    pairs = json.loads((tmp_path / "raw" / "meta/json/test_pairs_pants.json").read_text())
    assert [one["photo"] for one in pairs] == [2]


def test_a_missing_column_no_rows_and_no_parquet_are_told(tmp_path: Path) -> None:
    bare = [{name: value for name, value in ROWS[0].items() if name != "product_id"}]
    with pytest.raises(UserError, match="lack product_id; expected those of petr7555/street2shop"):
        write_rows(parquet_parts(write_parquet(tmp_path / "bare.parquet", bare)), tmp_path / "one")
    with pytest.raises(UserError, match="has no rows"):
        write_rows([], tmp_path / "two")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        write_rows(parquet_parts(tmp_path / "text.parquet"), tmp_path / "three")


def test_a_data_set_that_the_hub_does_not_have_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"can't be loaded.*petr7555/street2shop"):
        list(hub_parts(str(tmp_path / "nothing"), None))


@pytest.mark.parametrize("origin", [{}, {"path": "x", "hub": "y"}])
def test_one_origin_is_given(origin: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="give one of path, hub and render"):
        dataset(**origin)


def test_a_path_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; expected Street2Shop's layout"):
        dataset(path=str(tmp_path / "nowhere")).listing()
