"""Renders synthetic photos of a shard's SKUs from their catalogue pictures, with the product's box in each.

The seed, the SKU, the role and the number of a photo decide how it is taken, so that photos of different
roles share no draw. Without a folder of backgrounds, pictures of the shard's other SKUs are behind it.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from skufp_pipeline.camera.settings import SyntheticPhotosSettings, SyntheticSettings
from skufp_pipeline.camera.synthetic import CataloguePicture, synthetic_photo
from skufp_pipeline.datasets.contact_sheet import boxed, contact_sheet
from skufp_pipeline.datasets.crops import crop_path, told_when_disk_is_full
from skufp_pipeline.datasets.reading import DECODE_THREADS, Row, map_in_threads
from skufp_pipeline.datasets.table import CATALOG, SYNTHETIC, synthetic_id
from skufp_pipeline.photos import open_photo
from skufp_pipeline.progress import Progress
from skufp_pipeline.randomness import chance, generator
from skufp_pipeline.training.pixels import aspect_of, decode_squares, read_backgrounds

_PICTURE_SIDE = 224  # of the decoded catalogue pictures and backgrounds, pixels
_SHOWN_SKUS = 6

PHOTO_SCHEMA: dict[str, pl.DataType] = {
    "item_id": pl.String(),  # datasets.table.synthetic_id
    "sku_id": pl.String(),
    "split": pl.String(),
    "role": pl.String(),  # train | development | evaluation
    "number": pl.Int32(),  # 1, 2, ... within the SKU and role
    "category_name": pl.String(),
    "image_path": pl.String(),
    "x1": pl.Int32(),  # box of what is in the photo of the product, pixels
    "y1": pl.Int32(),
    "x2": pl.Int32(),
    "y2": pl.Int32(),
}


class Studio:
    """The decoded catalogue pictures of a shard, and what is put behind them.

    Args:
        pictures: `sku_id`, `split`, `category_name` and `path` of each catalogue picture, by SKU.
        scratch: keeps the decoded pictures for a run that goes on.
    """

    def __init__(self, pictures: pl.DataFrame, settings: SyntheticSettings, seed: int, scratch: Path) -> None:
        self.settings, self.seed = settings, seed
        self.paths = [Path(path) for path in pictures["path"]]
        self.pixels = decode_squares(self.paths, _PICTURE_SIDE, scratch / f"pictures_{_PICTURE_SIDE}.npy")
        self.backgrounds = read_backgrounds(settings.backgrounds, _PICTURE_SIDE)
        numbered = pictures.with_row_index("first").group_by("sku_id", maintain_order=True)
        self.skus = numbered.agg(pl.col("first", "split", "category_name").first(), pl.len()).to_dicts()

    def photos(self, sku: Row, counts: dict[str, int], side: int) -> Iterator[tuple[Row, bytes]]:
        """Renders all photos of a SKU: rows of `PHOTO_SCHEMA` and the files."""
        rows = range(sku["first"], sku["first"] + sku["len"])
        pictures = {row: CataloguePicture(self.pixels[row], aspect_of(self.paths[row])) for row in rows}
        for role, count in counts.items():
            for number in range(1, count + 1):
                rng = generator(self.seed, "synthetic photo", sku["sku_id"], role, number)
                picture, behind = pictures[int(rng.choice(rows))], self._background(rng, rows)
                photo = synthetic_photo(rng, picture, behind, side, self.settings.camera)
                kept = {name: sku[name] for name in ("sku_id", "split", "category_name")}
                name = crop_path({**kept, "domain": SYNTHETIC, "image_id": role, "item_idx": number})
                identity = {"item_id": synthetic_id(role, sku["sku_id"], number), "role": role}
                box = dict(zip(("x1", "y1", "x2", "y2"), photo.box, strict=True))
                yield {**identity, **kept, "number": number, "image_path": name, **box}, photo.jpeg

    def _background(self, rng: np.random.Generator, own: range) -> NDArray[np.uint8] | None:
        """Draws a picture of the folder, or one of another SKU; None (a wall, a cloth) if there is none."""
        pool = len(self.backgrounds) or len(self.pixels) - len(own)
        plain, drawn = chance(rng, self.settings.camera.plain), int(rng.integers(max(pool, 1)))
        if plain or not pool:
            return None
        if len(self.backgrounds):
            return self.backgrounds[drawn]
        return np.asarray(self.pixels[drawn if drawn < own.start else drawn + len(own)])


def render_photos(
    pictures: pl.DataFrame,
    settings: SyntheticSettings,
    photos: SyntheticPhotosSettings,
    seed: int,
    scratch: Path,
    directory: Path,
    progress: Progress | None = None,
) -> pl.DataFrame:
    """Writes the synthetic photos of every SKU of `pictures` (see `Studio`) below `directory`.

    Returns:
        One row a photo, columns of `PHOTO_SCHEMA`, in the order of the SKUs.

    Raises:
        UserError: the backgrounds are no folder of pictures, a picture can't be read, or the disk is full.
    """
    studio = Studio(pictures, settings, seed, scratch)

    def render(sku: Row) -> list[Row]:
        rows = []
        for row, jpeg in studio.photos(sku, photos.counts, photos.side):
            path = directory / row["image_path"]
            with told_when_disk_is_full(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(jpeg)
            rows.append(row)
        return rows

    found = map_in_threads(render, studio.skus, progress, threads=DECODE_THREADS, chunk=1)
    return pl.DataFrame([row for rows in found for row in rows], schema=PHOTO_SCHEMA)


def catalogue_pictures(crops: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """Returns what `render_photos` takes from a shard's table of crops."""
    path = pl.format("{}/{}", pl.lit(str(folder)), "crop_path").alias("path")
    shown = crops.filter(pl.col("domain") == CATALOG).sort("sku_id", maintain_order=True)
    return shown.select("sku_id", "split", "category_name", path)


def sheet_of_photos(photos: pl.DataFrame, folder: Path) -> Image.Image:
    """Draws the photos of the first SKUs, one SKU a row, with the product's box."""
    skus = photos["sku_id"].unique(maintain_order=True).head(_SHOWN_SKUS)
    rows = [[_boxed(folder, row) for row in photos.filter(sku_id=sku).iter_rows(named=True)] for sku in skus]
    return contact_sheet(rows, labels=[[sku] for sku in skus])


def _boxed(folder: Path, row: Row) -> NDArray[np.uint8]:
    return boxed(open_photo(folder / row["image_path"]), (row["x1"], row["y1"], row["x2"], row["y2"]))
