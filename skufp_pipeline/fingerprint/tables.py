"""Selects views, queries and teachers for the fingerprint model from the embedding tables.

Only queries of training SKUs are used: role `train` trains and chooses the teachers, `development` the epoch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skufp_pipeline.artifacts.kinds import Embeddings
from skufp_pipeline.datasets.table import DEVELOPMENT, EVALUATION, GALLERY, TRAIN, is_synthetic
from skufp_pipeline.encoders.tables import (
    USED_SCHEMA,
    embedding_column,
    embedding_rows,
    no_queries,
    used_queries,
)
from skufp_pipeline.fingerprint.settings import SyntheticUse
from skufp_pipeline.fingerprint.teachers import Rivals, best_shot
from skufp_pipeline.fingerprint.views import ViewSet, gather_views, mean_sku
from skufp_pipeline.measures.ranks import right_items

JUDGED_SPLITS = ("train", "validation")  # queries of test SKUs are scored by no report


@dataclass(frozen=True)
class EmbeddingTables:
    """Embeddings of all shards.

    Attributes:
        images: `item_id`, `sku_id`, `split`, `role`, `image_path`, `embedding` and more.
        texts: `text_id`, `sku_id`, `split`, `role`, `text`, `embedding`.
        generated: generated views with the columns of `images`, if any; only the aggregator uses them.
        synthetic: synthetic photos with the columns of `images`, if any.
    """

    images: pl.DataFrame
    texts: pl.DataFrame
    generated: pl.DataFrame | None = None
    synthetic: pl.DataFrame | None = None

    @classmethod
    def of(
        cls,
        shards: Sequence[Embeddings],
        generated: Sequence[Embeddings] | None = None,
        synthetic: Sequence[Embeddings] | None = None,
    ) -> "EmbeddingTables":
        """The tables of all shards together, by SKU; without generated views where that is switched off."""
        texts = pl.concat([shard.texts() for shard in shards]).sort("sku_id", maintain_order=True)
        there = [shard.images() for shard in generated or [] if not shard.off]
        made = pl.concat(there) if there else None
        return cls(cls.images_of(shards), texts, made, cls.images_of(synthetic) if synthetic else None)

    @staticmethod
    def images_of(shards: Sequence[Embeddings]) -> pl.DataFrame:
        """The image tables of all shards together, by SKU."""
        return pl.concat([shard.images() for shard in shards]).sort("sku_id", maintain_order=True)

    def views(self, max_views: int) -> ViewSet:
        """What the aggregator sees of every SKU."""
        return gather_views(self.images, max_views, self.generated)

    def parts(self, skus: int) -> Iterator["EmbeddingTables"]:
        """The tables of so many SKUs at a time, by `sku_id`."""
        names = self.images.filter(pl.col("role") == GALLERY)["sku_id"].unique().sort()
        for start in range(0, len(names), skus):
            mine = names[start : start + skus]
            known = pl.col("sku_id").is_in(mine.implode())
            images, texts = (_between(table, mine).filter(known) for table in (self.images, self.texts))
            generated = None if self.generated is None else self.generated.filter(known)
            synthetic = None if self.synthetic is None else _between(self.synthetic, mine).filter(known)
            yield EmbeddingTables(images, texts, generated, synthetic)

    def with_stand_ins(self, wanted: bool) -> "EmbeddingTables":
        """The tables with synthetic photos as queries to train and to choose with, where customers' lack.

        Nothing changes unless it is `wanted`, or where a single customer's photo of role `train` is there;
        synthetic development photos are left out where a customer's is there.
        """
        if not wanted or self.queries(TRAIN)[0].height:
            return self
        return self._joined(TRAIN, *([] if self.queries(DEVELOPMENT)[0].height else [DEVELOPMENT]))

    def judged(self) -> "EmbeddingTables":
        """The tables with synthetic evaluation photos, where no customer's photo is held out."""
        held = self.images.filter((pl.col("role") == EVALUATION) & pl.col("split").is_in(JUDGED_SPLITS))
        return self if held.height else self._joined(EVALUATION)

    def _joined(self, *roles: str) -> "EmbeddingTables":
        if self.synthetic is None:
            return self
        added = self.synthetic.filter(pl.col("role").is_in(roles)).select(self.images.columns)
        images = pl.concat([self.images, added]).sort("sku_id", maintain_order=True)
        return replace(self, images=images)

    def queries(self, role: str) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Image and text queries of training SKUs in one role, under the name `query_id`."""
        mine = (pl.col("role") == role) & (pl.col("split") == "train")
        return (
            self.images.filter(mine).rename({"item_id": "query_id"}),
            self.texts.filter(mine).rename({"text_id": "query_id"}),
        )


@dataclass(frozen=True)
class Queries:
    """Query embeddings (Q, D), unit rows, and the row of each one's SKU in a `ViewSet` (Q,).

    `weights` (Q,) say how many times each counts as a photo of its SKU; None: once.
    """

    embeddings: NDArray[np.float32]
    truth: NDArray[np.int64]
    weights: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class FingerprintData:
    """What the aggregator learns from: training SKUs, their `train` queries, their teachers.

    Attributes:
        views: S training SKUs.
        image_queries, text_queries: of role `train`.
        development: image queries of role `development`.
        image_teachers, text_teachers: (S, D) unit rows; a text teacher is zero where a SKU has no text.
    """

    views: ViewSet
    image_queries: Queries
    text_queries: Queries
    development: Queries
    image_teachers: NDArray[np.float32]
    text_teachers: NDArray[np.float32]


def teacher_table(tables: EmbeddingTables, max_views: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Teachers of every SKU, and the queries that chose them.

    Returns:
        One row per SKU: `image_path` of the best view, `image_teacher`, `text_teacher` (zero where the
        SKU has no catalog text), `chosen_by` (`queries` or `medoid`), `reciprocal_rank`, `num_queries`.
        And `USED_SCHEMA` of the queries.
    """
    image_queries, text_queries = tables.queries(TRAIN)
    table = choose_teachers(tables, image_queries, text_queries, max_views)
    return table, pl.concat([used_queries(image_queries, TRAIN), used_queries(text_queries, TRAIN)])


def teacher_table_by_shard(shards: Sequence[Embeddings], max_views: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`teacher_table` of all shards together, with the embeddings of one shard in memory at a time.

    A SKU's rows are all in one shard. Each is read three times: to average views, then texts, and to choose.
    """
    rivals: tuple[Rivals | None, Rivals | None] = (
        Rivals.of(gather_views(shard.images(), max_views) for shard in shards),
        Rivals.of(gather_views(shard.texts(), max_views) for shard in shards),
    )
    teachers: list[pl.DataFrame] = []
    used: tuple[list[pl.DataFrame], list[pl.DataFrame]] = [], []
    for shard in shards:
        tables = EmbeddingTables.of([shard])
        queries = tables.queries(TRAIN)
        teachers.append(choose_teachers(tables, *queries, max_views, rivals))
        for kept, frame in zip(used, queries, strict=True):
            kept.append(used_queries(frame, TRAIN))
    del rivals, tables, queries
    by_sku = [pl.concat(kept).sort("sku_id", maintain_order=True) for kept in used]
    return pl.concat(teachers).sort("sku_id"), pl.concat(by_sku)


def choose_teachers(
    tables: EmbeddingTables,
    image_queries: pl.DataFrame,
    text_queries: pl.DataFrame,
    max_views: int,
    rivals: tuple[Rivals | None, Rivals | None] = (None, None),
) -> pl.DataFrame:
    """`teacher_table`'s rows, chosen by these queries; `rivals` are by image and by text, of all shards."""
    views = gather_views(tables.images, max_views)
    image = best_shot(views, *_rows(image_queries, views), rivals[0])
    text_views = gather_views(tables.texts, max_views)
    text = best_shot(text_views, *_rows(text_queries, text_views), rivals[1])
    table = pl.DataFrame(
        {
            "sku_id": views.sku_ids,
            "split": views.splits,
            "chosen_by": np.where(image.num_queries > 0, "queries", "medoid"),
            "reciprocal_rank": image.reciprocal_rank,
            "num_queries": image.num_queries,
        }
    )
    table = table.with_columns(
        embedding_column(image.vectors).alias("image_teacher"),
        embedding_column(_aligned(text.vectors, text_views, views)).alias("text_teacher"),
    )
    return table.join(_chosen_paths(tables.images, image.view, views), on="sku_id", maintain_order="left")


def fingerprint_data(tables: EmbeddingTables, teachers: pl.DataFrame, max_views: int) -> FingerprintData:
    """What the aggregator trains on: training SKUs and their `train` and `development` queries."""
    every = tables.views(max_views)
    training = np.flatnonzero(np.array(every.splits) == "train")
    views = every.select(training)
    aligned = pl.DataFrame({"sku_id": views.sku_ids}, schema={"sku_id": pl.String}).join(
        teachers, on="sku_id", maintain_order="left"
    )
    image_queries, text_queries = tables.queries(TRAIN)
    development, _ = tables.queries(DEVELOPMENT)
    return FingerprintData(
        views,
        Queries(*_rows(image_queries, views)),
        Queries(*_rows(text_queries, views)),
        Queries(*_rows(development, views)),
        embedding_rows(aligned, "image_teacher"),
        embedding_rows(aligned, "text_teacher"),
    )


def used_by_fingerprints(tables: EmbeddingTables, use: SyntheticUse) -> pl.DataFrame:
    """`USED_SCHEMA` of the queries in `fingerprint_data` and in `photos_to_fit`."""
    learnt = tables.with_stand_ins(use.aggregator)
    development, _ = learnt.queries(DEVELOPMENT)
    trained = [used_queries(frame, TRAIN) for frame in learnt.queries(TRAIN)]
    fitted = used_queries(tables.with_stand_ins(use.gaussian).queries(TRAIN)[0], TRAIN)
    every = pl.concat([*trained, fitted, used_queries(development, DEVELOPMENT)]).select(*USED_SCHEMA)
    return every.unique(maintain_order=True)


def photos_to_fit(tables: EmbeddingTables, views: ViewSet, use: SyntheticUse) -> Queries:
    """The `train` photos that noise is estimated from: customers', or else synthetic ones if wanted."""
    photos, _ = tables.with_stand_ins(use.gaussian).queries(TRAIN)
    return _weighted(photos, views, use.photo_weight)


def training_photos(
    tables: EmbeddingTables, views: ViewSet, synthetic_weight: float = 0.0
) -> tuple[Queries, pl.DataFrame]:
    """The photos that a fingerprint may be made from, role `train` alone, and `USED_SCHEMA` of them.

    Args:
        synthetic_weight: above 0, SKUs without a customer's photo get their synthetic ones, which count so
            many times each.
    """
    photos, _ = tables.queries(TRAIN)
    if synthetic_weight and (found := _synthetic_views(tables, "without_photos")) is not None:
        added = found.rename({"item_id": "query_id"}).select(photos.columns)
        photos = pl.concat([photos, added]).sort("sku_id", maintain_order=True)
    return _weighted(photos, views, synthetic_weight), used_queries(photos, TRAIN)


def synthetic_means(
    tables: EmbeddingTables, views: ViewSet, viewed: str
) -> tuple[NDArray[np.float32], pl.DataFrame]:
    """(S, D) unit mean of each SKU's synthetic photos of role `train`, and `USED_SCHEMA` of them.

    A row is zero where a SKU has none, or has customers' photos to train on and `viewed` is not `all`.
    """
    found = _synthetic_views(tables, viewed)
    if found is None:
        return np.zeros((len(views.sku_ids), views.views.shape[2]), np.float32), no_queries()
    shown = gather_views(found.with_columns(role=pl.lit(GALLERY)), found.height or 1)
    return _aligned(mean_sku(shown), shown, views), used_queries(found.rename({"item_id": "query_id"}), TRAIN)


def _synthetic_views(tables: EmbeddingTables, viewed: str) -> pl.DataFrame | None:
    """Synthetic photos of role `train`, of all SKUs or of those `without_photos` of that role."""
    if tables.synthetic is None:
        return None
    photos, _ = tables.queries(TRAIN)
    has_photos = pl.col("sku_id").is_in(photos["sku_id"].implode())
    left = pl.lit(True) if viewed == "all" else ~has_photos
    return tables.synthetic.filter((pl.col("role") == TRAIN) & left)


def _between(table: pl.DataFrame, sku_ids: pl.Series) -> pl.DataFrame:
    """The rows from the first to the last of some sorted SKUs, of a table that is sorted by `sku_id`."""
    column = table["sku_id"]
    begin, end = column.search_sorted(sku_ids[0], "left"), column.search_sorted(sku_ids[-1], "right")
    return table.slice(begin, end - begin)


def _weighted(photos: pl.DataFrame, views: ViewSet, synthetic_weight: float) -> Queries:
    """Photos as queries; the weights are those of synthetic ones and 1, and None if none is synthetic."""
    known = photos.filter(pl.col("sku_id").is_in(views.sku_ids))
    made = known.select(is_synthetic("query_id"))["query_id"].to_numpy()
    weights = np.where(made, synthetic_weight, 1.0) if made.any() else None
    return Queries(*_rows(known, views), weights)


def catalog_texts(tables: EmbeddingTables, views: ViewSet, max_texts: int) -> NDArray[np.float32]:
    """(S, D) unit mean of each SKU's catalog texts; zero where it has none."""
    texts = gather_views(tables.texts, max_texts)
    return _aligned(mean_sku(texts), texts, views)


def fingerprint_table(
    views: ViewSet, fingerprints: NDArray[np.float32], biases: NDArray[np.float32]
) -> pl.DataFrame:
    """One row per SKU: `sku_id`, `split`, `num_views` (the catalog's), `num_generated`, `bias` (what a search
    adds to the cosine) and `fingerprint` (D float32, unit norm).
    """
    counts = {"num_views": views.counts, "num_generated": views.generated.sum(axis=1)}
    table = pl.DataFrame({"sku_id": views.sku_ids, "split": views.splits, **counts, "bias": biases})
    return table.with_columns(embedding_column(fingerprints).alias("fingerprint"))


def biased_rows(fingerprints: pl.DataFrame) -> NDArray[np.float32]:
    """(S, D + 1) rows of a `fingerprint_table`: the bias is one more dimension."""
    return np.column_stack([embedding_rows(fingerprints, "fingerprint"), fingerprints["bias"].to_numpy()])


def biased_queries(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """(..., D + 1) queries of (..., D), with a 1 for the bias; times `biased_rows` they are scores."""
    return np.concatenate([embeddings, np.ones_like(embeddings[..., :1])], axis=-1)


def _rows(queries: pl.DataFrame, views: ViewSet) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Embeddings (Q, D) and SKU rows (Q,) of the queries whose SKU is among `views`."""
    known = queries.filter(pl.col("sku_id").is_in(views.sku_ids))
    return embedding_rows(known), right_items(known["sku_id"], views.sku_ids)


def _aligned(vectors: NDArray[np.float32], texts: ViewSet, views: ViewSet) -> NDArray[np.float32]:
    """One vector a SKU of `texts` in the order of `views`; a zero row for a SKU without catalog text."""
    rows = np.zeros((len(views.sku_ids), views.views.shape[2]), dtype=np.float32)
    place = right_items(views.sku_ids, texts.sku_ids)
    rows[place >= 0] = vectors[place[place >= 0]]
    return rows


def _chosen_paths(images: pl.DataFrame, view: NDArray[np.int64], views: ViewSet) -> pl.DataFrame:
    """`sku_id` and the `image_path` of each SKU's chosen view."""
    gallery = images.filter(pl.col("role") == GALLERY).sort("sku_id", maintain_order=True)
    numbered = gallery.select("sku_id", "image_path", pl.int_range(pl.len()).over("sku_id").alias("view"))
    chosen = pl.DataFrame({"sku_id": views.sku_ids, "view": view})
    return chosen.join(numbered, on=["sku_id", "view"], maintain_order="left").drop("view")
