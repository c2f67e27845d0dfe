"""Builds the retrieval report from the graph's artifacts: reads, evaluates, measures and writes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch

from skufp_pipeline.artifacts.inputs import Inputs
from skufp_pipeline.artifacts.kinds import (
    Aggregator,
    Annotations,
    DetectionReport,
    Embeddings,
    Fingerprints,
    ImageEncoder,
    ImageText,
    SearchIndex,
    Teachers,
)
from skufp_pipeline.artifacts.places import (
    ANNOTATIONS,
    BEST_SHOT_TEACHERS,
    CLIP_CHECKPOINT,
    CLIP_EMBEDDINGS,
    DETECTION_REPORT,
    FINGERPRINT_CHECKPOINT,
    FINGERPRINTS,
    FROZEN_CLIP_EMBEDDINGS,
    FROZEN_SYNTHETIC_EMBEDDINGS,
    GENERATED_VIEW_EMBEDDINGS,
    IMAGE_ENCODER_ONNX,
    IMAGE_TEXT,
    SEARCH_INDEX,
    SYNTHETIC_EMBEDDINGS,
    extractor_checkpoint,
    extractor_embeddings,
)
from skufp_pipeline.artifacts.stored import R, Stored
from skufp_pipeline.datasets.table import EVALUATION
from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.evaluation import retrieval
from skufp_pipeline.evaluation.controls import control_tables, judge_controls
from skufp_pipeline.evaluation.figures import verdict_curves
from skufp_pipeline.evaluation.labels import make_labels
from skufp_pipeline.evaluation.paper import judge_paper, paper_models, paper_teachers
from skufp_pipeline.evaluation.protocol import MODALITIES, SETTING_SPLITS, Model
from skufp_pipeline.evaluation.report import (
    SYNTHETIC_PHOTOS,
    Duplicates,
    Latency,
    Report,
    Results,
    Stage,
    Verdicts,
    results,
    source_results,
)
from skufp_pipeline.evaluation.settings import EvaluationSettings
from skufp_pipeline.evaluation.stages import (
    AskedPhoto,
    EmbeddedPhotos,
    embed_photos,
    judge_stages,
    region_stages,
)
from skufp_pipeline.evaluation.tables import SETTING_LABELS
from skufp_pipeline.evaluation.verdicts import ask_photos, judge_verdicts, roc
from skufp_pipeline.fingerprint.aggregator import load_aggregator
from skufp_pipeline.fingerprint.gaussian import load_gaussian
from skufp_pipeline.fingerprint.make import make_fingerprints
from skufp_pipeline.fingerprint.settings import FingerprintSettings
from skufp_pipeline.fingerprint.tables import EmbeddingTables
from skufp_pipeline.query.confidence import NoVerdicts, looks_at
from skufp_pipeline.query.engine import QueryEngine
from skufp_pipeline.search.bundle import seen_looks
from skufp_pipeline.search.duplicates import find_duplicates
from skufp_pipeline.search.index import FingerprintIndex

NO_REID = "Baseline 1 is judged on customers' photos only"


@dataclass(frozen=True)
class ReportParts:
    """The inputs of a report; a list is empty where the graph has no such part."""

    annotations: Annotations
    words: list[ImageText]
    shards: list[Embeddings]
    frozen: list[Embeddings]  # by the encoder before fine-tuning
    synthetic: list[Embeddings]  # of synthetic photos
    frozen_synthetic: list[Embeddings]  # of the evaluation ones, by the encoder before fine-tuning
    reid: list[Embeddings]  # crops by Baseline 1
    generated: list[Embeddings]  # of generated views
    teachers: Teachers
    fingerprints: Fingerprints
    aggregator: Aggregator
    index: SearchIndex
    exported: ImageEncoder | None  # the image tower for ONNX Runtime
    detection: DetectionReport | None  # what the regions of a photo are worth
    left_out: Mapping[str, str]  # by asset, what it could not do

    @classmethod
    def read(cls, inputs: Inputs, assets: Collection[str]) -> "ReportParts":
        """Reads the parts; `assets` are the names of the assets in the graph.

        Raises:
            UserError: a part is missing, or was made with another version of an input.
        """
        told: dict[str, str] = {}

        def noted(stored: Stored[R], reader: R) -> R:
            if reader.left_out is not None:
                told[stored.name] = reader.left_out
            return reader

        def read_all(stored: Stored[R]) -> list[R]:
            """The shards that are there; none if the graph has no such part or it is switched off."""
            shards = inputs.read_all(stored) if stored.name in assets else []
            return [shard for shard in shards if not noted(stored, shard).off]

        def read(stored: Stored[R]) -> R:
            return noted(stored, inputs.read(stored))

        read(CLIP_CHECKPOINT)
        if extractor_checkpoint("reid").name in assets:
            read(extractor_checkpoint("reid"))
        return cls(
            read(ANNOTATIONS),
            read_all(IMAGE_TEXT),
            read_all(CLIP_EMBEDDINGS),
            read_all(FROZEN_CLIP_EMBEDDINGS),
            read_all(SYNTHETIC_EMBEDDINGS),
            read_all(FROZEN_SYNTHETIC_EMBEDDINGS),
            read_all(extractor_embeddings("reid")),
            read_all(GENERATED_VIEW_EMBEDDINGS),
            read(BEST_SHOT_TEACHERS),
            read(FINGERPRINTS),
            read(FINGERPRINT_CHECKPOINT),
            read(SEARCH_INDEX),
            read(IMAGE_ENCODER_ONNX) if IMAGE_ENCODER_ONNX.name in assets else None,
            read(DETECTION_REPORT) if DETECTION_REPORT.name in assets else None,
            told,
        )

    def tables(self, max_views: int, encoder: Encoder, batch_size: int) -> retrieval.ReportInputs:
        """The tables of the parts; `encoder` embeds the text queries of each source.

        Without a customer's photo to judge they hold the synthetic ones, which Baseline 1 has not embedded.
        """
        found = EmbeddingTables.of(self.shards, synthetic=self.synthetic)
        tables = found.judged()
        frozen = EmbeddingTables.of(self.frozen, synthetic=self.frozen_synthetic) if self.frozen else None
        image_text = pl.concat([part.images() for part in self.words])
        return retrieval.ReportInputs(
            tables,
            frozen.judged() if frozen else None,
            self.teachers.table(),
            self.fingerprints.table(),
            max_views,
            make_labels(seen_looks(FingerprintIndex.load(self.index.path).skus), image_text, tables.texts),
            retrieval.embed_sources(image_text, encoder, batch_size),
            EmbeddingTables.images_of(self.reid) if self.reid and tables is found else None,
        )


@dataclass(frozen=True)
class ReportPlan:
    """The settings of a report; `provenance` is shown on the page unchanged."""

    preset: str
    evaluation: EvaluationSettings
    fingerprint: FingerprintSettings
    batch_size: int  # of text embedding
    seed: int
    provenance: Mapping[str, Any]


def make_report(
    parts: ReportParts,
    plan: ReportPlan,
    engine: QueryEngine,
    whole: QueryEngine,
    crop_of: Callable[[Mapping[str, Any]], Path],
    device: torch.device,
    directory: Path,
    log: Callable[[str], None],
) -> Report:
    """Evaluates every model, measures the engine's latency, and writes the report into `directory`.

    Args:
        engine: without policy and second look, whose stages are timed.
        whole: with every stage that the index has.
        crop_of: local path of the crop of an item (`sku_id`, `image_path`).
        device: where fingerprints of the controls are made.
    """
    settings, draws = plan.evaluation, (plan.evaluation.resamples, plan.seed)
    inputs = parts.tables(plan.fingerprint.max_views, engine.encoder, plan.batch_size)
    models = retrieval.build_models(inputs)
    evaluation = retrieval.judge(models, *draws, inputs.labels)
    sources = retrieval.judge_sources(models, inputs, *draws)
    teachers = paper_teachers(inputs.tables, plan.fingerprint.max_views)
    controls = _controls(parts, inputs.tables, models, plan, device)
    log("all models judged; measuring latency")
    queries = retrieval.sample_photos(inputs.tables.images, settings.latency_queries)
    photos = [crop_of(row) for row in queries.iter_rows(named=True)]
    texts = inputs.tables.texts.filter(pl.col("role") == "evaluation")["text"].head(settings.latency_queries)
    threads = torch.get_num_threads()
    latency, samples = retrieval.measure_latency(engine, photos, texts.to_list(), settings.batch, threads)
    shown = queries.filter(pl.col("role") == EVALUATION).head(settings.grid_queries)
    grid = retrieval.grid_rows(shown, photos[: shown.height], engine)
    judged = results(evaluation)
    judged_on = retrieval.judged_on(inputs.tables.images)
    log("latency measured; judging the stages of a query")
    asked = embed_photos(whole, asked_photos(inputs.tables.images, crop_of, settings.stage_queries))
    stages = _regions(parts.detection) + judge_stages(whole, asked, plan.seed, settings.resamples)
    verdicts, curves, no_verdicts = _verdicts(whole, asked, parts.detection, *draws)
    report = Report(
        preset=plan.preset,
        judged_on=judged_on,
        settings=judged,
        latency=latency,
        text_sources=source_results(sources),
        paper_protocol=results(judge_paper(paper_models(models, teachers), *draws)),
        view_controls=controls,
        skipped_items=parts.annotations.summary["skipped_by_reason"],
        query_encoder=parts.exported.summary if parts.exported else {"precision": "PyTorch"},
        stages=stages,
        duplicates=None
        if (least := settings.duplicate_threshold) is None
        else Duplicates.of(find_duplicates(inputs.tables.images, crop_of, least), least),
        verdicts=verdicts,
        not_measured={
            **no_verdicts,
            **unmeasured(judged, latency, shown.height),
            **(
                {extractor_embeddings("reid").name: NO_REID}
                if parts.reid and judged_on == SYNTHETIC_PHOTOS
                else {}
            ),
            **parts.left_out,
        },
    )
    retrieval.write_report(directory, report, evaluation, samples, grid, plan.provenance, curves)
    return report


def asked_photos(
    images: pl.DataFrame, crop_of: Callable[[Mapping[str, Any]], Path], count: int
) -> list[AskedPhoto]:
    """A stable sample of the evaluation photos, each by its crop."""
    sample = retrieval.sample_evaluation_queries(images, count)
    return [AskedPhoto(crop_of(row), row["sku_id"], row["split"]) for row in sample.iter_rows(named=True)]


def _regions(report: DetectionReport | None) -> list[Stage]:
    """The rows of the regions; none without a detector."""
    if report is None or report.off:
        return []
    return region_stages(report.regions(), report.figures()["detect"])


def _verdicts(
    engine: QueryEngine,
    asked: EmbeddedPhotos,
    detection: DetectionReport | None,
    resamples: int,
    seed: int,
) -> tuple[Verdicts | None, bytes | None, dict[str, str]]:
    """The report's part on verdicts, its figure, and why there are none though they are asked for."""
    confidence = engine.confidence
    if confidence is None:
        return None, None, {}
    if isinstance(confidence, NoVerdicts):
        return None, None, {"verdicts": confidence.off}
    judged = {}
    if asked.photos:
        judged = ask_photos(engine.index, confidence, asked.table(), asked.seen(engine))
    if not judged:
        return None, None, {"verdicts": "no photo of a SKU of the index is held out for evaluation"}
    curves = {setting: photos.calibration(confidence.absent)[0] for setting, photos in judged.items()}
    rocs = {setting: roc(photos.present, photos.absent) for setting, photos in judged.items()}
    figure = verdict_curves(curves, rocs, confidence.alpha)
    verdicts = judge_verdicts(confidence, judged, resamples, seed)
    if confidence.detected is not None and detection is not None and not detection.off:
        photos = detection.found()
        found = ask_photos(engine.index, confidence.detected, photos, looks_at(engine.look_twice, photos))
        detected = judge_verdicts(confidence.detected, found, resamples, seed) if found else None
        verdicts = verdicts.model_copy(update={"detected": detected})
    return verdicts, figure, {}


def unmeasured(settings: Results, latency: Latency, photos: int) -> dict[str, str]:
    """Why a part of the report has no figures, by part; `photos` is the number of evaluation photos shown."""
    told = {
        f"{SETTING_LABELS[setting]}, {modality} queries": "nothing was scored, since none of a SKU of "
        f"{' or '.join(splits)} is held out for evaluation"
        for setting, splits in SETTING_SPLITS.items()
        for modality in MODALITIES
        if not settings[setting][modality].models
    }
    if not photos:
        told["photos of the latency"] = (
            "without evaluation photos, other pictures were timed; no grid is shown"
        )
    if "encode_text" not in latency.stages:
        told["latency of text queries"] = "no text is held out for evaluation"
    return told


def control_fingerprints(
    parts: ReportParts, tables: EmbeddingTables, settings: FingerprintSettings, device: torch.device
) -> dict[str, pl.DataFrame]:
    """The fingerprints that the published model makes of each control of generated views."""
    gaussian = load_gaussian(parts.aggregator.path) if settings.gaussian else None
    aggregator = load_aggregator(parts.aggregator.path, device)
    control_inputs = control_tables(replace(tables, generated=EmbeddingTables.images_of(parts.generated)))
    return {
        name: make_fingerprints(aggregator, gaussian, control, settings, device)[0]
        for name, control in control_inputs.items()
    }


def _controls(
    parts: ReportParts,
    tables: EmbeddingTables,
    models: Sequence[Model],
    plan: ReportPlan,
    device: torch.device,
) -> Results | None:
    """The evaluation of the fingerprint against its controls; None where no views were generated."""
    if not parts.generated:
        return None
    published = next(model for model in models if model.name == "fingerprint")
    fingerprints = control_fingerprints(parts, tables, plan.fingerprint, device)
    return results(judge_controls(published, fingerprints, plan.evaluation.resamples, plan.seed))
