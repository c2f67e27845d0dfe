"""Embeds the crops and texts of a shard as unit rows, in table order."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from skufp_pipeline.datasets.table import GALLERY, SYNTHETIC, item_id
from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.encoders.tables import embedding_column, embedding_rows
from skufp_pipeline.photos import read_crop
from skufp_pipeline.progress import Progress

Result = TypeVar("Result")


class ImageEncoder(Protocol):
    """Embeds photos as unit rows: an `Encoder`, its exported image tower, or an extractor."""

    @property
    def preprocess(self) -> Callable[[Image.Image], Tensor]:
        """Converts a photo to (3, side, side)."""
        ...

    @property
    def dimension(self) -> int: ...

    def embed_pixels(self, pixels: Tensor) -> NDArray[np.float32]:
        """Returns (B, D) float32 unit rows of preprocessed images (B, 3, side, side)."""
        ...


def embed_images(
    encoder: ImageEncoder,
    image_text: pl.DataFrame,
    crop_dir: Path,
    batch_size: int,
    progress: Progress | None = None,
) -> pl.DataFrame:
    """Returns one row per crop: its identity columns and `embedding`, D float32 of unit norm."""
    paths = [crop_dir / path for path in image_text["image_path"]]
    rows = embed_crops(encoder, paths, batch_size, progress)
    identity = image_text.select(
        item_id(), "sku_id", "split", "domain", "role", "category_name", "image_id", "item_idx", "image_path"
    )
    return identity.with_columns(embedding_column(rows))


def with_anchors(images: pl.DataFrame, frozen: pl.DataFrame) -> pl.DataFrame:
    """Returns `images` with each gallery row as the unit mean of its own and the frozen tower's embedding.

    An adapted tower was trained to bring photos to the frozen tower's vectors of the catalogue (`adapt`), and
    its own vectors of the catalogue are nearer to its photos: the mean of both is better than either.

    Args:
        images, frozen: tables of `embed_images` of the same crops.
    """
    anchors = frozen.select("item_id", anchor="embedding")
    joined = images.join(anchors, on="item_id", how="left", maintain_order="left")
    rows, is_view = embedding_rows(joined), (joined["role"] == GALLERY).to_numpy()
    mixed = rows[is_view].astype(np.float64) + embedding_rows(joined.filter(is_view), "anchor")
    rows[is_view] = (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)
    return images.with_columns(embedding_column(rows))


def embed_synthetic(
    encoder: ImageEncoder,
    photos: pl.DataFrame,
    folder: Path,
    batch_size: int,
    progress: Progress | None = None,
) -> pl.DataFrame:
    """Returns the columns of `embed_images` for synthetic photos, rows of `PHOTO_SCHEMA`."""
    rows = embed_crops(encoder, [folder / path for path in photos["image_path"]], batch_size, progress)
    identity = photos.select(
        "item_id",
        "sku_id",
        "split",
        pl.lit(SYNTHETIC).alias("domain"),
        "role",
        "category_name",
        pl.col("role").alias("image_id"),
        pl.col("number").alias("item_idx"),
        "image_path",
    )
    return identity.with_columns(embedding_column(rows))


def embed_text_table(encoder: Encoder, texts: pl.DataFrame, batch_size: int) -> pl.DataFrame:
    """Returns one row per text (`text_id`, `sku_id`, `split`, `role`, `text`) with its `embedding`."""
    rows = embed_texts(encoder, texts["text"].to_list(), batch_size)
    return texts.select("text_id", "sku_id", "split", "role", "text").with_columns(embedding_column(rows))


def embed_crops(
    encoder: ImageEncoder, paths: Sequence[Path], batch_size: int, progress: Progress | None = None
) -> NDArray[np.float32]:
    """Returns (N, D) unit rows of crop files; decodes them on threads.

    Raises:
        UserError: a crop can't be read.
    """
    rows = np.empty((len(paths), encoder.dimension), dtype=np.float32)
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            pixels = torch.stack(list(pool.map(lambda path: encoder.preprocess(read_crop(path)), batch)))
            rows[start : start + len(batch)] = np.concatenate(in_halves(encoder.embed_pixels, pixels))
            if progress is not None:
                progress(start + len(batch), len(paths))
    return rows


def embed_texts(encoder: Encoder, texts: Sequence[str], batch_size: int) -> NDArray[np.float32]:
    """Returns (N, D) unit rows; encodes repeated texts once."""
    unique = sorted(set(texts))
    rows = np.empty((len(unique), encoder.dimension), dtype=np.float32)
    for start in range(0, len(unique), batch_size):
        batch = unique[start : start + batch_size]
        rows[start : start + len(batch)] = encoder.embed_texts(batch)
    row_of_text = {text: row for row, text in enumerate(unique)}
    return rows[[row_of_text[text] for text in texts]]


def in_halves(run: Callable[[Any], Result], batch: Any) -> list[Result]:
    """Runs `run` on a sequence or tensor, in halves where GPU memory is short; returns each part's result.

    Raises:
        torch.cuda.OutOfMemoryError: memory is insufficient for a single item.
    """
    try:
        return [run(batch)]
    except torch.cuda.OutOfMemoryError:
        if len(batch) == 1:
            raise
        torch.cuda.empty_cache()
    half = len(batch) // 2
    return in_halves(run, batch[:half]) + in_halves(run, batch[half:])
