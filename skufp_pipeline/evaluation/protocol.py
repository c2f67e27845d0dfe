"""The leak-free protocol by which every model is evaluated (paper, section 5.1).

Only evaluation queries are scored, against one gallery per setting: `seen` (training SKUs), `zero`
(validation SKUs, never trained on) and `seen+zero` (the union). All models of a setting answer the same
queries over the same SKUs, so that their differences are paired.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from skufp_pipeline.datasets.table import EVALUATION
from skufp_pipeline.evaluation.labels import ALL_ATTRIBUTES, LABELS, PRECISION_AT, Labels, precision_name
from skufp_pipeline.measures.bootstrap import Difference, Interval, percentile_interval, resampled_means
from skufp_pipeline.measures.metrics import per_query_metrics, shared_label
from skufp_pipeline.measures.ranks import best_items, ranks_of, right_items

# The splits whose queries and SKUs take part in each setting.
SETTING_SPLITS: dict[str, tuple[str, ...]] = {
    "seen": ("train",),
    "zero": ("validation",),
    "seen+zero": ("train", "validation"),
}
SETTINGS = tuple(SETTING_SPLITS)
MODALITIES = ("image", "text")


@dataclass(frozen=True)
class QuerySet:
    """Evaluation queries of one modality; `evaluation_queries` makes one from a table.

    Attributes:
        query_ids: Q unique names.
        sku_ids, splits: the right SKU of each, and its split, train or validation.
        embeddings: (Q, D) float32.
    """

    query_ids: list[str]
    sku_ids: list[str]
    splits: list[str]
    embeddings: np.ndarray

    def __post_init__(self) -> None:
        _check_lengths("queries", self.embeddings, self.query_ids, self.sku_ids, self.splits)
        if len(set(self.query_ids)) != len(self.query_ids):
            repeated = next(i for i in self.query_ids if self.query_ids.count(i) > 1)
            raise ValueError(f"query ids must be unique, found {repeated!r} more than once")

    def of_splits(self, splits: tuple[str, ...]) -> "QuerySet":
        """The queries of SKUs of these splits."""
        kept = np.flatnonzero(np.isin(self.splits, splits)).tolist()
        return QuerySet(
            [self.query_ids[i] for i in kept],
            [self.sku_ids[i] for i in kept],
            [self.splits[i] for i in kept],
            self.embeddings[kept],
        )


@dataclass(frozen=True)
class Gallery:
    """The rows to search. A SKU with several rows scores the maximum over them (image-level index).

    Attributes:
        sku_ids, splits: the SKU of each row, and its split.
        vectors: (S, D) float32; the score is the dot product with a query.
        biases: (S,) float32 added to the score; None adds nothing.
    """

    sku_ids: list[str]
    splits: list[str]
    vectors: np.ndarray
    biases: np.ndarray | None = None

    def __post_init__(self) -> None:
        _check_lengths("gallery", self.vectors, self.sku_ids, self.splits)
        if self.biases is not None and self.biases.shape != (len(self.vectors),):
            raise ValueError(f"gallery: biases {self.biases.shape} for {len(self.vectors)} rows")

    def of_splits(self, splits: tuple[str, ...]) -> "Gallery":
        """The rows of SKUs of these splits."""
        kept = np.flatnonzero(np.isin(self.splits, splits)).tolist()
        return Gallery(
            [self.sku_ids[i] for i in kept],
            [self.splits[i] for i in kept],
            self.vectors[kept],
            None if self.biases is None else self.biases[kept],
        )

    def by_sku(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """The sorted SKUs, the vectors sorted by SKU, and the index of each vector's SKU among them."""
        names = np.array(self.sku_ids, dtype=str)
        order = np.argsort(names, kind="stable")
        skus, owner = np.unique(names, return_inverse=True)
        return skus.tolist(), self.vectors[order], owner[order]


@dataclass(frozen=True)
class Model:
    """A retrieval model: queries by modality (one may be missing) and a gallery."""

    name: str
    queries: Mapping[str, QuerySet]
    gallery: Gallery

    def __post_init__(self) -> None:
        if "-" in self.name:
            raise ValueError(f"model name {self.name!r}: '-' is kept for differences, use '_'")
        if unknown := set(self.queries) - set(MODALITIES):
            raise ValueError(f"model {self.name}: modality must be one of {MODALITIES}, found {unknown}")


@dataclass(frozen=True)
class ModelScores:
    """One model in one setting: per-query ranks and metrics (Q,), and the means with intervals."""

    ranks: np.ndarray
    per_query: dict[str, np.ndarray]
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class SettingResult:
    """One setting and modality: the queries that all models answered, and the models' scores.

    Attributes:
        query_ids, sku_ids: Q names, including those of `missing`, and the right SKU of each.
        gallery: number of SKUs searched.
        missing: queries whose SKU is not in the gallery; their rank is infinite, every metric 0.
        models: by name, in the order given.
        differences: by "a-b", then by metric.
    """

    query_ids: list[str]
    sku_ids: list[str]
    gallery: int
    missing: list[str]
    models: dict[str, ModelScores]
    differences: dict[str, dict[str, Difference]]


@dataclass(frozen=True)
class Evaluation:
    """Results by setting, then modality; all are present, and have no models if they have no queries."""

    settings: dict[str, dict[str, SettingResult]]


def evaluation_queries(table: pl.DataFrame) -> QuerySet:
    """The rows of role evaluation and split train or validation of `table`, in its order.

    Args:
        table: columns query_id, sku_id, split, role, and embedding, a `pl.Array` of D float32.

    Raises:
        ValueError: the embedding column is not a fixed-size list, or lacks a value.
    """
    width = table.schema["embedding"]
    if not isinstance(width, pl.Array):
        raise ValueError(f"embedding must be a fixed-size list (pl.Array) column, found {width}")
    rows = table.filter((pl.col("role") == EVALUATION) & pl.col("split").is_in(["train", "validation"]))
    if rows["embedding"].null_count():
        raise ValueError(f"{rows['embedding'].null_count()} evaluation queries have no embedding")
    embeddings = rows["embedding"].to_numpy().astype(np.float32).reshape(rows.height, width.shape[0])
    return QuerySet(rows["query_id"].to_list(), rows["sku_id"].to_list(), rows["split"].to_list(), embeddings)


def evaluate(
    models: Sequence[Model],
    differences: Sequence[tuple[str, str]],
    seed: int = 0,
    resamples: int = 2000,
    labels: Labels | None = None,
) -> Evaluation:
    """Evaluates every model in every setting and modality; a difference (a, b) means a - b.

    A difference is left out where one of its models lacks the modality.

    Args:
        labels: for precision at 10 of text queries; None leaves it out.

    Raises:
        ValueError: two models share a name, a difference names an unknown model, or models differ
            in their queries (or the order of them) or in the SKUs of their galleries.
    """
    names = [model.name for model in models]
    if len(set(names)) != len(names):
        raise ValueError(f"model names must be unique, found {names}")
    if unknown := {name for pair in differences for name in pair} - set(names):
        raise ValueError(f"differences name unknown models {sorted(unknown)}; there are {names}")
    return Evaluation(
        {
            setting: {
                modality: _evaluate_setting(
                    models,
                    differences,
                    setting,
                    modality,
                    seed,
                    resamples,
                    labels if modality == "text" else None,
                )
                for modality in MODALITIES
            }
            for setting in SETTINGS
        }
    )


def _evaluate_setting(
    models: Sequence[Model],
    differences: Sequence[tuple[str, str]],
    setting: str,
    modality: str,
    seed: int,
    resamples: int,
    labels: Labels | None,
) -> SettingResult:
    splits = SETTING_SPLITS[setting]
    galleries = {model.name: model.gallery.of_splits(splits) for model in models}
    queries = {m.name: m.queries[modality].of_splits(splits) for m in models if modality in m.queries}
    where = f"setting {setting}, {modality} queries"
    gallery_skus = _same_for_all({n: sorted(set(g.sku_ids)) for n, g in galleries.items()}, f"{where}: SKUs")
    query_ids = _same_for_all({n: q.query_ids for n, q in queries.items()}, f"{where}: query ids")
    sku_ids = _same_for_all({n: q.sku_ids for n, q in queries.items()}, f"{where}: right SKUs")
    if not query_ids:
        return SettingResult([], [], len(gallery_skus), [], {}, {})
    known = set(gallery_skus)
    ranks = {name: _ranks(queries[name], galleries[name]) for name in queries}
    per_query = {
        name: per_query_metrics(ranks[name]) | _precisions(queries[name], galleries[name], labels)
        for name in queries
    }
    cells = [(name, metric) for name, values in per_query.items() for metric in values]
    columns = np.stack([per_query[name][metric] for name, metric in cells], axis=1)
    means = resampled_means(columns, np.array(sku_ids), resamples, seed)
    scores, compared = summarize(ranks, per_query, dict(zip(cells, means.T, strict=True)), differences)
    missing = [query for query, sku in zip(query_ids, sku_ids, strict=True) if sku not in known]
    return SettingResult(query_ids, sku_ids, len(gallery_skus), missing, scores, compared)


def summarize(
    ranks: Mapping[str, np.ndarray],
    per_query: Mapping[str, dict[str, np.ndarray]],
    drawn: Mapping[tuple[str, str], np.ndarray],
    differences: Iterable[tuple[str, str]],
) -> tuple[dict[str, ModelScores], dict[str, dict[str, Difference]]]:
    """Scores by model, and the differences whose two models are both present.

    `drawn` holds each resample's mean by model and metric. All share the resamples, so that differences
    are paired.
    """
    scores = {
        name: ModelScores(
            ranks[name],
            values,
            {
                metric: Interval(float(column.mean()), *percentile_interval(drawn[name, metric]))
                for metric, column in values.items()
            },
        )
        for name, values in per_query.items()
    }
    compared = {
        f"{a}-{b}": {
            metric: Difference(
                float((column - per_query[b][metric]).mean()),
                *percentile_interval(drawn[a, metric] - drawn[b, metric]),
            )
            for metric, column in per_query[a].items()
        }
        for a, b in differences
        if a in per_query and b in per_query
    }
    return scores, compared


def _ranks(queries: QuerySet, gallery: Gallery) -> np.ndarray:
    """(Q,) rank of each query's SKU among the gallery's SKUs."""
    skus, vectors, owner = gallery.by_sku()
    truth = right_items(queries.sku_ids, skus)
    return ranks_of(*with_biases(queries.embeddings, vectors, gallery), truth, owner=owner)


def _precisions(queries: QuerySet, gallery: Gallery, labels: Labels | None) -> dict[str, np.ndarray]:
    """(Q,) precision at 10 by every label that is known for all queries."""
    if labels is None:
        return {}
    skus, vectors, owner = gallery.by_sku()
    top = best_items(*with_biases(queries.embeddings, vectors, gallery), PRECISION_AT, owner=owner)
    query_labels = {label: labels.of_queries(label, queries.query_ids) for label in (*LABELS, ALL_ATTRIBUTES)}
    return {
        precision_name(label): shared_label(top, values, labels.of_skus(label, skus))
        for label, values in query_labels.items()
        if values is not None
    }


def with_biases(queries: np.ndarray, vectors: np.ndarray, gallery: Gallery) -> tuple[np.ndarray, np.ndarray]:
    """Queries, and the vectors of `by_sku`, with the biases as one more dimension; there each query is 1."""
    if gallery.biases is None:
        return queries, vectors
    order = np.argsort(np.array(gallery.sku_ids, dtype=str), kind="stable")
    ones = np.ones(len(queries), queries.dtype)
    return np.column_stack([queries, ones]), np.column_stack([vectors, gallery.biases[order]])


def _same_for_all(lists: Mapping[str, list[str]], what: str) -> list[str]:
    """The list that all models share; empty if there is no model."""
    if not lists:
        return []
    first, expected = next(iter(lists.items()))
    for name, found in lists.items():
        if found != expected:
            raise ValueError(
                f"{what}: models {first} ({len(expected)}) and {name} ({len(found)}) differ in content or "
                "order, so their difference would not be paired; give all models the same"
            )
    return expected


def _check_lengths(what: str, rows: np.ndarray, *columns: list[str]) -> None:
    if rows.ndim != 2 or any(len(column) != len(rows) for column in columns):
        lengths = ", ".join(str(len(column)) for column in columns)
        raise ValueError(f"{what}: columns of {lengths} values for embeddings of shape {rows.shape}")
