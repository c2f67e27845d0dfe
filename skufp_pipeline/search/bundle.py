"""Builds an index bundle and loads the one in use."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl

from skufp_pipeline.datasets.table import CATALOG
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.search.files import Chunk, write_index
from skufp_pipeline.search.images import open_index
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.lexical import LexicalIndex
from skufp_pipeline.search.pictures import write_pictures
from skufp_pipeline.search.settings import LexicalSettings
from skufp_pipeline.search.update import COMPARED_ROWS, write_updated
from skufp_pipeline.search.versions import FINGERPRINTS, Versions
from skufp_pipeline.store import Artifact, ArtifactStore

LOOKS = ("colour", "pattern", "lightness")  # of most catalog views
SEEN = "photo_"  # before the name of a look, where the catalogue has a column of its name
OWN = ("sku_id", "split", "num_views", "category_name", "title", "text", "image", "fingerprint")


def build_index(
    directory: Path,
    fingerprints: pl.LazyFrame,
    teachers: pl.DataFrame,
    image_text: Mapping[str, pl.DataFrame],
    references: dict[str, str],
    segment_rows: int,
    picture_side: int | None = None,
    find: Callable[[str], Path] = Path,
    columns: pl.DataFrame | None = None,
    lexical: LexicalSettings | None = None,
    before: Path | None = None,
) -> FingerprintIndex:
    """Writes the index of all fingerprints to `directory` and loads it from there.

    Args:
        fingerprints: `sku_id`, `split`, `num_views`, `bias`, `fingerprint`; read one segment at a time.
        teachers: `sku_id` and the `image_path` of its representative view.
        image_text: image-text table of each shard, by key of its crops (`crops/shard_0000`).
        references: digests of the encoder, the aggregator and, if any, the policy.
        segment_rows: maximum number of rows per segment.
        picture_side: side of the thumbnails, pixels; None stores none.
        find: maps a path relative to the data root to a local path.
        columns: the catalogue's further columns by `sku_id`. A colour, pattern or lightness of the catalogue
            takes the place of the one seen in the pictures, which is kept as `photo_colour` and so on; any
            other name that the index needs for itself gets `catalogue_` before it.
        lexical: how words count; None stores no words.
        before: folder of the version whose files are linked where nothing has changed; None: all are written.

    Raises:
        UserError: a fingerprint is not finite or not of norm 1, a bias is not finite, or a SKU occurs twice.
    """
    known = pl.concat([_sku_rows(table, crops) for crops, table in image_text.items()])
    shown = known.join(teachers.select("sku_id", "image_path"), on="sku_id", how="left")
    image = pl.format("{}/{}", "crops", "image_path").alias("image")
    shown = _with_columns(shown.with_columns(image).drop("crops", "image_path"), columns)
    listed = fingerprints.select("sku_id", "bias").collect()
    biases = listed["bias"].to_numpy().astype(np.float32)
    models = references, biases if biases.any() else None
    compared = listed["sku_id"], _chunks(fingerprints, shown, COMPARED_ROWS)
    if before is None or not write_updated(directory, before, *compared, *models, segment_rows):
        write_index(directory, _chunks(fingerprints, shown, segment_rows), *models)
    index = FingerprintIndex.load(directory)
    if picture_side is not None:
        seen = index.skus.select(index.row_ids, "image").drop_nulls()
        write_pictures(directory, seen["sku_id"].to_list(), seen["image"].to_list(), picture_side, find)
    if lexical is not None and len(index):
        described = _described(image_text.values())
        skus = index.skus.with_columns(index.row_ids)
        LexicalIndex.build(skus, lexical, catalogue_columns(skus), described).save(directory)
    return index


def current_index(
    store: ArtifactStore, name: str = FINGERPRINTS, version: str | None = None, threads: int | None = None
) -> tuple[Artifact, FingerprintIndex]:
    """The artifact of a version, by default of that in use, and its index with `threads` per search.

    Raises UserError if there is none or it can't be read.
    """
    versions = Versions(store, name)
    artifact = versions.read() if version is None else store.read(versions.key(version))
    return artifact, open_index(artifact.path, threads)


def picture_paths(skus: pl.DataFrame, teachers: pl.DataFrame, images: pl.DataFrame) -> pl.DataFrame:
    """Returns `sku_id`, `item_id`, `image` (relative to the data root) and `is_shown` of catalogue pictures.

    Args:
        skus: `sku_id` and the `image` that the index shows, in the folder of all pictures of the SKU.
        teachers: `sku_id` and the `image_path` of the same within that folder.
        images: `sku_id`, `item_id` and `image_path` of the pictures.
    """
    own = teachers.select("sku_id", own="image_path")
    places = skus.select("sku_id", shown="image").join(own, on="sku_id")
    places = places.with_columns(folder=pl.col("shown").str.strip_suffix(pl.col("own")))
    listed = images.join(places, on="sku_id", maintain_order="left")
    image, is_shown = pl.col("folder") + pl.col("image_path"), pl.col("image_path") == pl.col("own")
    return listed.select("sku_id", "item_id", image=image, is_shown=is_shown)


def catalogue_columns(skus: pl.DataFrame) -> list[str]:
    """The columns of an index's SKU table that came from the catalogue's further columns."""
    seen = [name for name in LOOKS if SEEN + name not in skus.columns]
    return [name for name in skus.columns if name not in (*OWN, *seen, *(SEEN + look for look in LOOKS))]


def seen_looks(skus: pl.DataFrame) -> pl.DataFrame:
    """The SKU table with colour, pattern and lightness as seen in the pictures."""
    seen = [look for look in LOOKS if SEEN + look in skus.columns]
    return skus.with_columns(pl.col(SEEN + look).alias(look) for look in seen)


def _described(tables: Iterable[pl.DataFrame]) -> set[str]:
    """The SKUs whose text is the catalogue's; that of the others is a prompt that says nothing of its own."""
    wordy = (table.filter(pl.col("sentences").list.len() > 0)["sku_id"] for table in tables)
    return {sku_id for column in wordy for sku_id in column}


def _with_columns(shown: pl.DataFrame, columns: pl.DataFrame | None) -> pl.DataFrame:
    """Adds the catalogue's further columns to the table of SKUs."""
    if columns is None or columns.width == 1:
        return shown
    names = {name: name for name in columns.columns[1:]}
    reserved = {*OWN, *(SEEN + look for look in LOOKS)}
    for name in names:
        while names[name] in reserved:
            names[name] = f"catalogue_{names[name]}"
        reserved.add(names[name])
    seen = {look: SEEN + look for look in LOOKS if look in names}
    return shown.rename(seen).join(columns.rename(names), on="sku_id", how="left", maintain_order="left")


def _chunks(fingerprints: pl.LazyFrame, shown: pl.DataFrame, rows: int) -> Iterator[Chunk]:
    """Yields fingerprints and their SKU table in chunks of `rows`; one empty chunk if there are none."""
    count = fingerprints.select(pl.len()).collect().item()
    for begin in range(0, max(count, 1), rows):
        part = fingerprints.slice(begin, rows).collect()
        skus = part.select("sku_id", "split", "num_views")
        yield (
            embedding_rows(part, "fingerprint"),
            skus.join(shown, on="sku_id", how="left", maintain_order="left"),
        )


def _sku_rows(table: pl.DataFrame, crops: str) -> pl.DataFrame:
    """One row per SKU: `sku_id`, the columns for results and filters, and the key of its crops.

    Colour (the first of each view), pattern and lightness are the most frequent among its catalog views.
    """
    catalog = table.filter(pl.col("domain") == CATALOG).with_columns(colour=pl.col("colours").list.first())
    most = pl.col(*LOOKS).drop_nulls().mode(maintain_order=True).first()
    shown = catalog.group_by("sku_id", maintain_order=True).agg(
        pl.col("category_name", "title", "text").first(), most
    )
    return shown.with_columns(crops=pl.lit(crops))
