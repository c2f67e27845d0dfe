"""Collects what the patch head is trained on, and makes the table of patches of a shard."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from PIL import Image

from skufp_pipeline.camera.settings import CameraSettings
from skufp_pipeline.datasets.table import DEVELOPMENT, GALLERY, TRAIN, is_synthetic
from skufp_pipeline.encoders.adapt import AdaptationData, SyntheticCamera
from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.encoders.late_interaction import Maps, PatchData, nearest_skus
from skufp_pipeline.encoders.patches import PatchEncoder, PatchGrid, TowerWithMap, maps_of
from skufp_pipeline.encoders.settings import LookTwiceSettings
from skufp_pipeline.encoders.tables import USED_SCHEMA, embedding_rows, used_queries
from skufp_pipeline.errors import TooLittleError
from skufp_pipeline.hashing import stable_hash
from skufp_pipeline.measures.maxsim import Patches
from skufp_pipeline.photos import read_crop
from skufp_pipeline.progress import Progress
from skufp_pipeline.training.pixels import aspect_of, decode_squares, read_backgrounds

Picture = Callable[[], Image.Image]  # reads or renders it

_CACHE_SIDE = 224  # of the catalogue pictures that synthetic photos are rendered from, pixels
_SAMPLE = 1024  # pictures from whose maps the projections start


@dataclass(frozen=True)
class Towers:
    """The tower of photos, and that of catalogue pictures: the frozen one, where the first is adapted."""

    photos: Encoder
    views: Encoder


def gather_patch_data(
    towers: Towers,
    grid: PatchGrid,
    images: pl.DataFrame,
    camera: tuple[CameraSettings, str | None],
    settings: LookTwiceSettings,
    seed: int,
    scratch: Path,
    progress: Progress | None = None,
) -> tuple[PatchData, pl.DataFrame]:
    """Returns the maps of training SKUs' pictures and photos, and the photos used (`USED_SCHEMA`).

    Without photos of role `train`, synthetic photos of the pictures take their place; in a catalogue without
    any photo, SKUs of every split are trained on, as in `encoders.adapt`.

    Args:
        images: `query_id`, `sku_id`, `split`, `role`, `embedding` and `path` of every crop.
        camera: of synthetic photos, and a folder of backgrounds or None.

    Raises:
        TooLittleError: fewer than two SKUs to train on.
    """
    views, photos = _chosen(images, settings)
    skus = views["sku_id"].unique(maintain_order=True).to_list()
    if len(skus) < 2:
        raise TooLittleError(f"look_twice needs two SKUs to train on; found {len(skus)}")
    number = {sku_id: row for row, sku_id in enumerate(skus)}
    view_skus = _numbers(views, number)
    if photos.height:
        photo_skus = _numbers(photos, number)
        pictures: Sequence[Picture] = _readers(photos)
        used = used_queries(photos, TRAIN)
    else:
        photo_skus, pictures = _synthetic(
            views, view_skus, len(skus), camera, towers, settings, seed, scratch
        )
        used = pl.DataFrame(schema=USED_SCHEMA)
    rows = np.zeros((len(skus), towers.views.dimension))
    np.add.at(rows, view_skus, embedding_rows(views))
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    data = PatchData(
        _maps(towers.photos, grid, pictures, scratch / "photo_maps.npy", progress),
        photo_skus,
        _maps(towers.views, grid, _readers(views), scratch / "view_maps.npy", progress),
        view_skus,
        nearest_skus(unit, settings.neighbours),
    )
    return data, used


def sample_of_maps(data: PatchData) -> torch.Tensor:
    """Returns (n, P, C) maps, half of photos and half of views, for `PatchHead.start`."""
    halves = [maps[:: max(1, 2 * len(maps) // _SAMPLE)] for maps in (data.photos, data.views)]
    return torch.from_numpy(np.concatenate(halves).astype(np.float32))


def patch_tables(
    views: PatchEncoder,
    photos: PatchEncoder,
    images: pl.DataFrame,
    batch_size: int,
    progress: Progress | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Returns the patches of a shard: of the first `V` pictures of each SKU, and of its development photos.

    Columns `sku_id`, `item_id`, `patches` (P d int8); photos are of training SKUs, synthetic ones of any.

    Args:
        views, photos: the encoders of catalogue pictures and of photos.
        images: `item_id`, `sku_id`, `split`, `role` and `path` of every crop.
    """
    most = views.head.grid.views
    shown = images.filter(pl.col("role") == GALLERY).sort("sku_id", maintain_order=True)
    shown = shown.filter(pl.int_range(pl.len()).over("sku_id") < most)
    is_asked = (pl.col("split") == "train") | is_synthetic("item_id")
    asked = images.filter((pl.col("role") == DEVELOPMENT) & is_asked)
    return (
        _with_patches(shown, views, views.view_patches, batch_size, progress),
        _with_patches(
            asked, photos, lambda pixels: photos.embed_with_patches(pixels)[1], batch_size, progress
        ),
    )


def patches_of(table: pl.DataFrame, patches: int, dimension: int) -> Patches:
    """Returns the column `patches` as (N, P, d) int8."""
    flat = table["patches"].to_numpy()
    return np.asarray(flat, dtype=np.int8).reshape(table.height, patches, dimension)


def _with_patches(
    rows: pl.DataFrame,
    encoder: PatchEncoder,
    embed: Callable[[Any], Patches],
    batch_size: int,
    progress: Progress | None,
) -> pl.DataFrame:
    grid = encoder.head.grid
    found = np.empty((rows.height, grid.patches, grid.dimension), np.int8)
    for start, pixels in _batches(_readers(rows), encoder.preprocess, batch_size):
        found[start : start + len(pixels)] = embed(pixels)
        if progress is not None:
            progress(start + len(pixels), rows.height)
    width = grid.patches * grid.dimension
    column = pl.Series("patches", found.reshape(rows.height, width), dtype=pl.Array(pl.Int8, width))
    return rows.select("sku_id", "item_id").with_columns(column)


def _chosen(images: pl.DataFrame, settings: LookTwiceSettings) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Returns the catalogue pictures and the photos to train on, by SKU; a stable sample of SKUs if many."""
    fit = images.filter(pl.col("split") == "train") if (images["role"] != GALLERY).any() else images
    photos = fit.filter(pl.col("role") == TRAIN)
    pictures = fit.filter(pl.col("role") == GALLERY)
    if photos.height:
        pictures = pictures.filter(pl.col("sku_id").is_in(photos["sku_id"].implode()))
    counts = pl.concat([pictures, photos]).group_by("sku_id").len()
    order = [stable_hash(sku_id, "look_twice") for sku_id in counts["sku_id"]]
    counts = counts.with_columns(pl.Series("order", order, pl.UInt64)).sort("order", "sku_id")
    some = counts.filter(pl.col("len").cum_sum() <= settings.most_pictures)["sku_id"].implode()
    kept = [frame.filter(pl.col("sku_id").is_in(some)) for frame in (pictures, photos)]
    pictures, photos = (frame.sort("sku_id", maintain_order=True) for frame in kept)
    return pictures, photos


def _synthetic(
    views: pl.DataFrame,
    view_skus: NDArray[np.int64],
    count: int,
    camera: tuple[CameraSettings, str | None],
    towers: Towers,
    settings: LookTwiceSettings,
    seed: int,
    scratch: Path,
) -> tuple[NDArray[np.int64], Sequence[Picture]]:
    """Returns the SKU of each synthetic photo, and functions that render them."""
    paths = [Path(path) for path in views["path"]]
    pixels = decode_squares(paths, _CACHE_SIDE, scratch / f"pictures_{_CACHE_SIDE}.npy")
    aspects, nobody = np.array([aspect_of(path) for path in paths]), np.arange(0)
    behind = read_backgrounds(camera[1], _CACHE_SIDE)
    anchors = np.zeros((0, 1), np.float32)
    data = AdaptationData(pixels, aspects, view_skus, pixels[:0], nobody, anchors, behind)
    taken = SyntheticCamera(data, camera[0], towers.photos.image_size, seed)
    each = max(1, min(settings.synthetic_photos, settings.most_pictures // count))
    first = np.searchsorted(view_skus, np.arange(count))
    pictures = np.bincount(view_skus, minlength=count)
    names = [(int(first[sku] + n % pictures[sku]), sku, n) for n in range(each) for sku in range(count)]

    def renderer(row: int, sku: int, n: int) -> Picture:
        return lambda: Image.fromarray(taken.photo(row, "look twice", sku, n).pixels)

    return np.array([sku for _, sku, _ in names], np.int64), [renderer(*name) for name in names]


def _maps(
    encoder: Encoder,
    grid: PatchGrid,
    pictures: Sequence[Picture],
    path: Path,
    progress: Progress | None,
) -> Maps:
    """Returns the (N, P, C) maps of pictures, memory-mapped at `path`; a finished file is not made again."""
    if not path.exists():
        tower, partial = TowerWithMap(encoder, grid).eval(), path.with_suffix(".partial")
        shape = (len(pictures), grid.patches, grid.channels)
        found = open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)
        for start, pixels in _batches(pictures, encoder.preprocess, 64):
            found[start : start + len(pixels)] = maps_of(tower, pixels)
            if progress is not None:
                progress(start + len(pixels), len(pictures))
        found.flush()
        partial.replace(path)
    maps: Maps = np.load(path, mmap_mode="r")
    return maps


def _batches(
    pictures: Sequence[Picture],
    preprocess: Callable[[Image.Image], torch.Tensor],
    size: int,
) -> Iterator[tuple[int, torch.Tensor]]:
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(pictures), size):
            some = pictures[start : start + size]
            yield start, torch.stack(list(pool.map(lambda read: preprocess(read()), some)))


def _readers(rows: pl.DataFrame) -> list[Picture]:
    def reader(path: str) -> Picture:
        return lambda: read_crop(Path(path))

    return [reader(path) for path in rows["path"]]


def _numbers(rows: pl.DataFrame, number: dict[str, int]) -> NDArray[np.int64]:
    return np.array([number[sku_id] for sku_id in rows["sku_id"]], np.int64)
