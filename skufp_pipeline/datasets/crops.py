"""Cuts every item out of its image and writes the crop files that all later assets read.

Boxes are in pixels of the upright image (see reading.py). A box that covers the whole image is read as a
query photo is (see photos.py); any other is cut at full resolution.
"""

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
from PIL import Image
from pydantic import Field

from skufp_pipeline.datasets.reading import DECODE_THREADS, Row, map_in_threads, skipped_row
from skufp_pipeline.datasets.table import SKIPPED_SCHEMA
from skufp_pipeline.errors import ItemError, UserError
from skufp_pipeline.hashing import stable_hash
from skufp_pipeline.photos import (
    MAX_PIXELS,
    SIDE,
    MaxPixels,
    PhotoSource,
    open_photo,
    reduced,
    size_of,
    whole_photo,
)
from skufp_pipeline.progress import Progress
from skufp_pipeline.settings import Settings

MAX_FILE_NAME = 255  # bytes
CROP_SCHEMA: dict[str, pl.DataType] = {
    "crop_path": pl.String(),  # relative to the crop folder
    "width": pl.Int32(),  # of the saved crop, pixels
    "height": pl.Int32(),
}


class CropSettings(Settings):
    """Size and quality of the saved crops."""

    max_side: int = Field(SIDE, ge=1, le=65_500)  # pixels; a larger crop is scaled down, a smaller one kept
    quality: int = Field(95, ge=1, le=100)  # of the JPEG
    max_pixels: MaxPixels = MAX_PIXELS  # of the source image; a JPEG may have four times as many


def crop_path(row: Mapping[str, Any]) -> str:
    """`<split>/<catalog|query>/<sku_id>/<image_id>_item<idx>.jpg`, the SKU id quoted as in a URL; if that is
    longer than a file name can be, its beginning and a hash."""
    folder = quote(row["sku_id"], safe="")
    if len(folder) > MAX_FILE_NAME:
        folder = f"{folder[:200]}~{stable_hash(row['sku_id'], 'crop-folder'):016x}"
    if folder.startswith("."):  # quote() leaves dots, and ".." would lead out of the tree
        folder = "%2E" + folder[1:]
    return f"{row['split']}/{row['domain']}/{folder}/{row['image_id']}_item{row['item_idx']}.jpg"


def write_crops(
    items: pl.DataFrame,
    find: Callable[[str], Path],
    out_dir: Path,
    settings: CropSettings,
    progress: Progress | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Writes one JPEG per item; the same image and settings give the same bytes.

    Args:
        items: rows of `ITEM_SCHEMA`.
        find: returns the local file of an `orig_image_path`, or raises an `ItemError`.
        out_dir: crops are written to `out_dir / crop_path`.
        progress: called with (source images cut, total).

    Returns:
        The items that have a crop, in their order, with the columns of `CROP_SCHEMA`; and a table of
        `SKIPPED_SCHEMA` of the others.

    Raises:
        UserError: the disk is full.
    """
    by_image: dict[str, list[Row]] = {}
    for index, row in enumerate(items.iter_rows(named=True)):
        by_image.setdefault(row["orig_image_path"], []).append(row | {"index": index})
    outcomes = map_in_threads(
        lambda rows: _cut_image(rows, find, out_dir, settings),
        list(by_image.values()),
        progress,
        threads=DECODE_THREADS,
    )
    crops = [row for cut, _ in outcomes for row in cut]
    skipped = [row for _, left_out in outcomes for row in left_out]
    crop_frame = pl.DataFrame(crops, schema={"index": pl.UInt32(), **CROP_SCHEMA})
    with_crops = (
        items.with_row_index("index").join(crop_frame, on="index", maintain_order="left").drop("index")
    )
    return with_crops, pl.DataFrame(skipped, schema=SKIPPED_SCHEMA)


def read_item(source: PhotoSource, bbox: Sequence[int], settings: CropSettings) -> Image.Image:
    """Returns the pixels of an item as `write_crops` cuts them, before they are saved. Raises `ItemError`."""
    return read_items(source, [bbox], settings)[0]


def read_items(
    source: PhotoSource,
    boxes: Sequence[Sequence[int]],
    settings: CropSettings,
    drafted: bool = False,
    decoded: Image.Image | None = None,
) -> list[Image.Image]:
    """Returns several items of one image, decoded once for whole and once for other boxes.

    With `drafted`, a JPEG is decoded at the smallest scale at which every item still has `max_side` pixels
    or all of its own: much faster for phones' photos, but not to the pixel what `write_crops` cuts. Items are
    cut out of `decoded`, the image as it was decoded before, if it has as many. Raises as `read_item`.
    """
    size = size_of(source, settings.max_pixels)
    are_whole = [tuple(bbox) == (0, 0, *size) for bbox in boxes]
    enough = _enough(boxes, size, settings.max_side) if drafted else None
    again = {False: decoded} if decoded is not None and enough and min(decoded.size) >= enough else {}
    images = {
        is_whole: again.get(is_whole) or _read(source, is_whole, settings, enough)
        for is_whole in set(are_whole)
    }
    return [
        images[True] if is_whole else _cut(images[False], bbox, size, settings.max_side)
        for bbox, is_whole in zip(boxes, are_whole, strict=True)
    ]


@contextmanager
def told_when_disk_is_full(path: Path) -> Iterator[None]:
    """Raises a `UserError` if the disk is full, or the quota used up, while `path` is written."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"disk full while writing {path}; free some space or move the data root, then run again"
        ) from error


def _cut_image(
    rows: list[Row], find: Callable[[str], Path], out_dir: Path, settings: CropSettings
) -> tuple[list[Row], list[Row]]:
    """Returns crop rows and skip rows of one image, decoded once for whole and once for other boxes."""
    try:
        source = find(rows[0]["orig_image_path"])
        size = size_of(source, settings.max_pixels)
        whole = [0, 0, *size]
        kinds = {row["bbox"] == whole for row in rows}
        images = {is_whole: _read(source, is_whole, settings) for is_whole in kinds}
    except ItemError as error:
        return [], [_skipped(row, error) for row in rows]
    crops: list[Row] = []
    skipped: list[Row] = []
    for row in rows:
        try:
            is_whole = row["bbox"] == whole
            crop = images[True] if is_whole else _cut(images[False], row["bbox"], size, settings.max_side)
        except ItemError as error:
            skipped.append(_skipped(row, error))
            continue
        relative = crop_path(row)
        _save(crop, out_dir / relative, settings.quality)
        crops.append(
            {"index": row["index"], "crop_path": relative, "width": crop.width, "height": crop.height}
        )
    return crops, skipped


def _skipped(row: Row, error: ItemError) -> Row:
    return skipped_row(
        row["split"], row["image_id"], row["item_idx"], row["orig_image_path"], error, row["sku_id"]
    )


def _enough(boxes: Sequence[Sequence[int]], size: tuple[int, int], side: int) -> int:
    """Pixels per side of an image of `size` that leave `side` of the longer side of its smallest box."""
    smallest = min(max(x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes)
    return ceil(min(size) * min(side / smallest, 1))


def _read(source: PhotoSource, whole: bool, settings: CropSettings, enough: int | None = None) -> Image.Image:
    if whole:
        return whole_photo(source, settings.max_side, settings.max_pixels)
    return open_photo(source, settings.max_pixels, enough)


def _cut(image: Image.Image, bbox: Sequence[int], size: tuple[int, int], max_side: int) -> Image.Image:
    """Cuts a box, in pixels of an image of `size`, out of that image, which may have been read reduced."""
    x1, y1, x2, y2 = bbox
    if x2 > size[0] or y2 > size[1]:
        now = f"{size[0]} x {size[1]}"
        raise ItemError(
            "image_changed", f"bounding box {list(bbox)} is outside the image, which is now {now}"
        )
    across, down = image.width / size[0], image.height / size[1]
    box = (int(x1 * across), int(y1 * down), ceil(x2 * across), ceil(y2 * down))
    try:
        return reduced(image.crop(box), max_side)
    except MemoryError as error:
        raise ItemError(
            "image_too_large", f"bounding box {list(bbox)} needs more memory than is free"
        ) from error


def _save(crop: Image.Image, path: Path, quality: int) -> None:
    crop.info = {}  # otherwise a source file's comment would be copied
    with told_when_disk_is_full(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        crop.save(path, format="JPEG", quality=quality)
