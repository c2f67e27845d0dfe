"""Products that are added beside a manifest, one file each: `catalogue.added/` next to `catalogue.csv`.

A file holds the row of one SKU as JSON, with typed cells, and names its pictures, which lie beside it. Names
are hashes of the SKU id and of the pictures. To add a SKU again replaces its file, so that the last row
counts; to delete a file takes the product out again.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from skufp_pipeline.datasets.cells import DECIMAL, INTEGER, words
from skufp_pipeline.errors import UserError
from skufp_pipeline.settings import Settings

PICTURE = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}\.jpg")
_LARGEST = 2**63 - 1


class AddedRow(Settings):
    """A SKU's cells by column, `sku_id` among them, and the names of its pictures."""

    row: dict[str, Any]
    pictures: list[str]


def added_folder(manifest: Path) -> Path:
    """The folder of what is added to a manifest.

    >>> added_folder(Path("shop/catalogue.csv")).as_posix()
    'shop/catalogue.added'
    """
    return manifest.with_suffix(".added")


def write_added(manifest: Path, row: Mapping[str, Any], pictures: Sequence[bytes]) -> tuple[Path, list[Path]]:
    """Adds a SKU with its JPEG pictures, or replaces what was added of it before; returns the files.

    The row is written last, when its pictures are there.

    Raises:
        UserError: the folder can't be written.
    """
    folder, sku = added_folder(manifest), _digest(str(row["sku_id"]).encode())
    names = [f"{sku}-{_digest(picture)}.jpg" for picture in pictures]
    content = AddedRow(row=dict(row), pictures=list(dict.fromkeys(names)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in zip(names, pictures, strict=True):
            _write(folder / name, picture)
        _write(folder / f"{sku}.json", (content.model_dump_json(indent=1) + "\n").encode())
        for path in folder.glob(f"{sku}-*.jpg"):
            if path.name not in names:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{folder} can't be written: {error.strerror or error}") from error
    return folder / f"{sku}.json", [folder / name for name in content.pictures]


def read_added(manifest: Path) -> list[AddedRow]:
    """What was added to a manifest, by the names of the files.

    Raises UserError if a file can't be read or names a picture that is none of the folder's.
    """
    found = []
    for path in sorted(added_folder(manifest).glob("*.json")):
        try:
            added = AddedRow.model_validate(json.loads(path.read_text()))
        except (OSError, ValueError, ValidationError) as error:
            raise UserError(f"{path} is no row of a product: {error}; delete it, or add it again") from error
        if odd := [name for name in added.pictures if not PICTURE.fullmatch(name)]:
            raise UserError(f"{path} names the picture {odd[0]!r}, which was not added with it; delete it")
        found.append(added)
    return found


def fitted(value: Any, kind: pl.DataType) -> Any:
    """Returns a JSON value as a cell of a column of `kind`; None if it is empty.

    >>> fitted("2026-11-27", pl.Date()), fitted(" red ", pl.String()), fitted(5, pl.Float64())
    (datetime.date(2026, 11, 27), 'red', 5.0)

    Raises ValueError, with what was expected, if it is none.
    """
    text = words(value)
    if text is None:
        return None
    if isinstance(kind, pl.List):
        return [cell for part in (value if isinstance(value, list) else [value]) if (cell := words(part))]
    if isinstance(kind, pl.String):
        return text
    if isinstance(kind, pl.Boolean):
        if not isinstance(value, bool):
            raise ValueError("true or false")
        return value
    if isinstance(kind, (pl.Date, pl.Datetime)):
        return _moment(text, kind)
    if isinstance(value, (bool, list, dict)):
        raise ValueError("a number")
    return _number(value, text, kind)


def _number(value: Any, text: str, kind: pl.DataType) -> int | float:
    if isinstance(kind, pl.Float64):
        if isinstance(value, str) and not DECIMAL.fullmatch(text):
            raise ValueError("a number")
        if not math.isfinite(number := float(value)):
            raise ValueError("a finite number")
        return number
    if not INTEGER.fullmatch(text) or abs(int(text)) > _LARGEST:
        raise ValueError("a whole number")
    return int(text)


def _moment(text: str, kind: pl.DataType) -> date:
    try:
        if isinstance(kind, pl.Date):
            return date.fromisoformat(text)
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("a date such as 2026-11-27") from None
    if (moment.tzinfo is None) != (getattr(kind, "time_zone", None) is None):
        raise ValueError("a time with its timezone" if moment.tzinfo is None else "a time without a timezone")
    return moment


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
