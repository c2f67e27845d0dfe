"""Adds the stages of `multi_stage` to the bundle of an index, with weights chosen on development photos."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skufp_pipeline.datasets.prompts import CaptionSettings
from skufp_pipeline.datasets.table import DEVELOPMENT, GALLERY
from skufp_pipeline.encoders.stage_settings import (
    CaptionStageSettings,
    MultiStageSettings,
    RerankSettings,
)
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.measures.ranks import right_items
from skufp_pipeline.query.look_twice import best_tried, tried_weight
from skufp_pipeline.query.multi_stage import (
    CONFIG_FILE,
    RERANK_FOLDER,
    TEXTS_FOLDER,
    Fusion,
    MultiStageFile,
    OfProducts,
    PictureReranker,
    Ranked,
    RerankFile,
    TextsFile,
    first_pass,
    reranked,
)
from skufp_pipeline.search.images import ImageIndex

JUDGED = 20  # answers among which the right product is looked for
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Photos:
    """Q development photos of products of the index.

    Attributes:
        truth: (Q,) row of each one's product.
        queries: (Q, D) embeddings by which the index is searched.
        sentences, pictures: (1, D) embeddings of each one's caption, and for the re-ranker; None where there
            is none.
    """

    truth: NDArray[np.int64]
    queries: Rows
    sentences: Sequence[Rows | None]
    pictures: Sequence[Rows | None]

    @classmethod
    def of(
        cls,
        images: pl.DataFrame,
        index: ImageIndex,
        texts: pl.DataFrame | None,
        pictures: pl.DataFrame | None,
    ) -> "Photos":
        """The development photos of training SKUs among `images`; tables as for `write_multi_stage`."""
        asked = images.filter((pl.col("role") == DEVELOPMENT) & (pl.col("split") == "train"))
        truth = right_items(asked["sku_id"], index.skus["sku_id"])
        asked, truth = asked.filter(truth >= 0), truth[truth >= 0]
        found = (_by_item(table, asked["item_id"].to_list()) for table in (texts, pictures))
        return cls(truth, embedding_rows(asked), *found)


def write_multi_stage(
    directory: Path,
    index: ImageIndex,
    images: pl.DataFrame,
    texts: pl.DataFrame | None,
    pictures: pl.DataFrame | None,
    settings: MultiStageSettings,
    captions: CaptionSettings | None,
) -> dict[str, Any]:
    """Adds the stages to a bundle; returns their part of its summary.

    Args:
        images: `item_id`, `sku_id`, `role`, `split`, `embedding` of all photos as the index sees them.
        texts, pictures: `item_id`, `sku_id`, `role`, `embedding` of the catalogue and of development photos,
            by the text model and by the re-ranker; None where the stage is off.
        captions: the model that captions photos.
    """
    photos, fusion, said, rerank = Photos.of(images, index, texts, pictures), None, None, None
    if texts is not None and settings.captions is not None and captions is not None:
        joined = OfProducts.write(directory / TEXTS_FOLDER, texts.filter(role=GALLERY), index)
        absent = unrelated(texts)
        said = TextsFile(
            captions=captions.model_copy(update={"batch_size": 1}),
            absent=absent,
            **_text_weight(index, joined, absent, photos, settings),
        )
        fusion = Fusion(joined, said.weight, absent) if said.weight else None
    if pictures is not None and settings.rerank is not None:
        shown = OfProducts.write(directory / RERANK_FOLDER, pictures.filter(role=GALLERY), index)
        top = settings.rerank.top
        extractor = settings.rerank.extractor
        rerank = RerankFile(
            top=top, extractor=extractor, **_rerank_weight(index, fusion, shown, photos, settings)
        )
    file = MultiStageFile(boxes=settings.boxes, texts=said, rerank=rerank)
    (directory / CONFIG_FILE).write_text(json.dumps(file.model_dump(mode="json"), indent=1) + "\n")
    weights = {"text_weight": said, "rerank_weight": rerank}
    return {name: part.weight for name, part in weights.items() if part is not None}


def unrelated(texts: pl.DataFrame) -> float:
    """Returns the mean cosine of a development photo's caption and a text of the catalogue.

    Without photos it is that of two texts of the catalogue, without texts 0.
    """
    catalogue, photos = (embedding_rows(texts.filter(role=role)) for role in (GALLERY, DEVELOPMENT))
    if not len(catalogue):
        return 0.0
    asked = photos if len(photos) else catalogue
    return float(asked.mean(axis=0, dtype=np.float64) @ catalogue.mean(axis=0, dtype=np.float64))


def _text_weight(
    index: ImageIndex, texts: OfProducts, absent: float, photos: Photos, settings: MultiStageSettings
) -> dict[str, Any]:
    """The `Chosen` weight of the text beside the picture."""

    def ranked(weight: float) -> list[Ranked]:
        fusion = Fusion(texts, weight, absent)
        asked = zip(photos.queries, photos.sentences, strict=True)
        return [first_pass(index, fusion, query[None], sentence, JUDGED) for query, sentence in asked]

    assert settings.captions is not None
    return _chosen(settings.captions, settings.least_photos, photos.truth, ranked)


def _rerank_weight(
    index: ImageIndex,
    fusion: Fusion | None,
    pictures: OfProducts,
    photos: Photos,
    settings: MultiStageSettings,
) -> dict[str, Any]:
    """The `Chosen` weight of the re-ranker's cosine beside the score so far."""
    assert settings.rerank is not None
    top, asked = settings.rerank.top, zip(photos.queries, photos.sentences, strict=True)
    first = [first_pass(index, fusion, query[None], sentence, top) for query, sentence in asked]

    def ranked(weight: float) -> list[Ranked]:
        reranker = PictureReranker(pictures, top, weight)
        return [
            found if picture is None else reranked(reranker, found, picture)
            for found, picture in zip(first, photos.pictures, strict=True)
        ]

    return _chosen(settings.rerank, settings.least_photos, photos.truth, ranked)


def _chosen(
    settings: CaptionStageSettings | RerankSettings,
    least_photos: int,
    truth: NDArray[np.int64],
    ranked: Callable[[float], Sequence[Ranked]],
) -> dict[str, Any]:
    """The fields of `Chosen`: the weight that is set, or the best on the photos, or the usual one."""
    if settings.weight is not None:
        return {"weight": settings.weight}
    if len(truth) < least_photos:
        return {"weight": settings.usual_weight}
    tried = [
        tried_weight(weight, [found.rows for found in ranked(weight)], truth)
        for weight in sorted(settings.weights)
    ]
    return {"weight": best_tried(tried), "chosen_on": len(truth), "tried": tried}


def _by_item(table: pl.DataFrame | None, item_ids: Sequence[str]) -> list[Rows | None]:
    """The (1, D) embedding of each item; None where the table has none."""
    if table is None:
        return [None] * len(item_ids)
    place = {item: row for row, item in enumerate(table["item_id"])}
    rows = embedding_rows(table)
    return [rows[place[item]][None] if item in place else None for item in item_ids]
