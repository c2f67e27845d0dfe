"""Contact sheets: pictures side by side, for looking at a data set or a result."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image, ImageDraw, ImageOps

from skufp_pipeline.datasets.lettering import write_lines
from skufp_pipeline.datasets.table import CATALOG, QUERY
from skufp_pipeline.photos import PhotoError, open_photo

GAP, FRAME, LABEL_WIDTH = 4, 3, 160
PAPER, INK, UNREADABLE = (255, 255, 255), (30, 30, 30), (160, 160, 160)

Picture = np.ndarray | Path | str | bytes
Colour = str | tuple[int, int, int]


def contact_sheet(
    rows: Sequence[Sequence[Picture]],
    tile: int = 96,
    labels: Sequence[Sequence[str]] | None = None,
    frames: Sequence[Sequence[str | None]] | None = None,
) -> Image.Image:
    """Draws one row of square tiles per entry of `rows`; rows may differ in length.

    Args:
        rows: (H, W, 3) or (H, W) uint8 arrays, paths or file contents; an unreadable one becomes a grey tile.
        tile: side of a tile in pixels; pictures keep their proportions.
        labels: the lines of text at the left of each row.
        frames: a colour name (or None) for every tile, drawn around it.

    Raises:
        ValueError: `labels` or `frames` differ from `rows` in length.
    """
    for name, given in (("labels", labels), ("frames", frames)):
        if given is not None and len(given) != len(rows):
            raise ValueError(f"{name} must have one entry per row: expected {len(rows)}, found {len(given)}")
    left = 0 if labels is None else LABEL_WIDTH
    step = tile + GAP
    columns = max((len(row) for row in rows), default=0)
    sheet = Image.new("RGB", (left + columns * step + GAP, len(rows) * step + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        top = GAP + y * step
        if labels is not None:
            write_lines(draw, (GAP, top), labels[y], LABEL_WIDTH - GAP, INK)
        for x, picture in enumerate(row):
            corner = (left + GAP + x * step, top)
            sheet.paste(fitted(picture, tile), corner)
            colour = frames[y][x] if frames is not None else None
            if colour is not None:
                box = (*corner, corner[0] + tile - 1, corner[1] + tile - 1)
                draw.rectangle(box, outline=colour, width=FRAME)
    return sheet


def boxed(image: Image.Image, box: tuple[int, int, int, int]) -> np.ndarray:
    """Draws `box` (x1, y1, x2, y2, pixels) into the image; returns it as (H, W, 3) uint8."""
    x1, y1, x2, y2 = box
    ImageDraw.Draw(image).rectangle((x1, y1, x2 - 1, y2 - 1), outline=(255, 0, 0))
    return np.asarray(image)


def fitted(picture: Picture, side: int, unreadable: Colour = UNREADABLE) -> Image.Image:
    """Pads the picture with white to a square; returns a plain square if it can't be read."""
    try:
        if isinstance(picture, np.ndarray):
            image = Image.fromarray(picture).convert("RGB")
        else:
            image = open_photo(Path(picture) if isinstance(picture, str) else picture)
    except (PhotoError, OSError):
        return Image.new("RGB", (side, side), unreadable)
    return ImageOps.pad(image, (side, side), color=PAPER)


def sheet_of_skus(crops: pl.DataFrame, folder: Path, skus: int = 6, views: int = 4) -> Image.Image:
    """Draws the first SKUs of a table of crops, one row each: catalog views, then queries."""
    rows, labels = [], []
    for sku_id in crops["sku_id"].unique(maintain_order=True).head(skus):
        sku_rows = crops.filter(pl.col("sku_id") == sku_id)
        picked = pl.concat(
            [sku_rows.filter(pl.col("domain") == domain).head(views) for domain in (CATALOG, QUERY)]
        )
        rows.append([folder / path for path in picked["crop_path"]])
        labels.append([sku_id])
    return contact_sheet(rows, tile=72, labels=labels)
