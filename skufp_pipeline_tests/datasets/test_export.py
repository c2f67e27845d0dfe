import errno
import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from skufp_pipeline.datasets.export import export_df2_jsonl
from skufp_pipeline.datasets.prompts import IMAGE_TEXT_SCHEMA
from skufp_pipeline.errors import UserError

CATALOG_LINE = (
    '{"split": "train", "sku_id": "010001_01_01", "pair_id": 10001, "style": 1, "category_id": 1, '
    '"category_name": "short sleeve top", "domain": "catalog", '
    '"image_path": "train/catalog/010001_01_01/000002_item1.jpg", '
    '"orig_image_path": "train/image/000002.jpg", "image_id": "000002", "item_idx": 1, '
    '"bbox": [1, 2, 30, 40], "occlusion": 2, "viewpoint": 2, "text": "A catalog photo."}'
)
QUERY_LINE = (
    '{"split": "train", "sku_id": "010001_01_01", "pair_id": 10001, "style": 1, "category_id": 1, '
    '"category_name": "short sleeve top", "domain": "query", '
    '"image_path": "train/query/010001_01_01/000001_item1.jpg", '
    '"orig_image_path": "train/image/000001.jpg", "image_id": "000001", "item_idx": 1, '
    '"bbox": [5, 6, 20, 21], "occlusion": 3, "viewpoint": null, "text": "A user photo: crème."}'
)
METADATA = """{
  "split": "train",
  "df2_root": "/data/DeepFashion2_original",
  "out_root": "OUT_ROOT",
  "num_skus": 1,
  "skus": {
    "010001_01_01": {
      "pair_id": 10001,
      "style": 1,
      "category_id": 1,
      "category_name": "short sleeve top",
      "catalog": [
        {
          "crop_path": "train/catalog/010001_01_01/000002_item1.jpg",
          "orig_image_path": "train/image/000002.jpg",
          "image_id": "000002",
          "item_idx": 1,
          "bbox": [1, 2, 30, 40],
          "occlusion": 2,
          "viewpoint": 2
        }
      ],
      "query": [
        {
          "crop_path": "train/query/010001_01_01/000001_item1.jpg",
          "orig_image_path": "train/image/000001.jpg",
          "image_id": "000001",
          "item_idx": 1,
          "bbox": [5, 6, 20, 21],
          "occlusion": 3,
          "viewpoint": null
        }
      ]
    }
  }
}"""


def shard(folder: Path, *lines: str) -> tuple[pl.DataFrame, Path]:
    rows = [json.loads(line) for line in lines]
    for row in rows:
        path = folder / row["image_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["image_id"].encode())
    return pl.DataFrame(rows, schema=IMAGE_TEXT_SCHEMA), folder


@pytest.fixture
def shards(tmp_path: Path) -> list[tuple[pl.DataFrame, Path]]:
    """Two shards; the query comes first, to be sorted behind the catalog view."""
    return [shard(tmp_path / "one", QUERY_LINE), shard(tmp_path / "two", CATALOG_LINE)]


def test_the_export_equals_the_contract_written_by_hand(tmp_path: Path, shards: list) -> None:
    out = tmp_path / "out"
    counts = export_df2_jsonl(shards, out, "/data/DeepFashion2_original")
    assert counts == {"train": 2, "validation": 0, "test": 0}
    assert (out / "train_image_text.jsonl").read_text("utf-8") == f"{CATALOG_LINE}\n{QUERY_LINE}\n"
    expected = json.loads(METADATA.replace("OUT_ROOT", str(out)))
    found = json.loads((out / "train_sku_metadata.json").read_text())
    assert json.dumps(found) == json.dumps(expected)  # the order of keys counts
    assert (out / "train/query/010001_01_01/000001_item1.jpg").read_bytes() == b"000001"
    assert (out / "train/catalog/010001_01_01/000002_item1.jpg").read_bytes() == b"000002"


def test_a_split_without_items_gets_empty_files(tmp_path: Path, shards: list) -> None:
    export_df2_jsonl(shards, tmp_path / "out", "raw")
    assert (tmp_path / "out/test_image_text.jsonl").read_bytes() == b""
    assert json.loads((tmp_path / "out/test_sku_metadata.json").read_text())["num_skus"] == 0


def test_a_second_export_gives_the_same_files_and_leaves_no_other(tmp_path: Path, shards: list) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        export_df2_jsonl(shards, out, "raw")
    names = sorted(path.name for path in out.rglob("*") if path.is_file())
    assert names == sorted(
        [
            f"{split}_{kind}"
            for split in ("train", "validation", "test")
            for kind in ("sku_metadata.json", "image_text.jsonl")
        ]
        + ["000001_item1.jpg", "000002_item1.jpg"]
    )


def test_an_interrupted_export_leaves_the_old_file_whole(
    tmp_path: Path, shards: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export_df2_jsonl(shards, out, "raw")
    before = (out / "train_image_text.jsonl").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="disk full while writing"):
        export_df2_jsonl(shards[:1], out, "raw")
    assert (out / "train_image_text.jsonl").read_bytes() == before


def test_a_missing_crop_is_a_user_error(tmp_path: Path, shards: list) -> None:
    (tmp_path / "one/train/query/010001_01_01/000001_item1.jpg").unlink()
    with pytest.raises(UserError, match=r"000001_item1\.jpg is missing; materialize sku_crops"):
        export_df2_jsonl(shards, tmp_path / "out", "raw")


def test_nothing_to_export_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no shard to export"):
        export_df2_jsonl([], tmp_path / "out", "raw")


def test_skus_have_the_references_ids_although_ours_name_their_split(tmp_path: Path) -> None:
    ours = CATALOG_LINE.replace("010001_01_01", "validation_010001_01_01").replace("train", "validation")
    export_df2_jsonl([shard(tmp_path / "one", ours)], tmp_path / "out", "raw")
    row = json.loads((tmp_path / "out/validation_image_text.jsonl").read_text())
    assert row["sku_id"] == "010001_01_01"
    assert row["image_path"] == "validation/catalog/010001_01_01/000002_item1.jpg"
    assert (tmp_path / "out" / row["image_path"]).read_bytes() == b"000002"
