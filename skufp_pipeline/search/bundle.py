"""The index bundle: what it is made of, where its versions stand, and which one is in use."""

from collections.abc import Mapping

import numpy as np
import polars as pl

from skufp_pipeline.datasets.table import CATALOG
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.errors import UserError
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.store import Artifact, ArtifactStore

INDEX, CURRENT = "index", "index/CURRENT"
IMAGE_ENCODER = "checkpoints/image_encoder_onnx"


def build_index(
    fingerprints: pl.DataFrame,
    teachers: pl.DataFrame,
    image_text: Mapping[str, pl.DataFrame],
    references: dict[str, str],
) -> FingerprintIndex:
    """The index of all fingerprints.

    Args:
        fingerprints: `sku_id`, `split`, `num_views`, `fingerprint`.
        teachers: `sku_id` and the `image_path` of the view that represents it.
        image_text: by key of the crops (`crops/shard_0000`), the shard's image-text table.
        references: digests of the encoder and the aggregator.

    Raises:
        UserError: a fingerprint is not finite or not of unit norm.
    """
    rows = embedding_rows(fingerprints, "fingerprint")
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    if not (np.abs(norms - 1) < 1e-5).all():
        raise UserError("fingerprints are not unit rows; materialize fingerprints again before the index")
    known = [_sku_rows(table, crops) for crops, table in image_text.items()]
    skus = fingerprints.select("sku_id", "split", "num_views")
    skus = skus.join(pl.concat(known), on="sku_id", how="left", maintain_order="left")
    skus = skus.join(teachers.select("sku_id", "image_path"), on="sku_id", how="left", maintain_order="left")
    image = pl.format("{}/{}", "crops", "image_path").alias("image")  # relative to the data root
    return FingerprintIndex(rows, skus.with_columns(image).drop("crops", "image_path"), references)


def current_index(store: ArtifactStore) -> tuple[Artifact, FingerprintIndex]:
    """The version in use.

    Raises:
        UserError: there is none, or it is incomplete.
    """
    version = store.read_pointer(CURRENT)
    if version is None:
        raise UserError(f"{store.root} has no search index; materialize the graph first (`skufp demo`)")
    artifact = store.read(f"{INDEX}/{version}")
    return artifact, FingerprintIndex.load(artifact.path)


def prune(store: ArtifactStore, current: str, kept: int) -> int:
    """Deletes all but the `kept` newest versions, never `current`; returns how many."""
    others = [version for version in store.newest_keys(INDEX) if version != current]
    for version in others[max(kept - 1, 0) :]:
        store.delete(f"{INDEX}/{version}")
    return len(others[max(kept - 1, 0) :])


def _sku_rows(table: pl.DataFrame, crops: str) -> pl.DataFrame:
    """`sku_id`, what a result shows of it, and where its crops are."""
    catalog = table.filter(pl.col("domain") == CATALOG)
    shown = catalog.group_by("sku_id", maintain_order=True).agg(
        pl.col("category_name", "title", "text").first()
    )
    return shown.with_columns(crops=pl.lit(crops))
