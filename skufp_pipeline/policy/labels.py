"""Pseudo-labels for the policy: the effect of each action on a query (paper, Appendix E).

Every action is tried on every query; the right SKU's rank and its margin over the best other SKU are kept for
all seven. Only `train` and `development` queries of training SKUs are used. Batches are planned in advance
and saved when complete, so that a killed run repeats only the batch it was in.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from skufp_pipeline.datasets.table import DEVELOPMENT, TRAIN
from skufp_pipeline.encoders.embed import ImageEncoder, in_halves
from skufp_pipeline.encoders.tables import embedding_column, embedding_rows
from skufp_pipeline.errors import UserError
from skufp_pipeline.fingerprint.tables import biased_queries, biased_rows
from skufp_pipeline.hashing import stable_hash
from skufp_pipeline.measures.ranks import ranks, right_items
from skufp_pipeline.photos import read_crop
from skufp_pipeline.policy.actions import ACTIONS, IDENTITY, Photo
from skufp_pipeline.policy.enhance import fuse, processed, working_copy
from skufp_pipeline.policy.quality import FEATURES, quality_features
from skufp_pipeline.policy.settings import ActionSettings
from skufp_pipeline.progress import Progress

_DECIMALS = 6  # to which margins are compared

LABEL_SCHEMA: dict[str, pl.DataType] = {
    "query_id": pl.String(),
    "sku_id": pl.String(),
    "role": pl.String(),  # train | development
    "winner": pl.String(),  # largest margin; identity if it ties
    "margins": pl.Array(pl.Float32(), len(ACTIONS)),  # score of the right SKU less that of the best other
    "ranks": pl.Array(pl.Int32(), len(ACTIONS)),  # of the right SKU; ties count against it
    "features": pl.Array(pl.Float32(), len(FEATURES)),
}


def labelled_queries(images: pl.DataFrame, train_limit: int | None) -> pl.DataFrame:
    """The queries of training SKUs to label, their id renamed to `query_id`.

    All of role development, and at most `train_limit` of role train: those with the lowest hashes, so that a
    larger limit includes every smaller one.
    """
    training = images.filter(pl.col("split") == "train").rename({"item_id": "query_id"})
    order = pl.col("query_id").map_elements(lambda i: stable_hash(i, "vla-labels"), return_dtype=pl.UInt64)
    train = training.filter(pl.col("role") == TRAIN).sort(order)
    chosen = pl.concat(
        [
            training.filter(pl.col("role") == DEVELOPMENT),
            train if train_limit is None else train.head(train_limit),
        ]
    )
    return chosen.sort("query_id")


def label_queries(
    queries: pl.DataFrame,
    fingerprints: pl.DataFrame,
    encoder: ImageEncoder,
    settings: ActionSettings,
    batch_size: int,
    scratch: Path,
    progress: Progress | None = None,
) -> pl.DataFrame:
    """`LABEL_SCHEMA` and the photo's own `embedding`, one row per query, in their order.

    Args:
        queries: `query_id`, `sku_id`, `role`, `embedding`, and `path` of the photo; those whose SKU has no
            fingerprint are dropped.
        fingerprints: `sku_id`, `bias`, `fingerprint`.
        scratch: directory for finished batches.

    Raises:
        UserError: a photo can't be read, or `scratch` holds the batches of other queries.
    """
    known = queries.filter(pl.col("sku_id").is_in(fingerprints["sku_id"].implode()))
    truth = right_items(known["sku_id"], fingerprints["sku_id"])
    gallery = biased_rows(fingerprints).astype(np.float64)
    parts = []
    for number, start in enumerate(range(0, known.height, batch_size)):
        batch = known.slice(start, batch_size)
        path = scratch / f"labels_{number:05d}.parquet"
        if not path.is_file():
            rows, features = embed_actions(batch, encoder, settings)
            labels = margins_and_ranks(biased_queries(rows), gallery, truth[start : start + batch_size])
            partial = path.with_suffix(".partial")
            _table(batch, *labels, features).write_parquet(partial, compression="zstd")
            partial.rename(path)
        parts.append(_read_batch(path, batch))
        if progress is not None:
            progress(min(start + batch_size, known.height), known.height)
    empty = _table(known.clear(), *_no_labels())
    return pl.concat([empty, *parts])


def embed_actions(
    queries: pl.DataFrame, encoder: ImageEncoder, settings: ActionSettings
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns (B, A, D) unit query rows, in the order of `ACTIONS`, and (B, F) quality features.

    Args:
        queries: `embedding` of each photo without an action, and the `path` of its file.
    """
    photos, features = [], []
    for path in queries["path"]:
        photo, quality = read_working_copy(Path(path), settings)
        photos.append(photo)
        features.append(quality)
    plain = embedding_rows(queries)
    rows = np.repeat(plain[:, None], len(ACTIONS), axis=1)
    for index, action in enumerate(ACTIONS):
        if action != IDENTITY:
            rows[:, index] = fuse(plain, _embed(photos, action, encoder, settings), settings)
    return rows, np.stack(features)


def read_working_copy(path: Path, settings: ActionSettings) -> tuple[Photo, NDArray[np.float32]]:
    """Reads a crop; returns its working copy (H, W, 3) and its quality features (F,).

    Raises:
        UserError: the crop can't be read.
    """
    image = read_crop(path)
    photo = working_copy(image, settings)
    return photo, quality_features(photo, image.width, image.height)


def margins_and_ranks(
    rows: NDArray[np.float32], gallery: NDArray[np.float64], truth: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(B, A) margins and ranks of the right SKUs, for `rows` (B, A, D) of the queries after each action.

    Args:
        gallery: (S, D) fingerprints, at least two.
        truth: (B,) the row of each query's SKU.
    """
    scores = (rows.astype(np.float64) @ gallery.T).reshape(-1, len(gallery))
    right = np.repeat(truth, rows.shape[1])[:, None]
    right_ranks, right_scores = ranks(scores, right[:, 0]), np.take_along_axis(scores, right, axis=1)[:, 0]
    np.put_along_axis(scores, right, -np.inf, axis=1)
    return (right_scores - scores.max(axis=1)).reshape(rows.shape[:2]), right_ranks.reshape(rows.shape[:2])


def winners(margins: NDArray[np.float64]) -> NDArray[np.int64]:
    """(B,) action of the largest rounded margin; on ties the first one, so identity if it is among them."""
    return np.asarray(margins.round(_DECIMALS).argmax(axis=1), dtype=np.int64)


def _embed(
    photos: Sequence[Photo], action: str, encoder: ImageEncoder, settings: ActionSettings
) -> NDArray[np.float32]:
    pixels = torch.stack([encoder.preprocess(processed(photo, action, settings)) for photo in photos])
    return np.concatenate(in_halves(encoder.embed_pixels, pixels))


def _table(
    batch: pl.DataFrame,
    margins: NDArray[np.float64],
    found: NDArray[np.int64],
    features: NDArray[np.float32],
) -> pl.DataFrame:
    return batch.select(
        "query_id",
        "sku_id",
        "role",
        pl.Series("winner", [ACTIONS[best] for best in winners(margins)], dtype=pl.String),
        pl.Series("margins", margins.astype(np.float32), dtype=LABEL_SCHEMA["margins"]),
        pl.Series("ranks", found.astype(np.int32), dtype=LABEL_SCHEMA["ranks"]),
        pl.Series("features", features, dtype=LABEL_SCHEMA["features"]),
        embedding_column(embedding_rows(batch)),
    )


def _no_labels() -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float32]]:
    return (
        np.empty((0, len(ACTIONS))),
        np.empty((0, len(ACTIONS)), np.int64),
        np.empty((0, len(FEATURES)), np.float32),
    )


def _read_batch(path: Path, batch: pl.DataFrame) -> pl.DataFrame:
    labels = pl.read_parquet(path)
    if not labels["query_id"].equals(batch["query_id"]):
        raise UserError(f"{path} holds the labels of other queries; delete {path.parent} and run again")
    return labels
