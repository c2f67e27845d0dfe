"""Reads pictures without SKUs, a folder or a manifest of image paths: each picture is a product.

A picture's SKU id is made of its path, so that it stays the same whatever is added beside it. Broken pictures
and copies are skipped and listed; other files are told of.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from skufp_pipeline.datasets.cells import MAX_SKU_ID, sku_id_of
from skufp_pipeline.datasets.manifest import UNNAMED_CATEGORY, ManifestSettings, read_manifest
from skufp_pipeline.datasets.reading import Progress, Row, build_catalogue, map_in_threads, skipped_row
from skufp_pipeline.datasets.remote import is_url
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.datasets.table import CATALOG, SKIPPED_SCHEMA, Catalogue
from skufp_pipeline.errors import ItemError, UserError
from skufp_pipeline.hashing import file_digest, stable_hash
from skufp_pipeline.photos import MAX_PIXELS, MaxPixels, size_of
from skufp_pipeline.settings import Settings

MANIFESTS = (".csv", ".parquet")
COPY = "duplicate_picture"
# A file of another name that no decoder reads is no broken picture but another file.
PICTURE_NAMES = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2"),
        *("heic", "heif", "jxl", "svg"),
    )
)
_SHOWN = 5


class PicturesSettings(Settings):
    """How pictures are read."""

    max_pixels: MaxPixels = MAX_PIXELS
    categories: bool = True  # the first folder of a picture's path names its category
    encoding: str | None = None  # of a CSV, such as cp1252; null recognises it


def read_pictures(
    path: Path, settings: PicturesSettings, splits: SplitSettings, progress: Progress | None = None
) -> Catalogue:
    """Returns the pictures below a folder, or those of a manifest, as one catalogue item each.

    Hidden files and folders are ignored. Of pictures with the same bytes one is kept. A manifest with a
    column `sku_id` is read as it stands (`manifest.read_manifest`).

    Raises:
        UserError: there is no such folder or manifest, or no usable picture in it.
    """
    if path.suffix.lower() in MANIFESTS:
        return _read_listed(path, settings, splits, progress)
    if not path.is_dir():
        raise UserError(
            f"dataset.path {str(path)!r} is neither a folder of pictures nor a .csv or .parquet manifest"
        )
    files = sorted(name for name in _files(path) if not _is_hidden(name))
    read = map_in_threads(lambda name: _read(path, name, settings), files, progress)
    rows = [row for row in read if row is not None and "reason" not in row]
    skipped = [row for row in read if row is not None and "reason" in row]
    others = [name for name, row in zip(files, read, strict=True) if row is None]
    if not rows:
        left_out = f"{len(skipped)} can't be read" if skipped else "there is none"
        raise UserError(f"{path} holds no usable picture: {left_out}; expected JPEG, PNG or WebP files")
    found = without_copies(build_catalogue(rows, skipped, False, splits, path), path)
    return replace(found, warnings=(*found.warnings, *_told(others)))


def sku_id_of_path(path: str) -> str:
    """Returns the SKU id of a picture: its relative path with colons for slashes (`boots:red 1.jpg`), the end
    of a long one replaced by a hash.

    Raises:
        ItemError: bad_sku_id, as `cells.sku_id_of`.
    """
    text = path.replace("%", "%25").replace(":", "%3A").replace("/", ":")
    if len(text) > MAX_SKU_ID:
        text = f"{text[: MAX_SKU_ID - 17]}~{stable_hash(path, 'picture'):016x}"
    return sku_id_of(text)


def without_copies(found: Catalogue, folder: Path) -> Catalogue:
    """Returns a catalogue without pictures whose bytes another has.

    The first by path stays, one in a sub-folder, which may name a category, before one without.
    """
    paths = sorted(found.items["orig_image_path"].unique(), key=lambda path: ("/" not in path, path))
    digests = map_in_threads(lambda path: file_digest(folder / path), paths)
    first: dict[str, str] = {}
    for path, digest in zip(paths, digests, strict=True):
        first.setdefault(digest, path)
    copy_of = {path: first[digest] for path, digest in zip(paths, digests, strict=True)}
    is_copy = pl.col("orig_image_path").replace_strict(copy_of) != pl.col("orig_image_path")
    detail = [f"the same bytes as {copy_of[path]}" for path in found.items["orig_image_path"]]
    listed = found.items.with_columns(
        pl.Series("detail", detail), path="orig_image_path", reason=pl.lit(COPY)
    ).filter(is_copy)
    kept = found.items.filter(~is_copy)
    skus = found.skus.filter(pl.col("sku_id").is_in(kept["sku_id"].implode()))
    skipped = pl.concat([found.skipped, listed.select(*SKIPPED_SCHEMA).cast(pl.Schema(SKIPPED_SCHEMA))])
    return replace(found, items=kept, skipped=skipped, skus=skus)


def _files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _read(folder: Path, name: str, settings: PicturesSettings) -> Row | None:
    """Returns the row of a picture, a skip row with its reason, or None for another file."""
    shown = name.encode(errors="replace").decode()
    image_id, sku_id = f"{stable_hash(shown, 'image-path'):016x}", None
    try:
        if not name.isprintable():  # bytes that are no UTF-8 among them
            raise ItemError("bad_file_name", f"the file name {name!r} can't be shown; rename it")
        sku_id = sku_id_of_path(name)
        width, height = size_of(folder / name, settings.max_pixels)
    except ItemError as error:
        if Path(name).suffix.lower() not in PICTURE_NAMES:
            return None
        return skipped_row("train", image_id, 1, shown, error, sku_id)
    return {
        "sku_id": sku_id,
        "split": "train",  # whatever is judged is held out by folds
        "domain": CATALOG,
        "image_id": image_id,
        "item_idx": 1,
        "category_name": _category(name) if settings.categories else UNNAMED_CATEGORY,
        "orig_image_path": name,
        "bbox": [0, 0, width, height],
    }


def _category(name: str) -> str:
    first, *inner = name.split("/")
    return (_words(first) or UNNAMED_CATEGORY) if inner else UNNAMED_CATEGORY


def _words(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").split())


def _told(others: Sequence[str]) -> list[str]:
    if not others:
        return []
    more = ", ..." if len(others) > _SHOWN else ""
    files = "1 file is no picture" if len(others) == 1 else f"{len(others)} files are no pictures"
    return [f"{files}: {', '.join(map(ascii, others[:_SHOWN]))}{more}"]


def _read_listed(
    path: Path, settings: PicturesSettings, splits: SplitSettings, progress: Progress | None
) -> Catalogue:
    def find(name: str) -> Path:
        if is_url(name):
            raise ItemError("url_refused", "addresses are read by `dataset.source: manifest`, with a sku_id")
        return path.parent / name

    made: set[str] = set()  # ids that the manifest does not give

    def name_picture(image_path: str) -> str:
        made.add(sku_id := sku_id_of_path(image_path))
        return sku_id

    given = ManifestSettings(path=str(path), max_pixels=settings.max_pixels, encoding=settings.encoding)
    found = read_manifest(path, given, splits, progress, find, name_picture)
    return without_copies(found, path.parent) if made else found
