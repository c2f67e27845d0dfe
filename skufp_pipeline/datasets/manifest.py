"""Reads a user's catalogue, a CSV or Parquet file of SKUs and image paths, into the internal table.

Each row is one item of one image. An unusable row is skipped and listed with its number and the reason; only
a file that is invalid as a whole is an error.
"""

import csv
import difflib
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
from pydantic import Field

from skufp_pipeline.datasets.reading import (
    Progress,
    Row,
    build_catalogue,
    clip_bbox,
    map_in_threads,
    skipped_row,
)
from skufp_pipeline.datasets.remote import is_url, shown
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.datasets.table import CATALOG, QUERY, SPLITS, Catalogue
from skufp_pipeline.errors import ItemError, UserError
from skufp_pipeline.hashing import stable_fraction, stable_hash
from skufp_pipeline.photos import MAX_PIXELS, MaxPixels, size_of
from skufp_pipeline.settings import Settings

REQUIRED = ("sku_id", "image_path", "domain")
CORNERS = ("x1", "y1", "x2", "y2")
OPTIONAL = ("split", "category", "title", "description", "attributes", "bbox", *CORNERS)
UNNAMED_CATEGORY = "product"
MAX_SKU_ID = 128
MAX_FILE_NAME = 255  # of a SKU's URL-quoted folder name


class ManifestSettings(Settings):
    """Where the manifest is and how it is read."""

    path: str  # a .csv or .parquet file; image paths in it are relative to its folder
    only_pairs: bool = False  # keep only SKUs that have both catalog and query items
    validation_fraction: float = Field(0.2, ge=0, le=1)  # of the SKUs, if there is no split column
    max_pixels: MaxPixels = MAX_PIXELS


@dataclass(frozen=True)
class _Record:
    """One row of the file; `cells` is None if their number differs from the header's."""

    number: int  # 1 for the first row under the header
    cells: dict[str, Any] | None


@dataclass(frozen=True)
class _Item:
    """A valid row whose image has not been read yet."""

    number: int
    path: str
    bbox: list[float] | None  # None: the whole image
    fields: Row

    @property
    def image_id(self) -> str:
        return self.fields["image_id"]


def read_manifest(
    path: Path,
    settings: ManifestSettings,
    splits: SplitSettings,
    progress: Progress | None = None,
    find: Callable[[str], Path] | None = None,
) -> Catalogue:
    """Returns the items of a manifest, in the same order on every run.

    Columns: sku_id, image_path, domain (catalog or query); optional are split (train, validation, test;
    without the column a stable hash of the SKU decides), category, title, description, attributes (text
    appended to the description), and a bounding box in pixels of the upright image, as bbox ("x1,y1,x2,y2" or
    a list) or as columns x1, y1, x2, y2. `image_id` is a hash of the image path.

    Args:
        path: `settings.path` as the caller resolved it.
        progress: called with (image headers read, total).
        find: returns the local file of an image path or (`shown`) address, or raises an `ItemError`; by
            default the file is in the manifest's folder.

    Raises:
        UserError: the file is missing, unreadable or empty, its columns are wrong, or no row is usable.
    """
    columns, records = _read_file(path)
    _check_columns(path, columns)
    if not records:
        raise UserError(f"{path} has a header and no rows; expected one row per image of a SKU")
    items: list[_Item] = []
    skipped: list[Row] = []
    for record in records:
        try:
            items.append(_parse(record, columns, settings))
        except ItemError as error:
            skipped.append(
                _skipped(record.number, _text(record, "image_path"), _text(record, "split"), error)
            )
    sizes = _read_sizes(find or path.parent.joinpath, items, settings.max_pixels, progress)
    rows, left_out = _place(items, sizes)
    return build_catalogue(rows, skipped + left_out, settings.only_pairs, splits, path)


def image_urls(path: Path) -> list[str]:
    """Returns the addresses among a manifest's image paths. Raises `UserError` as `read_manifest`."""
    _, records = _read_file(path)
    paths = (_text(record, "image_path") for record in records)
    return [path for path in paths if path is not None and is_url(path)]


def _read_file(path: Path) -> tuple[list[str], list[_Record]]:
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path} is neither a .csv nor a .parquet file; save the manifest as one of them")
    if not path.is_file():
        raise UserError(f"there is no manifest {path}; set its path to a .csv or .parquet file")
    return readers[path.suffix.lower()](path)


def _read_csv(path: Path) -> tuple[list[str], list[_Record]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}); save it as CSV UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file: {error}; check its quotes") from error
    if not rows:
        raise UserError(
            f"{path} is empty; expected a header with {', '.join(REQUIRED)} and one row per image"
        )
    columns = [name.strip() for name in rows[0]]
    cells = (dict(zip(columns, row, strict=True)) if len(row) == len(columns) else None for row in rows[1:])
    return columns, [_Record(number, row) for number, row in enumerate(cells, start=1)]


def _read_parquet(path: Path) -> tuple[list[str], list[_Record]]:
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path} is not a readable Parquet file: {error}") from error
    frame = frame.with_columns(pl.selectors.float().fill_nan(None))
    rows = frame.iter_rows(named=True)
    return frame.columns, [_Record(number, row) for number, row in enumerate(rows, start=1)]


def _check_columns(path: Path, columns: list[str]) -> None:
    known = (*REQUIRED, *OPTIONAL)
    expected = f"known columns: {', '.join(known)}"
    for name in columns:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UserError(f"{path} has an unknown column {name!r}{hint} ({expected})")
    for name, count in Counter(columns).items():
        if count > 1:
            raise UserError(f"{path} has {count} columns named {name!r}; keep one")
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise UserError(
            f"{path} lacks the column {missing[0]!r}; required are {', '.join(REQUIRED)} ({expected})"
        )
    corners = [name for name in CORNERS if name in columns]
    if corners and ("bbox" in columns or len(corners) < len(CORNERS)):
        raise UserError(f"{path} gives boxes as {corners}; give either bbox or all of {', '.join(CORNERS)}")


def _parse(record: _Record, columns: list[str], settings: ManifestSettings) -> _Item:
    """Parses and validates a row without reading its image."""
    if record.cells is None:
        raise ItemError("malformed_row", f"the row has not {len(columns)} cells as the header has")
    sku_id = _sku_id(record)
    path = _image_path(record)
    fields = {
        "sku_id": sku_id,
        "split": _split(record, sku_id, columns, settings),
        "domain": _one_of(record, "domain", (CATALOG, QUERY)),
        "image_id": _image_id(path),
        "category_name": _text(record, "category") or UNNAMED_CATEGORY,
        "orig_image_path": path,
        "title": _text(record, "title"),
        "description": _description(record),
    }
    return _Item(record.number, path, _bbox(record), fields)


def _sku_id(record: _Record) -> str:
    sku_id = _text(record, "sku_id")
    if sku_id is None:
        raise ItemError("bad_sku_id", "sku_id is empty")
    if len(sku_id) > MAX_SKU_ID or len(quote(sku_id, safe="")) > MAX_FILE_NAME:
        raise ItemError("bad_sku_id", f"sku_id is longer than {MAX_SKU_ID} characters or a file name can be")
    return sku_id


def _image_path(record: _Record) -> str:
    """Normalises a path, which must stay in the manifest's folder; an address becomes `shown`."""
    path = _text(record, "image_path")
    if path is None:
        raise ItemError("bad_image_path", "image_path is empty")
    if is_url(path):
        return shown(path)
    normal = posixpath.normpath(path)
    if posixpath.isabs(normal) or normal.split("/")[0] == "..":
        raise ItemError("bad_image_path", f"image_path {path!r} leads out of the manifest's folder")
    return normal


def _image_id(path: str) -> str:
    """Returns 16 hex digits that depend only on the relative path and are safe in a file name."""
    return f"{stable_hash(path, 'image-path'):016x}"


def _split(record: _Record, sku_id: str, columns: list[str], settings: ManifestSettings) -> str:
    if "split" in columns:
        return _one_of(record, "split", SPLITS)
    return "validation" if stable_fraction(sku_id, "sku-split") < settings.validation_fraction else "train"


def _one_of(record: _Record, name: str, allowed: tuple[str, ...]) -> str:
    value = _text(record, name)
    if value not in allowed:
        raise ItemError(f"bad_{name}", f"{name} is {value!r}, expected {' or '.join(allowed)}")
    return value


def _description(record: _Record) -> str | None:
    """Returns the description with the attributes appended as one more sentence."""
    description, attributes = _text(record, "description"), _text(record, "attributes")
    if description is None or attributes is None:
        return description or attributes
    stop = "" if description.endswith((".", "!", "?")) else "."
    return f"{description}{stop} {attributes}"


def _bbox(record: _Record) -> list[float] | None:
    cells = record.cells or {}
    if "x1" in cells:
        corners = [_text(record, name) for name in CORNERS]
        return None if corners == [None] * 4 else _numbers(corners)
    value = cells.get("bbox")
    if isinstance(value, (list, tuple)):
        return _numbers(value)
    text = _text(record, "bbox")
    return None if text is None else _numbers(text.strip("[]()").split(","))


def _numbers(values: Iterable[Any]) -> list[float]:
    values = list(values)
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise ItemError("bbox_malformed", f"the bounding box is not four numbers: {values!r}") from error


def _text(record: _Record, name: str) -> str | None:
    """Returns a cell as stripped text; None if it is empty or absent."""
    value = (record.cells or {}).get(name)
    return None if value is None else str(value).strip() or None


def _read_sizes(
    find: Callable[[str], Path], items: list[_Item], max_pixels: int, progress: Progress | None
) -> dict[str, tuple[int, int] | ItemError]:
    """Reads each image's header once; returns its upright size, or the error, by path."""
    paths = list(dict.fromkeys(item.path for item in items))

    def size(path: str) -> tuple[int, int] | ItemError:
        try:
            return size_of(find(path), max_pixels)
        except ItemError as error:
            return error

    return dict(zip(paths, map_in_threads(size, paths, progress), strict=True))


def _place(items: list[_Item], sizes: dict[str, tuple[int, int] | ItemError]) -> tuple[list[Row], list[Row]]:
    """Returns kept rows with box and item number within the image, and skip rows."""
    rows: list[Row] = []
    skipped: list[Row] = []
    first_use: dict[tuple[str, tuple[int, ...]], int] = {}
    items_of_image: Counter[str] = Counter()
    for item in items:
        try:
            bbox = _clipped(item, sizes[item.path])
            first = first_use.setdefault((item.path, tuple(bbox)), item.number)
            if first != item.number:
                raise ItemError("duplicate_row", f"the same image and box as row {first}")
        except ItemError as error:
            skipped.append(_skipped(item.number, item.path, item.fields["split"], error))
            continue
        items_of_image[item.path] += 1
        rows.append(item.fields | {"bbox": bbox, "item_idx": items_of_image[item.path]})
    return rows, skipped


def _clipped(item: _Item, size: tuple[int, int] | ItemError) -> list[int]:
    if isinstance(size, ItemError):
        raise size
    return [0, 0, *size] if item.bbox is None else clip_bbox(item.bbox, *size)


def _skipped(number: int, path: str | None, split: str | None, error: ItemError) -> Row:
    path = None if path is None else shown(path)
    image_id = None if path is None else _image_id(path if is_url(path) else posixpath.normpath(path))
    row_error = ItemError(error.reason, f"row {number}: {error.detail}")
    return skipped_row(split, image_id, None, path, row_error)
