"""Judges an index with labelled photos: where the right SKU stands among all SKUs of the index.

Every photo is decoded, embedded and processed as a search does, one at a time, because an int8 encoder's
result depends on what else is in its batch. Ranks are exact and pessimistic about ties (`measures.ranks`).
A picture that the catalogue's training used is not judged.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tabulate import tabulate

from skufp_pipeline.datasets.catalogue import with_image_digests
from skufp_pipeline.datasets.crops import CropSettings, read_item
from skufp_pipeline.datasets.reading import DECODE_THREADS, Row, map_in_threads, skipped_row
from skufp_pipeline.datasets.table import DEVELOPMENT, GALLERY, QUERY, SKIPPED_SCHEMA, TRAIN, Catalogue
from skufp_pipeline.errors import ItemError, UserError
from skufp_pipeline.evaluation.latency import statistics_ms
from skufp_pipeline.evaluation.stages import second_look
from skufp_pipeline.fingerprint.tables import biased_queries
from skufp_pipeline.hashing import stable_hash
from skufp_pipeline.measures.bootstrap import percentile_interval, resampled_means
from skufp_pipeline.measures.metrics import per_query_metrics
from skufp_pipeline.measures.ranks import UNRANKED, ranks_of, right_items
from skufp_pipeline.progress import Progress
from skufp_pipeline.query.answers import Clock
from skufp_pipeline.query.engine import EmbeddedPhoto, QueryEngine
from skufp_pipeline.search.images import ImageIndex
from skufp_pipeline.search.index import FingerprintIndex

METRICS = ("recall@1", "recall@5", "recall@10", "mrr")
USED = (GALLERY, TRAIN, DEVELOPMENT)  # roles of pictures that something was learnt or chosen from
WITHOUT = "recall@1 without"  # of a stage that can be switched off
TIMED = 200  # photos


@dataclass(frozen=True)
class Photos:
    """Labelled photos to judge.

    Attributes:
        items: rows of `ITEM_SCHEMA`, `orig_image_path` relative to `folder`.
        left_out: rows of `SKIPPED_SCHEMA`.
    """

    folder: Path
    items: pl.DataFrame
    left_out: pl.DataFrame

    def without(self, rejected: pl.Series, reason: str, detail: str) -> "Photos":
        """The photos with those rows left out where `rejected` is true."""
        error = ItemError(reason, detail)
        rows = [_left_out(row, error) for row in self.items.filter(rejected).iter_rows(named=True)]
        return Photos(self.folder, self.items.filter(~rejected), _joined(self.left_out, rows))

    def sample(self, limit: int | None) -> "Photos":
        """At most `limit` of the photos, always the same of the same list."""
        draw = pl.col("image_id").map_elements(
            lambda i: stable_hash(i, "photo-sample"), return_dtype=pl.UInt64
        )
        drawn = self.items if limit is None else self.items.sort(draw, "item_idx").head(limit)
        return Photos(self.folder, drawn, self.left_out)


@dataclass(frozen=True)
class PhotoReport:
    """How well an index answers labelled photos.

    Attributes:
        skus: number of SKUs searched.
        metrics: `METRICS`, means over the photos; intervals are of 95%, over SKUs.
        stages: of the query, by name: `p50_ms`, `p95_ms` and, of one that can be switched off, `WITHOUT`.
        table: a row per photo: `sku_id`, `image_path`, `rank` (null: the SKU is not in the index), `found`
            (the first SKU), `policy` (what it did).
        left_out: photos that were not judged, rows of `SKIPPED_SCHEMA`.
    """

    skus: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    stages: dict[str, dict[str, float]]
    table: pl.DataFrame
    left_out: pl.DataFrame

    def summary(self) -> dict[str, Any]:
        """The report without its tables, JSON-able."""
        intervals = {name: list(ends) for name, ends in self.intervals.items()}
        counts = {"queries": self.table.height, "skus": self.skus}
        return {**counts, **self.metrics, "intervals": intervals, "stages": self.stages}

    def unknown_skus(self) -> list[str]:
        """The SKUs of photos that the index does not hold."""
        return self.table.filter(pl.col("rank").is_null())["sku_id"].unique().sort().to_list()

    def listing(self) -> pl.DataFrame:
        """A row per photo, judged or not: the table, `reason` and `detail`."""
        left_out = self.left_out.select("sku_id", pl.col("path").alias("image_path"), "reason", "detail")
        return pl.concat([self.table, left_out], how="diagonal")


def photos_to_judge(found: Catalogue, folder: Path, used: pl.DataFrame, limit: int | None = None) -> Photos:
    """Returns the customers' photos of a list, without the pictures that training used.

    Args:
        found: as `read_photos` returns it; `folder` is the list's.
        used: the catalogue's items with `role` and `image_digest`.
    """
    photos = Photos(folder, found.items, found.skipped)
    catalog = photos.items["domain"] != QUERY
    photos = photos.without(catalog, "catalog_picture", "its domain is catalog: it is no customer's photo")
    items = with_image_digests(photos.items, folder.joinpath)
    known = used.filter(pl.col("role").is_in(USED))["image_digest"]
    leaked = items["image_digest"].is_in(known.implode())
    return photos.without(leaked, "in_the_catalogue", "the catalogue that was learnt from has it").sample(
        limit
    )


def judge_photos(
    engine: QueryEngine, photos: Photos, seed: int, resamples: int, progress: Progress | None = None
) -> PhotoReport:
    """Asks the engine for every photo and compares the answers with the labels.

    Raises UserError if no photo can be judged.
    """
    if engine.multi_stage is not None:
        raise UserError(
            "this index has stages after the search (multi_stage), which the retrieval report judges; "
            "skufp evaluate judges indexes without them"
        )
    rows = photos.items.to_dicts()
    outcomes = map_in_threads(
        partial(_embedded, engine, photos.folder), rows, progress, threads=DECODE_THREADS
    )
    broken = [_left_out(row, e) for row, e in zip(rows, outcomes, strict=True) if isinstance(e, ItemError)]
    left_out = _joined(photos.left_out, broken)
    judged = [
        (row, found) for row, found in zip(rows, outcomes, strict=True) if isinstance(found, EmbeddedPhoto)
    ]
    if not judged:
        reasons = ", ".join(
            f"{reason} {n}" for reason, n in left_out["reason"].value_counts(sort=True).rows()
        )
        raise UserError(f"there is no photo to judge; left out: {reasons or 'nothing'}")
    table = _answers(engine, judged)
    ranks, skus = table["rank"].to_numpy(), table["sku_id"].to_numpy()
    values = {name: column for name, column in per_query_metrics(ranks).items() if name in METRICS}
    means = resampled_means(np.stack(list(values.values()), axis=1), skus, resamples, seed)
    stages = stage_times(engine, photos.folder, [row for row, _ in judged])
    if engine.policy is not None:
        plain = np.concatenate([found.plain for _, found in judged])
        stages["policy"][WITHOUT] = float((_ranks(engine, plain, judged)[0] == 1).mean())
    if engine.look_twice is not None:
        first = _first_ranks(engine.index, np.concatenate([found.query for _, found in judged]), skus)
        stages["look_twice"][WITHOUT] = float((first == 1).mean())
    return PhotoReport(
        len(engine.index),
        {name: float(column.mean()) for name, column in values.items()},
        {name: percentile_interval(column) for name, column in zip(values, means.T, strict=True)},
        stages,
        table.with_columns(rank=pl.col("rank").replace(UNRANKED, None)),
        left_out,
    )


def stage_times(engine: QueryEngine, folder: Path, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """p50 and p95 milliseconds by stage and in `total`, of up to `TIMED` photos asked one after the other.

    A stage that not every photo needs (`encode_again`) counts the photos that did.
    """
    samples: dict[str, list[float]] = {}
    for row in rows[:: -(-len(rows) // TIMED)]:
        started, clock = time.perf_counter(), Clock()
        image = read_item(folder / row["orig_image_path"], row["bbox"], CropSettings())
        clock.lap("decode")
        photo = engine.embed_image(image, clock)
        first = engine.first_pass(photo, 10)
        clock.lap("search")
        if engine.look_twice is not None:
            second_look(engine, first, photo)
            clock.lap("look_twice")
        total = (time.perf_counter() - started) * 1000
        for stage, spent in {**clock.milliseconds, "total": total}.items():
            samples.setdefault(stage, []).append(spent)
    order = ("decode", "preprocess", "encode", "policy", "encode_again", "search", "look_twice", "total")
    figures = {stage: statistics_ms(samples[stage]) for stage in order if stage in samples}
    return {stage: {name: found[name] for name in ("p50_ms", "p95_ms")} for stage, found in figures.items()}


def text_report(report: PhotoReport) -> str:
    """The report for a terminal, in a shop owner's words."""
    photos, products = report.table.height, report.table["sku_id"].n_unique()

    def line(what: str, name: str) -> list[str]:
        low, high = report.intervals[name]
        share = f"{report.metrics[name]:.1%}"
        return [what, share, f"{low:.1%} to {high:.1%}"]

    found = [
        line("first", "recall@1"),
        line("among the first 5", "recall@5"),
        line("among the first 10", "recall@10"),
        ["not among the first 10", f"{1 - report.metrics['recall@10']:.1%}", ""],
    ]
    low, high = report.intervals["mrr"]
    times = [
        [stage, f"{spent['p50_ms']:.1f} ms", f"{spent['p95_ms']:.1f} ms"]
        for stage, spent in report.stages.items()
    ]
    right = ("left", "right", "right")
    parts = [
        f"{photos:,} photos of {products:,} products, each searched for among {report.skus:,} products",
        tabulate(
            found, ["The right product is", "of the photos", "95% interval"], "simple", colalign=right,
            disable_numparse=True,
        ),
        f"Mean reciprocal rank: {report.metrics['mrr']:.3f} ({low:.3f} to {high:.3f})",
        tabulate(
            times, ["One photo takes", "half within", "95 of 100 within"], "simple", colalign=right,
            disable_numparse=True,
        ),
    ]  # fmt: skip
    parts += [
        f"Without the stage {stage} the right product is first for {spent[WITHOUT]:.1%} of the photos."
        for stage, spent in report.stages.items()
        if WITHOUT in spent
    ]
    return "\n\n".join(parts)


def _embedded(engine: QueryEngine, folder: Path, row: Mapping[str, Any]) -> EmbeddedPhoto | ItemError:
    try:
        image = read_item(folder / row["orig_image_path"], row["bbox"], CropSettings())
    except ItemError as error:
        return error
    except OSError as error:
        raise UserError(f"photo {row['orig_image_path']} can't be read: {error}") from error
    return engine.embed_image(image, Clock())


def _answers(engine: QueryEngine, judged: Sequence[tuple[Row, EmbeddedPhoto]]) -> pl.DataFrame:
    queries = np.concatenate([found.query for _, found in judged])
    ranks, best = _ranks(engine, queries, judged)
    return pl.DataFrame(
        {
            "sku_id": [row["sku_id"] for row, _ in judged],
            "image_path": [row["orig_image_path"] for row, _ in judged],
            "rank": ranks,
            "found": engine.index.skus["sku_id"][best],
            "policy": pl.Series([found.action for _, found in judged], dtype=pl.String),
        }
    )


def _ranks(
    engine: QueryEngine, queries: NDArray[np.float32], judged: Sequence[tuple[Row, EmbeddedPhoto]]
) -> tuple[NDArray[np.int64], list[int]]:
    """(Q,) rank of each photo's SKU among all SKUs of the index, as a search with `queries` ranks them, and
    the row of each first answer."""
    index = engine.index
    skus = np.array([row["sku_id"] for row, _ in judged])
    ranks, truth, best = _first_ranks(index, queries, skus), right_items(skus, index.skus["sku_id"]), []
    for number, (_, photo) in enumerate(judged):
        asked = photo._replace(query=queries[number : number + 1])
        answered = second_look(engine, engine.first_pass(asked, 1), asked)
        best.append(int(answered.rows[0]))
        if engine.look_twice is not None and len(place := np.flatnonzero(answered.rows == truth[number])):
            ranks[number] = place[0] + 1
    return ranks, best


def _first_ranks(index: FingerprintIndex, queries: NDArray[np.float32], skus: NDArray) -> NDArray[np.int64]:
    """(Q,) rank of each query's SKU among all SKUs of the index, by the scores of the first pass."""
    fingerprints, table = index.contents()
    if isinstance(index, ImageIndex):
        truth = right_items(skus.tolist(), table["sku_id"])
        return ranks_of(queries, index.vectors, truth, owner=index.owners)
    biases = index.biases[index.present.numbers()]
    truth = right_items(skus.tolist(), table["sku_id"])
    return ranks_of(biased_queries(queries), np.column_stack([fingerprints, biases]), truth)


def _left_out(row: Mapping[str, Any], error: ItemError) -> Row:
    place = (row["split"], row["image_id"], row["item_idx"], row["orig_image_path"])
    return skipped_row(*place, error, row["sku_id"])


def _joined(left_out: pl.DataFrame, rows: Sequence[Row]) -> pl.DataFrame:
    return pl.concat([left_out, pl.DataFrame(rows, schema=SKIPPED_SCHEMA)])
