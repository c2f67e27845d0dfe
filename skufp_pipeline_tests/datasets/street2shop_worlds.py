"""Tiny Street2Shop folders, each photo of its own colour."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.datasets.street2shop import META, PHOTOS, photo_id_of, read_street2shop
from skufp_pipeline.datasets.street2shop import Street2ShopSettings as Read
from skufp_pipeline.datasets.table import Catalogue

SIZE = (20, 30)  # width, height
BOX = {"width": 10, "top": 5, "height": 20, "left": 4}  # x1, y1, x2, y2 = 4, 5, 14, 25


def pair(photo: int, product: int, **changes: Any) -> dict[str, Any]:
    """An entry of a pairs file; `bbox` may be changed, or any other field."""
    return {"photo": photo, "product": product, "bbox": BOX} | changes


def shots(*of_products: tuple[int, int]) -> list[dict[str, Any]]:
    """Entries of a retrieval file, from (photo, product)."""
    return [{"photo": photo, "product": product} for photo, product in of_products]


def picture(number: int) -> bytes:
    """A picture unlike those of other numbers."""
    buffer = io.BytesIO()
    Image.new("RGB", SIZE, (number % 256, number // 256 % 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def write_photo(root: Path, number: int, suffix: str = ".png", content: bytes | None = None) -> Path:
    path = root / PHOTOS / f"{photo_id_of(number)}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(number) if content is None else content)
    return path


def write_world(root: Path, photos: bool = True, **files: Any) -> Path:
    """Writes `meta/json/NAME.json` for each of `files`, and every photo that they name."""
    (root / META).mkdir(parents=True, exist_ok=True)
    (root / PHOTOS).mkdir(exist_ok=True)
    for name, entries in files.items():
        (root / META / f"{name}.json").write_text(
            entries if isinstance(entries, str) else json.dumps(entries)
        )
        for entry in entries if photos and isinstance(entries, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("photo"), int):
                write_photo(root, entry["photo"])
    return root


def small_world(root: Path, **changes: Any) -> Path:
    """Products 1 (trained on), 2 (tested) and 3 (a distractor) of dresses."""
    files = {
        "train_pairs_dresses": [pair(1, 1)],
        "test_pairs_dresses": [pair(2, 2)],
        "retrieval_dresses": shots((11, 1), (12, 2), (13, 3), (14, 3)),
    }
    return write_world(root, **(files | changes))


def read(root: Path, **settings: Any) -> Catalogue:
    return read_street2shop(root, Read(**settings), SplitSettings())
