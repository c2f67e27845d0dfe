"""Street2Shop's own rule (Kiapour et al., ICCV 2015), beside this project's protocol.

A query is a street photo cut to the product's box. It searches the whole retrieval set of its category: every
catalogue photo, those of training products and of distractors too. It is a hit at K if a photo of the right
product is among the first K. Accuracy is given by category, over all queries (a category weighs as its number
of queries), and as the mean of the categories.

`unit` says what the first K are: `image`, the rule's own, or `product`, where a product comes once, by its
best photo. A gallery of one vector per product, such as the fingerprints, has the second alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.evaluation.protocol import SETTING_SPLITS, Gallery, Model, with_biases
from skufp_pipeline.evaluation.retrieval import reid_model
from skufp_pipeline.measures.bootstrap import percentile_interval, resampled_means
from skufp_pipeline.measures.metrics import recall_at_k
from skufp_pipeline.measures.ranks import first_row_ranks, ranks_of, right_items

TOP = (1, 3, 5, 10, 20)
IMAGE, PRODUCT = "image", "product"
ALL_QUERIES, MEAN_OF_CATEGORIES = "all queries", "mean of categories"
OFFICIAL = "zero"  # the setting of the test pairs

ACCURACY_SCHEMA: dict[str, pl.DataType] = {
    "setting": pl.String(),  # whose queries: seen, zero (the test pairs, as published) or seen+zero
    "category": pl.String(),  # or ALL_QUERIES, MEAN_OF_CATEGORIES
    "model": pl.String(),
    "unit": pl.String(),
    "top": pl.Int32(),
    "accuracy": pl.Float64(),
    "low": pl.Float64(),  # of the 95% bootstrap interval over products
    "high": pl.Float64(),
    "queries": pl.Int64(),
    "products": pl.Int64(),  # in the gallery; of the categories together for the last two
    "rows": pl.Int64(),  # of the gallery
}


@dataclass(frozen=True)
class _Hits:
    """Every query of one category, with a column for each model, unit and K.

    Attributes:
        sku_ids, splits: (Q,) of the queries.
        hits: (Q, columns) 1 or 0.
        products: number of products searched.
        rows: of the gallery, by column.
    """

    sku_ids: np.ndarray
    splits: np.ndarray
    hits: np.ndarray
    products: int
    rows: list[int]

    def of_splits(self, splits: tuple[str, ...]) -> "_Hits":
        kept = np.isin(self.splits, splits)
        return replace(self, sku_ids=self.sku_ids[kept], splits=self.splits[kept], hits=self.hits[kept])


def image_model(name: str, images: pl.DataFrame) -> Model:
    """Returns the search of every catalogue photo by an embedding table (`embed_images`)."""
    return replace(reid_model(images), name=name)


def fingerprint_model(images: pl.DataFrame, fingerprints: pl.DataFrame) -> Model:
    """Returns the search of the fingerprints, with their biases, by the photos of an embedding table.

    Args:
        images: by the encoder that the fingerprints were made with.
        fingerprints: rows of `fingerprint_table`.
    """
    gallery = Gallery(
        fingerprints["sku_id"].to_list(),
        fingerprints["split"].to_list(),
        embedding_rows(fingerprints, "fingerprint"),
        fingerprints["bias"].to_numpy(),
    )
    return Model("fingerprint", image_model("photos", images).queries, gallery)


def judge_street2shop(
    models: Sequence[Model], category_of: Mapping[str, str], resamples: int = 2000, seed: int = 0
) -> pl.DataFrame:
    """Returns rows of `ACCURACY_SCHEMA`; a category without queries in a setting has none.

    Args:
        models: with image queries, the same in each, and a gallery.
        category_of: of every SKU.

    Raises:
        ValueError: models differ in their queries.
    """
    columns = [(model, unit, top) for model in models for unit in _units(model.gallery) for top in TOP]
    by_category = {
        category: _hits(models, category, category_of) for category in sorted(set(category_of.values()))
    }
    rows = []
    for setting, splits in SETTING_SPLITS.items():
        asked = {category: hits.of_splits(splits) for category, hits in by_category.items()}
        asked = {category: hits for category, hits in asked.items() if len(hits.hits)}
        for category, (hits, means, draws) in _summaries(asked, resamples, seed).items():
            for column, (model, unit, top) in enumerate(columns):
                low, high = percentile_interval(draws[:, column])
                rows.append(
                    (
                        setting,
                        category,
                        model.name,
                        unit,
                        top,
                        means[column],
                        low,
                        high,
                        len(hits.hits),
                        hits.products,
                        hits.rows[column],
                    )
                )
    return pl.DataFrame(rows, schema=ACCURACY_SCHEMA, orient="row")


def accuracy_tables(accuracy: pl.DataFrame) -> str:
    """Returns Markdown: pooled accuracy of every setting, and top-20 accuracy by category of `OFFICIAL`."""
    lines = []
    for setting in SETTING_SPLITS:
        pooled = accuracy.filter(
            (pl.col("setting") == setting) & pl.col("category").is_in([ALL_QUERIES, MEAN_OF_CATEGORIES])
        )
        if pooled.height:
            lines += [f"**{setting}**, {pooled['queries'][0]:,} queries", ""]
            lines += _table(
                pooled, ["category", "model", "unit", "rows"], [f"top-{top}" for top in TOP], "top"
            )
    official = accuracy.filter((pl.col("setting") == OFFICIAL) & (pl.col("top") == TOP[-1]))
    if official.height:
        lines += [f"**{OFFICIAL}**, top-{TOP[-1]} by category", ""]
        names = official["category"].unique(maintain_order=True).to_list()
        lines += _table(official, ["model", "unit"], names, "category")
    return "\n".join(lines)


def headline(accuracy: pl.DataFrame) -> dict[str, float]:
    """Returns the top-20 accuracy of the test pairs over all queries, by model and unit."""
    rows = accuracy.filter(
        (pl.col("setting") == OFFICIAL) & (pl.col("category") == ALL_QUERIES) & (pl.col("top") == TOP[-1])
    )
    return {f"{model}, {unit}": value for model, unit, value in rows["model", "unit", "accuracy"].iter_rows()}


def _table(rows: pl.DataFrame, keys: list[str], titles: list[str], across: str) -> list[str]:
    """Markdown lines: a row for each value of `keys`, a column for each of `across`, as `rows` has them."""
    lines = [f"| {' | '.join([*keys, *titles])} |", "|---" * (len(keys) + len(titles)) + "|"]
    values = rows[across].unique(maintain_order=True).to_list()
    for key, part in rows.group_by(keys, maintain_order=True):
        cells = {row[across]: _cell(row) for row in part.to_dicts()}
        lines.append(f"| {' | '.join([*map(str, key), *(cells.get(value, '') for value in values)])} |")
    return [*lines, ""]


def _cell(row: Mapping[str, Any]) -> str:
    return f"{row['accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _units(gallery: Gallery) -> tuple[str, ...]:
    return (PRODUCT,) if len(set(gallery.sku_ids)) == len(gallery.sku_ids) else (IMAGE, PRODUCT)


def _hits(models: Sequence[Model], category: str, category_of: Mapping[str, str]) -> _Hits:
    first = models[0].queries["image"]
    mine = [row for row, sku_id in enumerate(first.sku_ids) if category_of[sku_id] == category]
    columns: list[np.ndarray] = []
    rows: list[int] = []
    products = 0
    for model in models:
        queries = model.queries["image"]
        if queries.query_ids != first.query_ids:
            raise ValueError(f"models {models[0].name} and {model.name} differ in their queries")
        gallery = _of_category(model.gallery, category, category_of)
        skus, vectors, owner = gallery.by_sku()
        truth = right_items([queries.sku_ids[row] for row in mine], skus)
        searched = with_biases(queries.embeddings[mine], vectors, gallery)
        products = max(products, len(skus))
        for unit in _units(model.gallery):
            rank = first_row_ranks if unit == IMAGE else ranks_of
            ranks = rank(*searched, truth, owner=owner)
            columns += [recall_at_k(ranks, top) for top in TOP]
            rows += [len(vectors) if unit == IMAGE else len(skus)] * len(TOP)
    return _Hits(
        np.array([first.sku_ids[row] for row in mine], dtype=str),
        np.array([first.splits[row] for row in mine], dtype=str),
        np.stack(columns, axis=1),
        products,
        rows,
    )


def _of_category(gallery: Gallery, category: str, category_of: Mapping[str, str]) -> Gallery:
    kept = [row for row, sku_id in enumerate(gallery.sku_ids) if category_of[sku_id] == category]
    return Gallery(
        [gallery.sku_ids[row] for row in kept],
        [gallery.splits[row] for row in kept],
        gallery.vectors[kept],
        None if gallery.biases is None else gallery.biases[kept],
    )


def _summaries(
    asked: Mapping[str, _Hits], resamples: int, seed: int
) -> dict[str, tuple[_Hits, np.ndarray, np.ndarray]]:
    """Returns the queries, means (columns,) and bootstrap means (resamples, columns), by category and pooled.

    Categories are resampled independently, so that the mean of their draws is a draw of their mean.
    """
    found = {
        category: (
            hits,
            hits.hits.mean(axis=0),
            resampled_means(hits.hits, hits.sku_ids, resamples, seed + i),
        )
        for i, (category, hits) in enumerate(asked.items())
    }
    if not found:
        return {}
    everyone = _joined(asked.values())
    draws = resampled_means(everyone.hits, everyone.sku_ids, resamples, seed)
    of_categories: list[tuple[_Hits, np.ndarray, np.ndarray]] = list(found.values())
    means = np.mean([mean for _, mean, _ in of_categories], axis=0)
    mean_draws = np.mean([drawn for _, _, drawn in of_categories], axis=0)
    return {
        **found,
        ALL_QUERIES: (everyone, everyone.hits.mean(axis=0), draws),
        MEAN_OF_CATEGORIES: (everyone, means, mean_draws),
    }


def _joined(parts: Iterable[_Hits]) -> _Hits:
    every = list(parts)
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in every])
        for name in ("sku_ids", "splits", "hits")
    }
    rows = np.sum([part.rows for part in every], axis=0).tolist()
    return _Hits(**joined, products=sum(part.products for part in every), rows=rows)
