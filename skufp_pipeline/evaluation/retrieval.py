"""The retrieval report: every model judged by the one protocol, written as JSON, Parquet and a page.

Models without training (mean, trimmed mean, medoid, best-shot) stand beside the fingerprint, and the
frozen encoder's mean beside them where there is a pretrained one.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from skufp_pipeline.datasets.table import EVALUATION, QUERY
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.evaluation.figures import GridRow, latency_histogram, recall_curve, results_grid
from skufp_pipeline.evaluation.latency import latency_summary, measure, statistics_ms
from skufp_pipeline.evaluation.page import render_page
from skufp_pipeline.evaluation.protocol import Evaluation, Gallery, Model, evaluate, evaluation_queries
from skufp_pipeline.evaluation.report import report_frame, report_json
from skufp_pipeline.fingerprint.tables import EmbeddingTables
from skufp_pipeline.fingerprint.views import gather_views, mean_sku, medoid, trimmed_mean
from skufp_pipeline.hashing import stable_hash
from skufp_pipeline.search.engine import QueryEngine, read_photo

DIFFERENCES = (("fingerprint", "mean_sku"), ("fingerprint", "best_shot"), ("mean_sku", "frozen_mean_sku"))


@dataclass(frozen=True)
class ReportInputs:
    """What a report is made from.

    Attributes:
        tables, frozen_tables: embeddings by the fine-tuned and by the frozen encoder (None without one).
        teachers: `sku_id`, `image_teacher`.
        fingerprints: `sku_id`, `split`, `bias`, `fingerprint`.
        max_views: views of one SKU that the models may use.
    """

    tables: EmbeddingTables
    frozen_tables: EmbeddingTables | None
    teachers: pl.DataFrame
    fingerprints: pl.DataFrame
    max_views: int


def build_models(inputs: ReportInputs) -> list[Model]:
    """Every model of the report, over the same SKUs and queries."""
    views = gather_views(inputs.tables.images, inputs.max_views)
    skus = pl.DataFrame({"sku_id": views.sku_ids})
    teachers = skus.join(inputs.teachers, on="sku_id", how="left", maintain_order="left")
    fingerprints = skus.join(inputs.fingerprints, on="sku_id", how="left", maintain_order="left")
    galleries = {
        "mean_sku": mean_sku(views),
        "trimmed_mean": trimmed_mean(views),
        "medoid": medoid(views),
        "best_shot": embedding_rows(teachers, "image_teacher"),
    }
    queries = _queries(inputs.tables)
    models = [
        Model(name, queries, Gallery(views.sku_ids, views.splits, rows)) for name, rows in galleries.items()
    ]
    rows, biases = embedding_rows(fingerprints, "fingerprint"), fingerprints["bias"].to_numpy()
    models.append(Model("fingerprint", queries, Gallery(views.sku_ids, views.splits, rows, biases)))
    if inputs.frozen_tables is not None:
        frozen = gather_views(inputs.frozen_tables.images, inputs.max_views)
        gallery = Gallery(frozen.sku_ids, frozen.splits, mean_sku(frozen))
        models.insert(0, Model("frozen_mean_sku", _queries(inputs.frozen_tables), gallery))
    return models


def judge(inputs: ReportInputs, resamples: int, seed: int) -> Evaluation:
    """All models under the protocol, with the differences that the report claims."""
    models = build_models(inputs)
    names = {model.name for model in models}
    differences = [pair for pair in DIFFERENCES if set(pair) <= names]
    return evaluate(models, differences, seed, resamples)


def measure_latency(
    engine: QueryEngine, photos: Sequence[Path], texts: Sequence[str], batch: int, threads: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every stage timed over `photos` and `texts`, one query at a time, then the search batched.

    Photos are encoded by PyTorch too where another encoder answers them; a text is encoded once.

    Returns:
        The report's `latency` entry, and the raw stages for the histogram.
    """
    answers = [engine.search_image(photo, 10) for photo in [photos[0], *photos]][1:]  # the first warms up
    unique = list(dict.fromkeys(texts))  # one asked before costs nothing
    told = [engine.search_text(text, 10) for text in ["words to warm up", *unique]][1:]
    samples = {
        "decode": [answer.milliseconds["decode"] for answer in answers],
        "preprocess": [answer.milliseconds["preprocess"] for answer in answers],
        "encode_image": [answer.milliseconds["encode"] for answer in answers],
        "encode_image_pytorch": _pytorch_ms(engine, photos),
        "encode_text": [answer.milliseconds["encode"] for answer in told],
        "search": [answer.milliseconds["search"] for answer in answers + told],
    }
    stages = {stage: statistics_ms(values) for stage, values in samples.items() if values}
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((batch, engine.index.dimension)).astype(np.float32)
    batched = measure({"search": lambda: engine.index.search(queries, 10)}, 50, 3, batch)["search"]
    return latency_summary(stages, threads, batched, batch), stages


def _pytorch_ms(engine: QueryEngine, photos: Sequence[Path]) -> list[float]:
    """What PyTorch's tower takes for each photo; nothing where it answers the queries itself."""
    if engine.image_encoder is engine.encoder:
        return []
    samples = []
    for photo in [photos[0], *photos]:
        pixels = engine.encoder.preprocess(read_photo(photo))[None]
        begin = time.perf_counter()
        engine.encoder.embed_pixels(pixels)
        samples.append((time.perf_counter() - begin) * 1000)
    return samples[1:]  # the first warms up


def write_report(
    directory: Path,
    preset: str,
    evaluation: Evaluation,
    extras: Mapping[str, Any],
    latency: tuple[dict[str, Any], dict[str, Any]],
    grid: Sequence[GridRow],
    skipped: Mapping[str, int],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes `report.json`, `metrics.parquet`, `report.html` and its PNGs; returns the report.

    Tables are the same from run to run; times are not, and stand in `report.json` under `latency` alone.
    """
    summary, stages = latency
    report = report_json(preset, evaluation, summary, extras)
    figures = {"recall": recall_curve(evaluation), "latency": latency_histogram(stages)}
    figures["grid"] = results_grid(grid)
    for name, png in figures.items():
        (directory / f"{name}.png").write_bytes(png)
    (directory / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    report_frame(report).write_parquet(directory / "metrics.parquet", compression="zstd")
    page = render_page(report, figures["recall"], figures["latency"], figures["grid"], skipped, provenance)
    (directory / "report.html").write_text(page)
    return report


def sample_evaluation_queries(images: pl.DataFrame, count: int) -> pl.DataFrame:
    """`count` evaluation queries by a stable draw, for latency and the picture of results."""
    held = images.filter((pl.col("role") == EVALUATION) & (pl.col("domain") == QUERY))
    order = held["item_id"].map_elements(lambda i: stable_hash(i, "report-sample"), return_dtype=pl.UInt64)
    return held.with_columns(order.alias("order")).sort("order").head(count).drop("order")


def grid_rows(
    queries: pl.DataFrame, photos: Sequence[Path], engine: QueryEngine, local_path: Any
) -> list[GridRow]:
    """Each query photo with its five best SKUs and their images."""
    rows = []
    for sku_id, photo in zip(queries["sku_id"], photos, strict=True):
        with Image.open(photo) as image:
            pixels: NDArray[np.uint8] = np.asarray(image.convert("RGB"))
        hits = engine.search_image(photo, 5).hits
        rows.append(GridRow(pixels, sku_id, [(local_path(hit.image), hit.sku_id, hit.score) for hit in hits]))
    return rows


def _queries(tables: EmbeddingTables) -> dict[str, Any]:
    images = evaluation_queries(tables.images.rename({"item_id": "query_id"}))
    texts = evaluation_queries(tables.texts.rename({"text_id": "query_id"}))
    return {"image": images, "text": texts}
