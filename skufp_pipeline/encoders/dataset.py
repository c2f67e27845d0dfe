"""What fine-tuning reads, gathered from the image-text shards: and the list of what it used.

Only training SKUs, and of their queries only the roles `train` (to learn from) and `development` (to
choose the epoch) get in; `UsedQueries` says which, so that a check can hold them against the protocol.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from skufp_pipeline.datasets.prompts import PromptSettings, training_texts
from skufp_pipeline.datasets.table import DEVELOPMENT, GALLERY, TRAIN, item_id
from skufp_pipeline.encoders.pixels import decode_squares
from skufp_pipeline.encoders.tables import used_queries
from skufp_pipeline.encoders.train import LabelledImages, LabelledTexts, TrainingData

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TextShard:
    """One shard's image-text table, its text queries, and the folder its `image_path` is relative to."""

    image_text: pl.DataFrame
    text_queries: pl.DataFrame
    crop_dir: Path


def gather_training_data(
    shards: Sequence[TextShard],
    prompts: PromptSettings,
    side: int,
    scratch: Path,
    progress: Progress | None = None,
) -> tuple[TrainingData, pl.DataFrame]:
    """The training data of all shards, and the queries in it (`USED_SCHEMA`).

    Args:
        side: pixels of the decoded squares.
        scratch: where the decoded squares are kept while training may be resumed.
    """
    rows = pl.concat([_with_paths(shard) for shard in shards]).filter(pl.col("split") == "train")
    fit = rows.filter(pl.col("role").is_in([GALLERY, TRAIN]))
    held = rows.filter(pl.col("role") == DEVELOPMENT)
    sku_ids = fit["sku_id"].unique().sort().to_list()
    label = {sku_id: row for row, sku_id in enumerate(sku_ids)}
    held = held.filter(pl.col("sku_id").is_in(sku_ids))

    def images(frame: pl.DataFrame, name: str) -> LabelledImages:
        paths = [Path(path) for path in frame["path"]]
        squares = decode_squares(paths, side, scratch / f"{name}_{side}.npy", progress)
        return LabelledImages(squares, _labels(frame, label))

    sentences = pl.concat([shard.text_queries for shard in shards])
    sentences = sentences.filter((pl.col("role") == TRAIN) & pl.col("sku_id").is_in(sku_ids))

    def texts(epoch: int) -> LabelledTexts:
        drawn = [training_texts(shard.image_text, prompts, epoch) for shard in shards]
        every = pl.concat([frame.select("sku_id", "text") for frame in [*drawn, sentences]])
        return LabelledTexts(every["text"].to_list(), _labels(every, label))

    data = TrainingData(images(fit, "fit"), texts, images(held, "development"), len(sku_ids))
    told = sentences.rename({"text_id": "query_id"}).filter(
        ~pl.col("query_id").is_in(fit["query_id"].implode())
    )
    used = [used_queries(fit, TRAIN), used_queries(told, TRAIN), used_queries(held, DEVELOPMENT)]
    return data, pl.concat(used)


def _with_paths(shard: TextShard) -> pl.DataFrame:
    path = pl.format("{}/{}", pl.lit(str(shard.crop_dir)), "image_path").alias("path")
    return shard.image_text.select("sku_id", "split", "role", item_id().alias("query_id"), path)


def _labels(frame: pl.DataFrame, label: dict[str, int]) -> np.ndarray:
    return np.array([label[sku_id] for sku_id in frame["sku_id"]], dtype=np.int64)
