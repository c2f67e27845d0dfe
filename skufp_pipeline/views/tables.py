"""Tables of generated views: all candidates with their verdicts, and embeddings of the accepted ones."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skufp_pipeline.datasets.table import GALLERY, item_id
from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.encoders.embed import embed_crops
from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.training.pixels import read_square
from skufp_pipeline.views.filters import ACCEPTED, Scores, Thresholds, nsfw_scores, score, verdicts
from skufp_pipeline.views.generate import Generated

GENERATED = "generated"  # the domain of accepted views

CANDIDATE_SCHEMA: dict[str, pl.DataType] = {
    "candidate_id": pl.String(),
    "item_id": pl.String(),  # of the source view
    "sku_id": pl.String(),
    "split": pl.String(),
    "candidate": pl.Int32(),
    "source_path": pl.String(),  # relative to the shard's crops
    "image_path": pl.String(),  # relative to the shard's images; the file exists only if accepted
    "prompt": pl.String(),
    "strength": pl.Float32(),
    "seed": pl.Int64(),
    "clip_cosine": pl.Float32(),
    "hsv_distance": pl.Float32(),
    "sharpness": pl.Float32(),
    "nsfw": pl.Float32(),  # null where unknown
    "verdict": pl.String(),  # accepted, or the reason for rejection
}


def score_generated(
    generated: Sequence[Generated],
    sources: Mapping[str, Path],
    encoder: Encoder,
    side: int,
    batch_size: int,
    zero_shot: bool,
) -> Scores:
    """Scores candidates against their source crops.

    Args:
        sources: the crop of every view, by `item_id`.
        side: side in pixels of the squares for measuring colours and sharpness.
        zero_shot: whether the encoder is pretrained, so that it can detect unsafe images.
    """
    paths = [item.path for item in generated]
    crops = sorted({sources[item.candidate.item_id] for item in generated})
    row_of_crop = {path: row for row, path in enumerate(crops)}
    rows = [row_of_crop[sources[item.candidate.item_id]] for item in generated]
    embeddings = embed_crops(encoder, paths, batch_size)
    return score(
        embeddings,
        squares(paths, side),
        embed_crops(encoder, crops, batch_size)[rows],
        squares(crops, side)[rows],
        nsfw_scores(encoder, embeddings, [item.unsafe for item in generated], zero_shot),
    )


def squares(paths: Sequence[Path], side: int) -> NDArray[np.uint8]:
    """Reads image files as (N, side, side, 3) uint8."""
    found = np.empty((len(paths), side, side, 3), dtype=np.uint8)
    for row, path in enumerate(paths):
        found[row] = read_square(path, side)
    return found


def candidate_table(generated: Sequence[Generated], scores: Scores, thresholds: Thresholds) -> pl.DataFrame:
    """Returns `CANDIDATE_SCHEMA`, one row per candidate."""
    columns = [asdict(item.candidate) for item in generated]
    known = {name: kind for name, kind in CANDIDATE_SCHEMA.items() if name in (columns or [{}])[0]}
    table = pl.DataFrame(columns, schema=known) if columns else pl.DataFrame(schema=CANDIDATE_SCHEMA)
    return table.with_columns(
        clip_cosine=scores.clip_cosine,
        hsv_distance=scores.hsv_distance,
        sharpness=scores.sharpness,
        nsfw=pl.Series(scores.nsfw).fill_nan(None),
        verdict=pl.Series(verdicts(scores, thresholds), dtype=pl.String),
    ).select(pl.col(name).cast(kind) for name, kind in CANDIDATE_SCHEMA.items())


def embed_generated(
    candidates: pl.DataFrame, image_text: pl.DataFrame, image_dir: Path, encoder: Encoder, batch_size: int
) -> pl.DataFrame:
    """Returns one row per accepted view: the columns of embedded crops, and `source_item_id`.

    `item_id` is the candidate's id, `domain` is `GENERATED`, `image_path` is relative to `image_dir`.
    """
    accepted = candidates.filter(pl.col("verdict") == ACCEPTED)
    source = image_text.select(item_id(), "category_name", "image_id", "item_idx")
    rows = embed_crops(encoder, [image_dir / path for path in accepted["image_path"]], batch_size)
    return (
        accepted.join(source, on="item_id", how="left", maintain_order="left")
        .select(
            pl.col("candidate_id").alias("item_id"),
            pl.col("item_id").alias("source_item_id"),
            "sku_id",
            "split",
            pl.lit(GENERATED).alias("domain"),
            pl.lit(GALLERY).alias("role"),
            "category_name",
            "image_id",
            "item_idx",
            "image_path",
        )
        .with_columns(embedding_column(rows))
    )
