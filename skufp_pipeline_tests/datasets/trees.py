"""Tiny DeepFashion2 folders and manifests for the tests of this room."""

import csv
import json
import struct
import zlib
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
from PIL import ExifTags, Image

from skufp_pipeline.datasets.table import ITEM_SCHEMA, Catalogue

SIZE = (40, 60)  # width, height of the pictures


def write_image(path: Path, size: tuple[int, int] = SIZE, colour: str = "red", **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)


def item(**changes: Any) -> dict[str, Any]:
    """A good annotation of one item; a field changed to None is left out."""
    fields = {
        "category_id": 1,
        "category_name": "short sleeve top",
        "style": 1,
        "bounding_box": [5, 10, 30, 50],
        "occlusion": 2,
        "viewpoint": 2,
    }
    return {name: value for name, value in (fields | changes).items() if value is not None}


def annotate(
    root: Path, image_id: str, source: str = "shop", split: str = "train", pair_id: int = 1, **items: Any
) -> None:
    """Writes the picture and its annotation; without items, one good one."""
    write_image(root / split / "image" / f"{image_id}.jpg")
    fields = {"source": source, "pair_id": pair_id, **(items or {"item1": item()})}
    write_json(root, image_id, fields, split)


def write_json(root: Path, image_id: str, fields: Any, split: str = "train") -> None:
    path = root / split / "annos" / f"{image_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields))


def good_pair(root: Path, split: str = "train", pair_id: int = 1, first_id: int = 1) -> None:
    """One SKU with a shop and a user picture."""
    annotate(root, f"{first_id:06d}", "shop", split, pair_id)
    annotate(root, f"{first_id + 1:06d}", "user", split, pair_id)


def write_png_bomb(path: Path, width: int, height: int) -> None:
    """A PNG of a few bytes whose header claims width x height pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR" + header, b"IDAT" + zlib.compress(b"\0" * 100), b"IEND")
    packed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


def truncate(path: Path, keep: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def write_changed_image(path: Path, kind: str, random: Random) -> None:
    """A small picture of which some bytes are changed, and perhaps the end is missing."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture = Image.linear_gradient("L").resize((24, 16)).convert("RGB")
    picture.save(path, kind, **({} if kind == "BMP" else {"exif": exif}))
    content = bytearray(path.read_bytes())
    for _ in range(random.randint(1, 6)):
        content[random.randrange(len(content))] = random.randrange(256)
    path.write_bytes(content[: random.choice([len(content), random.randint(1, len(content))])])


def reasons(catalogue: Catalogue) -> dict[str, int]:
    return dict(catalogue.skipped.group_by("reason").len().iter_rows())


def write_manifest(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "manifest.csv"
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def table(*rows: dict[str, Any]) -> pl.DataFrame:
    """Items of the internal table; what a row does not say is a catalog view of a training SKU."""
    usual = {
        "sku_id": "000001_01_01",
        "split": "train",
        "domain": "catalog",
        "role": "gallery",
        "image_id": "000001",
        "item_idx": 1,
        "pair_id": 1,
        "style": 1,
        "category_id": 1,
        "category_name": "short sleeve top",
        "orig_image_path": "train/image/000001.jpg",
        "bbox": [5, 10, 30, 50],
        "occlusion": 1,
        "viewpoint": 2,
    }
    return pl.DataFrame([usual | row for row in rows], schema=ITEM_SCHEMA)
