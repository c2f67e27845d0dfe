"""The retrieval report: evaluates every model by one protocol and writes JSON, Parquet and a page.

The models are the fingerprint, those without training (mean, trimmed mean, medoid, best-shot), the frozen
encoder's mean if it is pretrained, and the re-identification network (Baseline 1) if the preset trains one.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skufp_pipeline.artifacts.kinds import ReportFiles
from skufp_pipeline.datasets.prompts import TEXT_SOURCES, source_queries
from skufp_pipeline.datasets.table import EVALUATION, GALLERY, QUERY, SYNTHETIC
from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.encoders.embed import embed_text_table
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.evaluation.figures import GridRow, latency_histogram, recall_curve, results_grid
from skufp_pipeline.evaluation.labels import Labels
from skufp_pipeline.evaluation.latency import gallery_latency, processor_name, samples_ms, statistics_ms
from skufp_pipeline.evaluation.page import render_page
from skufp_pipeline.evaluation.protocol import (
    MODALITIES,
    SETTING_SPLITS,
    Evaluation,
    Gallery,
    Model,
    QuerySet,
    evaluate,
    evaluation_queries,
)
from skufp_pipeline.evaluation.report import GalleryLatency, Latency, Report, Times
from skufp_pipeline.fingerprint.tables import JUDGED_SPLITS, EmbeddingTables
from skufp_pipeline.fingerprint.views import gather_views, mean_sku, medoid, trimmed_mean
from skufp_pipeline.hashing import stable_hash
from skufp_pipeline.query.engine import QueryEngine, read_photo
from skufp_pipeline.query.regions import WHOLE

DIFFERENCES = (
    ("fingerprint", "mean_sku"),
    ("fingerprint", "best_shot"),
    ("fingerprint", "reid"),
    ("mean_sku", "frozen_mean_sku"),
)


@dataclass(frozen=True)
class ReportInputs:
    """The tables that a report is made from.

    Attributes:
        tables, frozen_tables: embeddings by the fine-tuned and by the frozen encoder (None without one).
        teachers: `sku_id`, `image_teacher`.
        fingerprints: `sku_id`, `split`, `bias`, `fingerprint`.
        max_views: maximum number of views per SKU.
        labels: for precision at 10 of text queries.
        text_sources: by source of the texts, the table of its text queries (`tables.texts`' columns).
        reid_images: embeddings of all crops by Baseline 1, if there is one.
    """

    tables: EmbeddingTables
    frozen_tables: EmbeddingTables | None
    teachers: pl.DataFrame
    fingerprints: pl.DataFrame
    max_views: int
    labels: Labels | None = None
    text_sources: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    reid_images: pl.DataFrame | None = None


def embed_sources(image_text: pl.DataFrame, encoder: Encoder, batch_size: int) -> dict[str, pl.DataFrame]:
    """Text queries by source with their embeddings, as `ReportInputs.text_sources`.

    Empty if the catalogue describes every SKU, so that no query is made from a template.
    """
    queries = {source: source_queries(image_text, source) for source in TEXT_SOURCES}
    return {
        source: embed_text_table(encoder, texts, batch_size)
        for source, texts in queries.items()
        if texts.height
    }


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
    if inputs.reid_images is not None:
        models.insert(0, reid_model(inputs.reid_images))
    return models


def reid_model(images: pl.DataFrame) -> Model:
    """Baseline 1: image queries only, against every catalogue crop; a SKU scores its best crop."""
    crops = images.filter(pl.col("role") == GALLERY)
    gallery = Gallery(crops["sku_id"].to_list(), crops["split"].to_list(), embedding_rows(crops))
    return Model("reid", {"image": _image_queries(images)}, gallery)


def judge(models: Sequence[Model], resamples: int, seed: int, labels: Labels | None = None) -> Evaluation:
    """Evaluates all models under the protocol, with those of `DIFFERENCES` whose models are present."""
    names = {model.name for model in models}
    differences = [pair for pair in DIFFERENCES if set(pair) <= names]
    return evaluate(models, differences, seed, resamples, labels)


def judge_sources(
    models: Sequence[Model], inputs: ReportInputs, resamples: int, seed: int
) -> dict[str, Evaluation]:
    """By source, the evaluation of its text queries with every model of the fine-tuned encoder."""
    text_queries = next(model for model in models if model.name == "mean_sku").queries["text"]
    same_encoder = [model for model in models if model.queries.get("text") is text_queries]
    query_sets = {source: _text_queries(texts) for source, texts in inputs.text_sources.items()}
    return {
        source: judge(
            [replace(model, queries={"text": queries}) for model in same_encoder],
            resamples,
            seed,
            inputs.labels,
        )
        for source, queries in query_sets.items()
    }


def measure_galleries(models: Sequence[Model], queries: int, batch: int) -> GalleryLatency:
    """Latency of every row of tables 1 and 2, by setting, modality and model (`latency.gallery_latency`).

    At most `queries` of a setting's query embeddings are asked one at a time; `batch` at once when batched.
    """
    latencies: GalleryLatency = {}
    for setting, splits in SETTING_SPLITS.items():
        latencies[setting] = {modality: {} for modality in MODALITIES}
        for model in models:
            _, vectors, owner = model.gallery.of_splits(splits).by_sku()
            for modality, query_set in model.queries.items():
                rows = query_set.of_splits(splits).embeddings[:queries]
                if len(rows) and len(vectors):
                    latencies[setting][modality][model.name] = gallery_latency(rows, vectors, owner, batch)
    return latencies


def measure_latency(
    engine: QueryEngine, photos: Sequence[Path], texts: Sequence[str], batch: int, threads: int
) -> tuple[Latency, dict[str, list[float]]]:
    """Times every stage over `photos` and `texts`, one query at a time, then the search batched.

    Photos are encoded by PyTorch too if another encoder serves them; a text is encoded once.
    Returns the report's latency, and the milliseconds of every query by stage, for the histogram.
    """
    answers = [engine.search_image(photo, 10, region=WHOLE) for photo in [photos[0], *photos]][
        1:
    ]  # the first warms up
    unique = list(dict.fromkeys(texts))  # a repeated text is cached
    text_answers = [engine.search_text(text, 10) for text in ["words to warm up", *unique]][1:]
    samples = {
        "decode": [answer.milliseconds["decode"] for answer in answers],
        "preprocess": [answer.milliseconds["preprocess"] for answer in answers],
        "encode_image": [answer.milliseconds["encode"] for answer in answers],
        "encode_image_pytorch": _pytorch_ms(engine, photos),
        "encode_text": [answer.milliseconds["encode"] for answer in text_answers],
        "search": [answer.milliseconds["search"] for answer in answers + text_answers],
    }
    samples = {stage: values for stage, values in samples.items() if values}
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((batch, engine.index.dimension)).astype(np.float32)
    batched = samples_ms(lambda: engine.index.search(queries, 10), 50, 3, batch)
    latency = Latency(
        threads=threads,
        processor=processor_name(),
        stages={stage: Times(**statistics_ms(values)) for stage, values in samples.items()},
        search_batched=Times(batch=batch, **statistics_ms(batched)),
    )
    return latency, samples


def _pytorch_ms(engine: QueryEngine, photos: Sequence[Path]) -> list[float]:
    """Milliseconds of PyTorch's image tower for each photo; empty if it serves the queries itself."""
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
    report: Report,
    evaluation: Evaluation,
    samples: Mapping[str, Sequence[float]],
    grid: Sequence[GridRow] | None,
    provenance: Mapping[str, Any],
    verdicts: bytes | None = None,
) -> None:
    """Writes `report.json`, `metrics.parquet`, `report.html` and its PNGs.

    Tables are the same from run to run. Times are not; in `report.json` they are only under `latency`.
    The recall curves are drawn from `evaluation`; `samples` are the times of `measure_latency`; `verdicts` is
    the PNG of `figures.verdict_curves`, if any. There is no grid without evaluation photos.
    """
    figures = {"recall": recall_curve(evaluation), "latency": latency_histogram(samples)}
    figures |= {"grid": results_grid(grid)} if grid else {}
    figures |= {"verdicts": verdicts} if verdicts else {}
    shown = figures["recall"], figures["latency"], figures.get("grid")
    page = render_page(report, *shown, provenance, verdicts)
    ReportFiles.write(directory, report.to_json(), report.frame(), page, figures)


def sample_evaluation_queries(images: pl.DataFrame, count: int) -> pl.DataFrame:
    """A stable sample of `count` evaluation queries, for latency and the results grid."""
    return _sample(images.filter(pl.col("role") == EVALUATION), count)


def judged_on(images: pl.DataFrame) -> Literal["customers' photos", "synthetic photos"] | None:
    """Whose photos the evaluation queries are; None if there are none.

    Raises ValueError if there are both.
    """
    held = images.filter((pl.col("role") == EVALUATION) & pl.col("split").is_in(JUDGED_SPLITS))
    domains = set(held["domain"])
    if len(domains) > 1:
        raise ValueError(f"evaluation photos of {' and '.join(sorted(domains))} in one figure")
    if not domains:
        return None
    return "synthetic photos" if SYNTHETIC in domains else "customers' photos"


def sample_photos(images: pl.DataFrame, count: int) -> pl.DataFrame:
    """Photos to time a search with: evaluation queries, else other photos, else catalog pictures."""
    queries = images.filter(pl.col("domain") == QUERY)
    scored = sample_evaluation_queries(images, count)
    return scored if scored.height else _sample(queries if queries.height else images, count)


def _sample(queries: pl.DataFrame, count: int) -> pl.DataFrame:
    order = queries["item_id"].map_elements(lambda i: stable_hash(i, "report-sample"), return_dtype=pl.UInt64)
    return queries.with_columns(order.alias("order")).sort("order").head(count).drop("order")


def grid_rows(queries: pl.DataFrame, photos: Sequence[Path], engine: QueryEngine) -> list[GridRow]:
    """Each query photo with its five best SKUs and their images."""
    rows = []
    for sku_id, photo in zip(queries["sku_id"], photos, strict=True):
        pixels: NDArray[np.uint8] = np.asarray(read_photo(photo))
        hits = engine.search_image(photo, 5, region=WHOLE).hits
        shown = [(engine.picture(hit.sku_id) or b"", hit.sku_id, hit.score) for hit in hits]
        rows.append(GridRow(pixels, sku_id, shown))
    return rows


def _queries(tables: EmbeddingTables) -> dict[str, Any]:
    return {"image": _image_queries(tables.images), "text": _text_queries(tables.texts)}


def _image_queries(images: pl.DataFrame) -> QuerySet:
    return evaluation_queries(images.rename({"item_id": "query_id"}))


def _text_queries(texts: pl.DataFrame) -> QuerySet:
    return evaluation_queries(texts.rename({"text_id": "query_id"}))
