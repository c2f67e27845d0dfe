"""The tables of generated views: every candidate with its verdict, and the embeddings of those accepted."""

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

GENERATED = "generated"  # the domain of an accepted view, beside catalog and query

CANDIDATE_SCHEMA: dict[str, pl.DataType] = {
    "candidate_id": pl.String(),
    "item_id": pl.String(),  # of the catalogue view that was varied
    "sku_id": pl.String(),
    "split": pl.String(),
    "candidate": pl.Int32(),
    "source_path": pl.String(),  # relative to the shard's crops
    "image_path": pl.String(),  # relative to the shard's images; there only where accepted
    "prompt": pl.String(),
    "strength": pl.Float32(),
    "seed": pl.Int64(),
    "clip_cosine": pl.Float32(),
    "hsv_distance": pl.Float32(),
    "sharpness": pl.Float32(),
    "nsfw": pl.Float32(),  # null where nothing can tell
    "verdict": pl.String(),  # accepted, or the reason why not
}


def score_generated(
    generated: Sequence[Generated],
    sources: Mapping[str, Path],
    encoder: Encoder,
    side: int,
    batch_size: int,
    zero_shot: bool,
) -> Scores:
    """The scores of candidates against the crops they vary.

    Args:
        sources: the crop of every view, by `item_id`.
        side: pixels of the squares that colours and sharpness are measured on.
        zero_shot: whether the encoder is pretrained and may judge what is unsafe.
    """
    paths = [made.path for made in generated]
    crops = sorted({sources[made.candidate.item_id] for made in generated})
    place = {path: row for row, path in enumerate(crops)}
    rows = [place[sources[made.candidate.item_id]] for made in generated]
    embeddings = embed_crops(encoder, paths, batch_size)
    return score(
        embeddings,
        squares(paths, side),
        embed_crops(encoder, crops, batch_size)[rows],
        squares(crops, side)[rows],
        nsfw_scores(encoder, embeddings, [made.unsafe for made in generated], zero_shot),
    )


def squares(paths: Sequence[Path], side: int) -> NDArray[np.uint8]:
    """(N, side, side, 3) uint8 of image files."""
    found = np.empty((len(paths), side, side, 3), dtype=np.uint8)
    for row, path in enumerate(paths):
        found[row] = read_square(path, side)
    return found


def candidate_table(generated: Sequence[Generated], scores: Scores, thresholds: Thresholds) -> pl.DataFrame:
    """`CANDIDATE_SCHEMA`, one row per candidate."""
    columns = [asdict(made.candidate) for made in generated]
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
    """One row per accepted view with the columns of the embeddings of crops, and `source_item_id`.

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
