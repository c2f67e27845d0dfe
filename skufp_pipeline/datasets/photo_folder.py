"""Lists a folder of customers' photos named by SKU, `FOLDER/SKU_ID/*.jpg`, in the format of a manifest."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from skufp_pipeline.datasets.cells import sku_id_of
from skufp_pipeline.errors import ItemError, UserError
from skufp_pipeline.photos import PhotoError, size_of


@dataclass(frozen=True)
class PhotoFolder:
    """The photos of a folder.

    Attributes:
        rows: `sku_id`, `image_path` relative to the folder, sorted.
        unknown: folders whose name is no SKU of the catalogue; their photos are not among the rows.
        unreadable: files that are no pictures.
    """

    rows: pl.DataFrame
    unknown: list[str]
    unreadable: list[str]


def list_photos(folder: Path, sku_ids: Collection[str]) -> PhotoFolder:
    """Lists the photos of the SKUs; hidden files are ignored.

    Raises UserError if the folder is missing or holds no photo of one of the SKUs.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; expected one with a folder of photos for each SKU")
    known = set(sku_ids)
    rows: list[tuple[str, str]] = []
    unknown: list[str] = []
    unreadable: list[str] = []
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."):
        try:
            sku_id = sku_id_of(inner.name)
        except ItemError:
            sku_id = ""
        if sku_id not in known:
            unknown.append(inner.name)
            continue
        for path in sorted(path for path in inner.rglob("*") if path.is_file() and path.name[0] != "."):
            name = path.relative_to(folder).as_posix()
            try:
                size_of(path)
            except (PhotoError, OSError):
                unreadable.append(name)
            else:
                rows.append((sku_id, name))
    if not rows:
        raise UserError(
            f"{folder} holds no photo of a SKU of the catalogue; expected {folder}/SKU_ID/PHOTO.jpg"
        )
    frame = pl.DataFrame(rows, schema={"sku_id": pl.String, "image_path": pl.String}, orient="row")
    return PhotoFolder(frame, unknown, unreadable)
