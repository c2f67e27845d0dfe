"""Exports fingerprints as Parquet, numpy, a FAISS file or a Qdrant collection."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.errors import UserError
from skufp_pipeline.search.images import ImageIndex
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.qdrant import connect, exported_rows, library, write_collection

COLLECTION = "fingerprints"


def export_fingerprints(index: FingerprintIndex, file_format: str, target: Path) -> list[str]:
    """Writes the fingerprints and ids of all SKUs to the folder `target`, in index order.

    Args:
        file_format: one of `FORMATS`.
            parquet: `fingerprints.parquet`, the SKU table with a `fingerprint` column, a list of D float32.
            numpy: `fingerprints.npy` (N, D) float32 unit rows, and `sku_ids.json`.
            faiss: `fingerprints.faiss`, an IndexFlatIP, and `sku_ids.json`.
            qdrant: the collection `fingerprints` of a local Qdrant (`QdrantClient(path=target)`) with
                dot-product scores and the SKU table as payload; Qdrant advises a server above 20,000 points
                (`search.qdrant` writes to one).
            Biases are exported as an extra last dimension; set it to 1 in queries.

    Returns:
        Names of the written files and folders.

    Raises:
        UserError: unknown format, missing library, non-empty target folder, failed write, or an index of
            pictures.
    """
    if file_format not in FORMATS:
        raise UserError(f"unknown format {file_format!r}: expected one of {', '.join(FORMATS)}")
    if isinstance(index, ImageIndex):
        raise UserError("an index of pictures has no fingerprints to export; name another with --index")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is not empty; name a new folder")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        FORMATS[file_format](*exported_rows(index), partial)
        if target.exists():
            target.rmdir()
        partial.rename(target)
    except OSError as error:
        raise UserError(f"{target} can't be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return sorted(path.name for path in target.iterdir() if not path.name.startswith("."))


def _parquet(rows: NDArray[np.float32], skus: pl.DataFrame, folder: Path) -> None:
    column = embedding_column(rows).alias("fingerprint")
    skus.with_columns(column).write_parquet(folder / "fingerprints.parquet", compression="zstd")


def _numpy(rows: NDArray[np.float32], skus: pl.DataFrame, folder: Path) -> None:
    np.save(folder / "fingerprints.npy", rows)
    _write_ids(skus, folder)


def _faiss(rows: NDArray[np.float32], skus: pl.DataFrame, folder: Path) -> None:
    faiss = library("faiss", "faiss-cpu")
    flat = faiss.IndexFlatIP(rows.shape[1])
    flat.add(rows)
    faiss.write_index(flat, str(folder / "fingerprints.faiss"))
    _write_ids(skus, folder)


def _qdrant(rows: NDArray[np.float32], skus: pl.DataFrame, folder: Path) -> None:
    with connect(folder) as client:
        write_collection(client, COLLECTION, rows, skus)


FORMATS: dict[str, Callable[[NDArray[np.float32], pl.DataFrame, Path], None]] = {
    "parquet": _parquet,
    "numpy": _numpy,
    "faiss": _faiss,
    "qdrant": _qdrant,
}


def _write_ids(skus: pl.DataFrame, folder: Path) -> None:
    ids: Sequence[str] = skus["sku_id"].to_list()
    (folder / "sku_ids.json").write_text(json.dumps(ids, indent=0) + "\n")
