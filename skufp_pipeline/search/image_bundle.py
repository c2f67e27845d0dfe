"""Builds the bundle of an index of pictures."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skufp_pipeline.encoders.tables import embedding_column, embedding_rows
from skufp_pipeline.search.bundle import build_index
from skufp_pipeline.search.files import Chunk, write_index
from skufp_pipeline.search.images import IMAGES_FOLDER, ImageIndex, ImagesFile, finish, mean_rows
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.settings import ImageIndexSettings, LexicalSettings


def build_image_index(
    directory: Path,
    images: pl.DataFrame,
    image_text: Mapping[str, pl.DataFrame],
    references: dict[str, str],
    of: str,
    settings: ImageIndexSettings,
    segment_rows: int,
    picture_side: int | None = None,
    find: Callable[[str], Path] = Path,
    columns: pl.DataFrame | None = None,
    lexical: LexicalSettings | None = None,
) -> ImageIndex:
    """Writes the index of catalogue pictures to `directory` and loads it from there.

    A product is shown by the picture nearest to the mean of its pictures; the rest is as in `build_index`.

    Args:
        images: `sku_id`, `split`, `item_id`, `image_path`, `embedding` of the catalogue's pictures.
        references: digest of the model that made the embeddings.
        of: the name of that model.

    Raises:
        UserError: an embedding is not finite or not of norm 1, or a picture occurs twice.
    """
    table = images.sort("sku_id", "item_id")
    vectors, owners = embedding_rows(table), (table["sku_id"].rle_id().to_numpy().astype(np.int64))
    means = mean_rows(vectors, owners)
    nearest = pl.Series("cosine", np.einsum("nd,nd->n", vectors, means[owners]))
    shown = table.with_columns(nearest).sort("cosine", descending=True, maintain_order=True)
    teachers = shown.unique("sku_id", keep="first").select("sku_id", "image_path")
    products = table.group_by("sku_id", maintain_order=True).agg(pl.col("split").first(), num_views=pl.len())
    fingerprints = products.with_columns(embedding_column(means).alias("fingerprint"), bias=pl.lit(0.0))
    given = segment_rows, picture_side, find, columns, lexical
    build_index(directory, fingerprints.lazy(), teachers, image_text, references, *given)
    (directory / IMAGES_FOLDER).mkdir()
    write_index(directory / IMAGES_FOLDER, _chunks(vectors, table, segment_rows), references)
    searched = settings.model_dump(include={"engine", "neighbours", "breadth", "least_recall"})
    rows = FingerprintIndex.load(directory / IMAGES_FOLDER).fingerprints
    finish(directory, rows, owners, ImagesFile(of=of, **searched))
    return ImageIndex.load(directory)


def _chunks(vectors: NDArray[np.float32], table: pl.DataFrame, rows: int) -> Iterator[Chunk]:
    named = table.select(sku_id="item_id", image="image_path")
    for begin in range(0, max(len(vectors), 1), rows):
        yield vectors[begin : begin + rows], named[begin : begin + rows]
