"""Exports the shards in the reference pipeline's layout: crop tree, SKU metadata and image-text JSONL.

Programs written for that layout read the export unchanged. Every file gets its name only when it is complete,
so that an interrupted export leaves no truncated file under that name.
"""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from skufp_pipeline.datasets.crops import told_when_disk_is_full
from skufp_pipeline.datasets.deepfashion2 import reference_id
from skufp_pipeline.datasets.prompts import CONTRACT_FIELDS
from skufp_pipeline.datasets.reading import Row
from skufp_pipeline.datasets.table import CATALOG, ITEM_ORDER, QUERY, SPLITS
from skufp_pipeline.errors import UserError

SKU_FIELDS = ("pair_id", "style", "category_id", "category_name")
CROP_FIELDS = ("orig_image_path", "image_id", "item_idx", "bbox", "occlusion", "viewpoint")


def export_df2_jsonl(
    shards: Iterable[tuple[pl.DataFrame, Path]], out_root: Path, df2_root: str
) -> dict[str, int]:
    """Writes `<split>_sku_metadata.json`, `<split>_image_text.jsonl` and crops; returns samples per split.

    A split without items gets empty files, so that those of an earlier export are not mistaken for it.

    Args:
        shards: one image-text table each, with the folder that its `image_path` is relative to.
        out_root: created if missing; crops are written to `out_root / image_path`.
        df2_root: where the original images are, for the metadata.

    Raises:
        UserError: there is no shard, a crop is missing, or the disk is full.
    """
    tables = []
    for image_text, crop_dir in shards:
        exported = _in_reference_form(image_text)
        _copy_crops(image_text["image_path"], exported["image_path"], crop_dir, out_root)
        tables.append(exported.select(*CONTRACT_FIELDS))
    if not tables:
        raise UserError("there is no shard to export; materialize image_text first")
    everything = pl.concat(tables).sort(ITEM_ORDER)
    counts = {}
    for split in SPLITS:
        rows = list(everything.filter(pl.col("split") == split).iter_rows(named=True))
        metadata = _sku_metadata(split, rows, out_root, df2_root)
        _write(
            out_root / f"{split}_sku_metadata.json", json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"
        )
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        _write(out_root / f"{split}_image_text.jsonl", "".join(lines))
        counts[split] = len(rows)
    return counts


def _sku_metadata(split: str, rows: list[Row], out_root: Path, df2_root: str) -> dict[str, Any]:
    skus: dict[str, dict[str, Any]] = {}
    for row in rows:
        sku = skus.setdefault(
            row["sku_id"], {name: row[name] for name in SKU_FIELDS} | {CATALOG: [], QUERY: []}
        )
        crop = {"crop_path": row["image_path"]} | {name: row[name] for name in CROP_FIELDS}
        sku[row["domain"]].append(crop)
    return {
        "split": split,
        "df2_root": df2_root,
        "out_root": str(out_root),
        "num_skus": len(skus),
        "skus": skus,
    }


def _in_reference_form(image_text: pl.DataFrame) -> pl.DataFrame:
    """Gives DeepFashion2's SKUs the reference's id, unique within a split, in `sku_id` and `image_path`."""
    rows = image_text.select("sku_id", "image_path", "pair_id", "style", "category_id").iter_rows()
    found = [
        (sku_id, path) if pair_id is None
        else (own := reference_id(pair_id, style, category_id), path.replace(f"/{sku_id}/", f"/{own}/"))
        for sku_id, path, pair_id, style, category_id in rows
    ]  # fmt: skip
    return image_text.with_columns(
        pl.DataFrame(found, schema={"sku_id": pl.String, "image_path": pl.String}, orient="row")
    )


def _copy_crops(sources: Iterable[str], targets: Iterable[str], crop_dir: Path, out_root: Path) -> None:
    for source_path, target_path in zip(sources, targets, strict=True):
        source, target = crop_dir / source_path, out_root / target_path
        if not source.is_file():
            raise UserError(f"the crop {source} is missing; materialize sku_crops of this shard again")
        temporary = _temporary(target)
        with told_when_disk_is_full(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, temporary)
            os.replace(temporary, target)


def _write(path: Path, text: str) -> None:
    temporary = _temporary(path)
    with told_when_disk_is_full(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")
