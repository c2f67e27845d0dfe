"""Collects fine-tuning data from the image-text shards, and lists the queries that it uses.

The data has training SKUs only, and only their queries of the roles `train` (for training) and
`development` (for selecting the epoch). A check compares the list, `UsedQueries`, with the protocol.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from skufp_pipeline.artifacts.kinds import Crops, ImageText
from skufp_pipeline.datasets.prompts import PromptSettings, training_texts
from skufp_pipeline.datasets.table import DEVELOPMENT, GALLERY, TRAIN, item_id
from skufp_pipeline.encoders.adapt import AdaptationData
from skufp_pipeline.encoders.clip_train import LabelledTexts, TrainingData
from skufp_pipeline.encoders.tables import embedding_rows, used_queries
from skufp_pipeline.progress import Progress
from skufp_pipeline.training.images import LabelledImages, TrainingImages
from skufp_pipeline.training.pixels import Surrounded, aspect_of, decode_squares, read_backgrounds


@dataclass(frozen=True)
class TextShard:
    """The image-text table of a shard, its texts, and the base folder of its `image_path`."""

    image_text: pl.DataFrame
    text_queries: pl.DataFrame
    catalog_texts: pl.DataFrame
    crop_dir: Path


@dataclass(frozen=True)
class Around:
    """What is read around each item, so that its box can be moved in training.

    Attributes:
        find: returns the local file of an `orig_image_path`.
        margin: `AugmentationSettings.box_jitter`.
    """

    find: Callable[[str], Path]
    margin: float


def text_shards(texts: Sequence[ImageText], crops: Sequence[Crops]) -> list[TextShard]:
    """Pairs the shards of `image_text` and `sku_crops`."""
    return [
        TextShard(text.images(), text.text_queries(), text.catalog_texts(), crop.path)
        for text, crop in zip(texts, crops, strict=True)
    ]


def gather_training_data(
    shards: Sequence[TextShard],
    prompts: PromptSettings,
    side: int,
    scratch: Path,
    progress: Progress | None = None,
    white_balance: float = 0.0,
    around: Around | None = None,
) -> tuple[TrainingData, pl.DataFrame]:
    """Returns the training images and texts of all shards, and the queries among them (`USED_SCHEMA`).

    The crops are decoded to squares of `side` pixels, with `around` more; `scratch` keeps them for a resumed
    training.

    `white_balance` is the encoder's, so that it is trained on what it will see.
    """
    fit, development = training_rows(shards)
    label = _labels_by_sku(fit)
    sentences = pl.concat([shard.text_queries for shard in shards])
    sentences = sentences.filter((pl.col("role") == TRAIN) & pl.col("sku_id").is_in(list(label)))

    def texts(epoch: int) -> LabelledTexts:
        prompt_frames = [training_texts(shard.image_text, prompts, epoch) for shard in shards]
        every = pl.concat([frame.select("sku_id", "text") for frame in [*prompt_frames, sentences]])
        return LabelledTexts(every["text"].to_list(), _labels(every, label))

    images = training_images(fit, development, side, scratch, progress, white_balance, around)
    data = TrainingData(images.images, images.development, images.categories, texts)
    text_only = sentences.rename({"text_id": "query_id"}).filter(
        ~pl.col("query_id").is_in(fit["query_id"].implode())
    )
    used = [used_queries(fit, TRAIN), used_queries(text_only, TRAIN), used_queries(development, DEVELOPMENT)]
    return data, pl.concat(used)


def gather_adaptation_data(
    shards: Sequence[TextShard],
    frozen: pl.DataFrame,
    side: int,
    backgrounds: str | None,
    scratch: Path,
    progress: Progress | None = None,
) -> tuple[AdaptationData, pl.DataFrame]:
    """Returns what a tower is adapted on, and the photos among it (`USED_SCHEMA`).

    These are the training SKUs: their catalogue pictures, and their photos of role `train`. In a catalogue
    without any photo these are the pictures of all SKUs, because none could judge an untrained one.

    Args:
        frozen: embeddings by the frozen tower, of the pictures at least.
        side: of the squares in pixels.
        backgrounds: a folder of pictures, or None.

    Raises:
        UserError: `backgrounds` is no folder, or holds no picture.
    """
    rows = pl.concat([_with_paths(shard) for shard in shards])
    fit = training_rows(shards)[0] if (rows["role"] != GALLERY).any() else rows
    label = _labels_by_sku(fit)
    gallery, photos = (
        fit.filter(pl.col("role") == role).sort("sku_id", maintain_order=True) for role in (GALLERY, TRAIN)
    )

    def squares(frame: pl.DataFrame, name: str) -> np.ndarray:
        return decode_squares(
            [Path(path) for path in frame["path"]], side, scratch / f"{name}_{side}.npy", progress
        )

    data = AdaptationData(
        squares(gallery, "pictures"),
        np.array([aspect_of(Path(path)) for path in gallery["path"]]),
        _labels(gallery, label),
        squares(photos, "photos"),
        _labels(photos, label),
        _anchors(gallery, frozen, label),
        read_backgrounds(backgrounds, side),
    )
    return data, used_queries(photos, TRAIN)


def _anchors(gallery: pl.DataFrame, frozen: pl.DataFrame, label: dict[str, int]) -> np.ndarray:
    """Returns (S, D) unit means of the embeddings of each SKU's pictures."""
    ids = frozen.select("item_id", "embedding")
    rows = embedding_rows(gallery.join(ids, left_on="query_id", right_on="item_id", maintain_order="left"))
    sums = np.zeros((len(label), rows.shape[1]))
    np.add.at(sums, _labels(gallery, label), rows)
    return (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)


def training_rows(shards: Sequence[TextShard]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Returns the training rows, and the development rows of the same SKUs."""
    rows = pl.concat([_with_paths(shard) for shard in shards]).filter(pl.col("split") == "train")
    fit = rows.filter(pl.col("role").is_in([GALLERY, TRAIN]))
    development = rows.filter(
        (pl.col("role") == DEVELOPMENT) & pl.col("sku_id").is_in(fit["sku_id"].implode())
    )
    return fit, development


def training_images(
    fit: pl.DataFrame,
    development: pl.DataFrame,
    side: int,
    scratch: Path,
    progress: Progress | None,
    white_balance: float = 0.0,
    around: Around | None = None,
) -> TrainingImages:
    """Decodes the pictures of two tables of `training_rows`; the SKUs of both are the classes."""
    every = pl.concat([fit, development])
    label = _labels_by_sku(every)
    size = f"{side}_balanced_{white_balance:g}" if white_balance else f"{side}"

    def images(frame: pl.DataFrame, name: str) -> LabelledImages:
        paths = [Path(path) for path in frame["path"]]
        squares = decode_squares(paths, side, scratch / f"{name}_{size}.npy", progress, white_balance)
        is_street = (frame["role"] != GALLERY).to_numpy()
        return LabelledImages(squares, _labels(frame, label), is_street)

    def surrounded(frame: pl.DataFrame, around: Around) -> LabelledImages:
        rows = frame.select("orig_image_path", "bbox").rows()
        items = [Surrounded(around.find(path), tuple(box), around.margin) for path, box in rows]
        wide = round(side * (1 + 2 * around.margin))
        squares = decode_squares(items, wide, scratch / f"fit_{size}_wide.npy", progress, white_balance)
        is_street = (frame["role"] != GALLERY).to_numpy()
        boxed = np.array([item.is_boxed for item in items], dtype=bool)
        return LabelledImages(squares, _labels(frame, label), is_street, boxed)

    of_sku = every.group_by("sku_id").agg(pl.col("category_name").first()).sort("sku_id")["category_name"]
    categories = of_sku.rank("dense").fill_null(0).to_numpy().astype(np.int64)
    shown = images(fit, "fit") if around is None else surrounded(fit, around)
    return TrainingImages(shown, images(development, "development"), categories)


def _labels_by_sku(rows: pl.DataFrame) -> dict[str, int]:
    return {sku_id: row for row, sku_id in enumerate(rows["sku_id"].unique().sort())}


def _with_paths(shard: TextShard) -> pl.DataFrame:
    path = pl.format("{}/{}", pl.lit(str(shard.crop_dir)), "image_path").alias("path")
    return shard.image_text.select(
        "sku_id",
        "split",
        "role",
        "category_name",
        item_id().alias("query_id"),
        "orig_image_path",
        "bbox",
        path,
    )


def _labels(frame: pl.DataFrame, label: dict[str, int]) -> np.ndarray:
    return np.array([label[sku_id] for sku_id in frame["sku_id"]], dtype=np.int64)
