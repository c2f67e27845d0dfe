"""The assets of the detector: what it was trained on, what the index keeps of it, and what it is worth."""

import json

import polars as pl
import torch

from skufp_pipeline.artifacts.places import (
    ANNOTATIONS,
    DETECTION_REPORT,
    DETECTOR_CHECKPOINT,
    DETECTOR_ONNX,
    FOUND_REGIONS,
    RETRIEVAL_REPORT,
    SEARCH_INDEX,
)
from skufp_pipeline.evaluation.report import Report
from skufp_pipeline.query.confidence import Confidence, read_confidence
from skufp_pipeline.query.engine import QueryEngine

from ..graphs import Graph, checks, metadata, run_asset


def test_it_was_trained_on_photos_of_training_skus_alone(graph: Graph) -> None:
    result = DETECTOR_CHECKPOINT.read(graph.store)
    items = ANNOTATIONS.read(graph.store).items()
    query = pl.format("{}/{}_item{}", "split", "image_id", "item_idx").alias("query_id")
    used = result.used_queries().join(items.select(query, "split", actual="role"), on="query_id", how="left")
    assert set(used["split"]) == {"train"}
    assert set(used["use"]) == {"train", "development"}
    assert used["use"].equals(used["actual"])
    assert result.summary["photos"] > result.summary["held_photos"] > 0
    assert result.summary["synthetic_photos"] == 0


def test_its_export_finds_the_same_regions_on_every_photo(graph: Graph) -> None:
    made = DETECTOR_ONNX.read(graph.store).summary
    assert made["same_regions"] == made["photos"] == 50


def test_the_index_keeps_its_detector(graph: Graph) -> None:
    index = SEARCH_INDEX.read(graph.store).artifact
    for stored in (DETECTOR_CHECKPOINT, DETECTOR_ONNX):
        index.require_input(stored.name, stored.read(graph.store).digest)
    for settings in (None, graph.preset.query_encoder):
        engine = QueryEngine.open(graph.store, torch.device("cpu"), settings)
        assert engine.detector is not None


def test_verdicts_on_found_regions_are_calibrated_on_development_photos_of_training_skus(
    graph: Graph,
) -> None:
    files, index = FOUND_REGIONS.read(graph.store), SEARCH_INDEX.read(graph.store).artifact
    photos = files.photos()
    assert set(photos["role"]) == {"development"}
    assert set(photos["split"]) == {"train"}
    assert photos.height == files.summary["photos"] > 0
    confidence = read_confidence(index.path)
    assert isinstance(confidence, Confidence)
    assert confidence.detected is not None
    assert confidence.detected.photos == photos.height
    assert confidence.detected.logistic.features[-3:] == ("second_top", "second_margin", "region_score")
    judged = Report.read(RETRIEVAL_REPORT.read(graph.store).report).verdicts
    assert judged is not None
    assert judged.detected is not None
    found = DETECTION_REPORT.read(graph.store).found()
    assert judged.detected.settings["seen+zero"].photos == found.height
    assert set(found["item_id"]).isdisjoint(photos["item_id"])


def test_the_report_judges_every_region_of_the_same_evaluation_photos(graph: Graph) -> None:
    report = DETECTION_REPORT.read(graph.store)
    assert graph.preset.detector is not None
    count = graph.preset.detector.report_photos
    both = report.regions().filter(setting="seen+zero")
    assert both["region"].to_list() == ["annotated", "detected", "tapped", "whole"]
    assert set(both["photos"]) == {count} == {report.figures()["photos"]}
    asked = report.frame("photos")["query_id"]
    assert set(asked).isdisjoint(DETECTOR_CHECKPOINT.read(graph.store).used_queries()["query_id"])


def test_the_regions_are_among_the_stages_of_the_report_on_retrieval(graph: Graph) -> None:
    stages = json.loads(RETRIEVAL_REPORT.read(graph.store).report.read_text())["stages"]
    rows = {row["stage"]: row for row in stages if row["setting"] == "seen+zero"}
    judged = DETECTION_REPORT.read(graph.store).regions().filter(setting="seen+zero").to_dicts()
    for region in judged:
        assert rows[f"region: {region['region']}"]["recall@1"] == region["recall@1"]
    assert rows["region: detected"]["p50_ms"] > 0
    assert "fingerprint" in rows


def test_an_unchanged_report_is_not_made_again_and_has_its_check(graph: Graph) -> None:
    result = run_asset(graph.preset, "detection_report")
    assert metadata(result)["computed"] == 0
    assert checks(result) == {"detector_finds_items": True}
