"""Adds the shard of each SKU and the digest of each image to the internal table, and splits it by shard."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from skufp_pipeline.datasets.reading import map_in_threads
from skufp_pipeline.datasets.table import CATALOG
from skufp_pipeline.errors import UserError
from skufp_pipeline.hashing import file_digest, stable_shard
from skufp_pipeline.progress import Progress


def require_searchable(items: pl.DataFrame) -> None:
    """Raises `UserError` where a search would make no sense: fewer than two SKUs have a catalogue picture."""
    skus = items.filter(pl.col("domain") == CATALOG)["sku_id"].unique().sort()
    if len(skus) < 2:
        found = f"one ({skus[0]})" if len(skus) else "none"
        raise UserError(
            f"a search needs catalog pictures of two SKUs at least; found {found} among {items.height} "
            "usable items: add rows of domain catalog"
        )


def with_shards(items: pl.DataFrame, shards: int) -> pl.DataFrame:
    """Adds the column `shard` (Int32) of each row's SKU."""
    shard = pl.col("sku_id").map_elements(lambda sku_id: stable_shard(sku_id, shards), return_dtype=pl.Int32)
    return items.with_columns(shard.alias("shard"))


def with_image_digests(
    items: pl.DataFrame, find: Callable[[str], Path], progress: Progress | None = None
) -> pl.DataFrame:
    """Adds `image_digest`, so that a changed image changes its rows and re-runs only its shards.

    `find` returns the local file of an `orig_image_path`.
    """
    paths = items["orig_image_path"].unique(maintain_order=True).to_list()
    digests = map_in_threads(lambda path: file_digest(find(path)), paths, progress)
    digest_table = pl.DataFrame(
        {"orig_image_path": paths, "image_digest": digests},
        schema={"orig_image_path": pl.String, "image_digest": pl.String},
    )
    return items.join(digest_table, on="orig_image_path", how="left", maintain_order="left")


def shard_table(items: pl.DataFrame, shard: int) -> bytes:
    """Serialises one shard's items as a Parquet file."""
    buffer = io.BytesIO()
    items.filter(pl.col("shard") == shard).write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def folder_listing(root: Path) -> dict[str, Any]:
    """Summarises a folder: files, bytes, and a digest of names, sizes and modification times."""
    digest, count, size = hashlib.sha256(), 0, 0
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        stat = path.stat()
        line = f"{path.relative_to(root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))  # a file name may be any bytes
        count, size = count + 1, size + stat.st_size
    return {"files": count, "bytes": size, "digest": digest.hexdigest()[:16]}
