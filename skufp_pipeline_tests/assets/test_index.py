"""The index's asset publishes whole versions, keeps some, and refuses parts that do not belong together."""

import errno
import json
import os
import shutil
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
import torch

from skufp_pipeline.artifacts.places import RETRIEVAL_REPORT
from skufp_pipeline.checks.evaluation import report_checks
from skufp_pipeline.definitions import graph_steps
from skufp_pipeline.encoders.settings import QueryEncoderSettings
from skufp_pipeline.evaluation.report import Report
from skufp_pipeline.presets import Preset
from skufp_pipeline.query.confidence import FILE, Confidence, read_confidence
from skufp_pipeline.query.engine import QueryEngine
from skufp_pipeline.query.settings import VERDICTS, ConfidenceSettings
from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.search.bundle import current_index
from skufp_pipeline.search.versions import Versions
from skufp_pipeline.store import ArtifactStore, Recipe

from ..graphs import Graph, checks, failure, metadata, pretend_made_with, run_asset


def with_other_teachers(graph: Graph, digest: str) -> None:
    """Makes the teachers look like others, so that the next index is a new version."""
    path = graph.store.read("tables/best_shot_teachers").path / "manifest.json"
    path.write_text(path.read_text().replace(graph.store.read("tables/best_shot_teachers").digest, digest))


def versions(preset: Preset) -> set[str]:
    return set(Versions(ArtifactStore(preset.data_root)).listed())


def test_the_index_in_use_holds_every_fingerprint(small_graph: Graph) -> None:
    artifact, index = current_index(small_graph.store)
    assert len(index) == small_graph.store.read("tables/fingerprints").summary["skus"]
    assert index.references["clip_checkpoint"] == small_graph.store.read("checkpoints/clip").digest
    assert all(small_graph.store.local_path(image).is_file() for image in index.skus["image"])
    assert artifact.damaged_files() == []


def test_a_changed_input_makes_a_new_version_and_old_ones_are_kept_to_a_number(spoilt: Graph) -> None:
    preset = spoilt.preset.model_copy(update={"kept_index_versions": 2})
    first = spoilt.store.read_pointer("index/fingerprints/CURRENT")
    made = [first]
    for digest in ("1" * 16, "2" * 16):
        with_other_teachers(spoilt, digest)
        made.append(metadata(run_asset(preset, "search_index"))["version"])
        assert spoilt.store.read_pointer("index/fingerprints/CURRENT") == made[-1]
    assert len(set(made)) == 3
    assert versions(preset) == set(made[1:])


def test_segments_of_few_rows_are_another_version_that_answers_the_same(spoilt: Graph) -> None:
    _, whole = current_index(spoilt.store)
    queries = np.random.default_rng(0).standard_normal((5, whole.dimension))
    expected = [result.rows.tolist() for result in whole.search(queries, 10)]
    preset = spoilt.preset.model_copy(update={"index_segment_rows": 7})
    result = run_asset(preset, "search_index")
    assert metadata(result)["computed"] == 1
    assert checks(result)["index_is_exact"]
    artifact, index = current_index(spoilt.store)
    assert artifact.summary["segments"] == len(index.segments) == -(-len(whole) // 7)
    assert index.skus.equals(whole.skus)
    assert [found.rows.tolist() for found in index.search(queries, 10)] == expected


@pytest.mark.parametrize(
    ("rows", "damaged", "shared"), [(1, False, True), (1, True, False), (10**6, False, False)]
)
def test_a_large_index_shares_the_files_of_the_sound_version_in_use(
    spoilt: Graph, rows: int, damaged: bool, shared: bool
) -> None:
    before, whole = current_index(spoilt.store)
    if damaged:
        codes = before.path / "segment_0000" / "codes_bounds.npy"
        codes.write_bytes(codes.read_bytes()[:-1] + b"?")
    with_other_teachers(spoilt, "3" * 16)
    preset = spoilt.preset.model_copy(update={"index_update_rows": rows, "look_twice": None})
    assert checks(run_asset(preset, "search_index"))["index_is_exact"]
    artifact, index = current_index(spoilt.store)
    assert index.skus.equals(whole.skus)
    files = [Path("segment_0000") / name for name in ("fingerprints.npy", "codes_bounds.npy", "skus.arrow")]
    assert artifact.path != before.path
    assert all((artifact.path / f).samefile(before.path / f) == shared for f in files)


def test_an_unchanged_index_is_the_same_version(spoilt: Graph) -> None:
    before = versions(spoilt.preset)
    assert metadata(run_asset(spoilt.preset, "search_index"))["computed"] == 0
    assert versions(spoilt.preset) == before


def test_fingerprints_by_another_aggregator_are_refused_by_name(spoilt: Graph) -> None:
    table = spoilt.store.read("tables/fingerprints").path
    pretend_made_with(table, "fingerprint_checkpoint", "0123456789abcdef")
    told = failure(run_asset(spoilt.preset, "search_index"))
    assert told.startswith("tables/fingerprints was made with fingerprint_checkpoint 0123456789abcdef")


@pytest.mark.parametrize("table", ["fingerprints", "best_shot_teachers"])
@pytest.mark.parametrize("name", ["search_index", "retrieval_report"])
def test_tables_of_other_embeddings_are_refused_by_name(spoilt: Graph, name: str, table: str) -> None:
    pretend_made_with(
        spoilt.store.read(f"tables/{table}").path, "tables/clip_embeddings/shard_0000", "0123456789abcdef"
    )
    told = failure(run_asset(spoilt.preset, name))
    assert told.startswith(f"tables/{table} was made with tables/clip_embeddings/shard_0000 0123456789abcdef")


def test_an_aggregator_of_another_encoder_is_refused_by_name(spoilt: Graph) -> None:
    folder = spoilt.store.read("checkpoints/fingerprint").path
    pretend_made_with(folder, "clip_checkpoint", "0123456789abcdef")
    told = failure(run_asset(spoilt.preset, "fingerprints"))
    assert told.startswith("checkpoints/fingerprint was made with clip_checkpoint 0123456789abcdef")


def test_an_index_of_other_fingerprints_is_not_reported_on(spoilt: Graph) -> None:
    artifact, _ = current_index(spoilt.store)
    pretend_made_with(artifact.path, "fingerprints", "0123456789abcdef")
    told = failure(run_asset(spoilt.preset, "retrieval_report"))
    assert "was made with fingerprints 0123456789abcdef" in told


def test_a_missing_shard_of_texts_is_refused_by_name(spoilt: Graph) -> None:
    shutil.rmtree(spoilt.store.read("tables/image_text/shard_0000").path)
    told = failure(run_asset(spoilt.preset, "search_index"))
    assert told.startswith("no complete tables/image_text/shard_0000 under ")


def test_the_exported_encoder_tells_its_precision_and_parity(small_graph: Graph) -> None:
    told = metadata(run_asset(small_graph.preset, "image_encoder_onnx"))
    assert told["computed"] == 0
    assert told["precision"] == "float32"
    assert told["why"].endswith("which stay float32")
    assert told["float32_photos"] > 100
    assert told["float32_cosine_least"] >= 0.999
    assert told["float32_recall"] == told["float32_reference_recall"]
    assert told["model_megabytes"] > 1


def test_the_encoder_exported_again_is_the_same_and_passes_its_checks(spoilt: Graph) -> None:
    before = spoilt.store.read("checkpoints/image_encoder_onnx")
    shutil.rmtree(before.path)
    result = run_asset(spoilt.preset, "image_encoder_onnx")
    assert metadata(result)["computed"] == 1
    assert spoilt.store.read("checkpoints/image_encoder_onnx").digest == before.digest
    assert checks(result) == {"parity_holds": True, "no_evaluation_query_used": True}


def test_embeddings_by_another_encoder_are_not_compared_with(spoilt: Graph) -> None:
    shard = spoilt.store.read("tables/clip_embeddings/shard_0001").path
    pretend_made_with(shard, "clip_checkpoint", "0123456789abcdef")
    told = failure(run_asset(spoilt.preset, "image_encoder_onnx"))
    assert "shard_0001 was made with clip_checkpoint 0123456789abcdef" in told


def test_int8_that_the_tower_does_not_allow_is_refused(spoilt: Graph) -> None:
    asked = QueryEncoderSettings(precision="int8")
    told = failure(run_asset(spoilt.preset.model_copy(update={"query_encoder": asked}), "image_encoder_onnx"))
    assert told.startswith("query_encoder.precision is int8, but the tower's weights are those of conv")


def test_where_a_preset_turns_it_off_pytorch_encodes_the_queries(spoilt: Graph) -> None:
    shutil.rmtree(spoilt.store.read("checkpoints/image_encoder_onnx").path)
    off = spoilt.preset.model_copy(update={"query_encoder": QueryEncoderSettings(engine="pytorch")})
    assert "image_encoder_onnx" not in graph_steps(off)
    assert metadata(run_asset(off, "retrieval_report"))["computed"] == 1
    report = json.loads((spoilt.store.read("reports/retrieval").path / "report.json").read_text())
    assert report["query_encoder"] == {"precision": "PyTorch"}
    assert list(report["latency"]["stages"]) == [
        "decode", "preprocess", "encode_image", "encode_text", "search"
    ]  # fmt: skip


def test_a_candidate_that_fails_a_check_is_kept_and_not_put_in_use(
    spoilt: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = spoilt.store.read_pointer("index/fingerprints/CURRENT")
    monkeypatch.setattr("skufp_pipeline.assets.index.development_recall", lambda *_: -1.0)
    with_other_teachers(spoilt, "1" * 16)
    result = run_asset(spoilt.preset, "search_index")
    assert not result.success
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["published"].value == 0
    assert checks(result) == {
        "index_is_exact": True,
        "skus_are_covered": True,
        "recall_holds": False,
        "not_rolled_back": True,
    }
    assert spoilt.store.read_pointer("index/fingerprints/CURRENT") == before
    assert len(versions(spoilt.preset)) == 2


def test_what_was_rolled_back_is_not_published_by_the_next_run(spoilt: Graph) -> None:
    first = spoilt.store.read_pointer("index/fingerprints/CURRENT")
    with_other_teachers(spoilt, "1" * 16)
    second = metadata(run_asset(spoilt.preset, "search_index"))["version"]
    assert Versions(spoilt.store).roll_back() == first
    result = run_asset(spoilt.preset, "search_index")
    assert not checks(result)["not_rolled_back"]
    assert spoilt.store.read_pointer("index/fingerprints/CURRENT") == first
    Versions(spoilt.store).publish(second, 3)
    assert metadata(run_asset(spoilt.preset, "search_index"))["published"] == 1


def test_after_training_again_the_index_in_use_still_finds_its_encoders(spoilt: Graph) -> None:
    query = QueryEngine.open(spoilt.store, torch.device("cpu"), spoilt.preset.query_encoder)
    expected = [hit.sku_id for hit in query.search_text("a dress", 5).hits]
    for key in ("checkpoints/clip", "checkpoints/image_encoder_onnx"):
        shutil.rmtree(spoilt.store.read(key).path)
        spoilt.store.produce(key, Recipe(code_version="another"), lambda directory: {})
    again = QueryEngine.open(spoilt.store, torch.device("cpu"), spoilt.preset.query_encoder)
    assert [hit.sku_id for hit in again.search_text("a dress", 5).hits] == expected


def test_a_swap_on_a_full_disk_is_told_and_leaves_the_old_version_in_use(
    spoilt: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = spoilt.store.read_pointer("index/fingerprints/CURRENT")
    with_other_teachers(spoilt, "1" * 16)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    told = failure(run_asset(spoilt.preset, "search_index"))
    assert told.startswith("disk full while writing index/fingerprints/CURRENT under ")
    assert spoilt.store.read_pointer("index/fingerprints/CURRENT") == before
    monkeypatch.undo()
    assert metadata(run_asset(spoilt.preset, "search_index"))["published"] == 1
    assert not list((Path(spoilt.preset.data_root) / "index" / "fingerprints").glob("*.tmp"))


def test_a_version_keeps_its_calibration_and_the_report_judges_it(spoilt: Graph) -> None:
    asked = ConfidenceSettings(alpha=0.5, least_skus=2)
    preset = spoilt.preset.model_copy(update={"confidence": asked})
    run_asset(preset, "search_index")
    folder = current_index(spoilt.store)[0].path
    found = read_confidence(folder)
    assert isinstance(found, Confidence)
    assert (found.alpha, found.synthetic) == (0.5, False)
    assert found.logistic.features == ("top", "margin", "mean_of_ten")
    photo = next(Path(spoilt.preset.data_root).glob("crops/shard_*/validation/query/*/*.jpg"))
    answer = QueryEngine.open(spoilt.store, torch.device("cpu")).search_image(photo, 3)
    assert answer.verdict in VERDICTS
    written = (folder / FILE).read_bytes()
    shutil.rmtree(folder)
    assert checks(run_asset(preset, "search_index"))["index_is_exact"]
    assert (current_index(spoilt.store)[0].path / FILE).read_bytes() == written
    run_asset(preset, "retrieval_report")
    report = RETRIEVAL_REPORT.read(spoilt.store)
    judged = Report.read(report.report).verdicts
    assert judged is not None
    assert list(judged.settings) == ["seen", "zero", "seen+zero"]
    assert sum(share.share for share in judged.settings["zero"].absent.values()) == pytest.approx(1)
    assert "verdicts" in report.figures()
    assert absent_check(preset, absent_told=0.0, present_rejected=1.0).passed
    assert not absent_check(preset, absent_told=1.01).passed
    assert not absent_check(preset, present_rejected=-0.01).passed


def absent_check(preset: Preset, **thresholds: float) -> dg.AssetCheckResult:
    changed = preset.evaluation.thresholds.model_copy(update=thresholds)
    evaluation = preset.evaluation.model_copy(update={"thresholds": changed})
    found = report_checks(preset.model_copy(update={"evaluation": evaluation}))
    (check,) = [check for check in found if check.check_key.name == "absent_products_are_told"]
    result = check(ArtifactStoreResource(root=preset.data_root))
    assert isinstance(result, dg.AssetCheckResult)
    return result


def test_too_few_photos_give_no_verdict_and_the_summary_says_so(spoilt: Graph) -> None:
    preset = spoilt.preset.model_copy(update={"confidence": ConfidenceSettings()})
    told = metadata(run_asset(preset, "search_index"))["left_out"]
    assert told.startswith("no verdicts: they need development photos of 30 SKUs to fit and of 30 more")
    photo = next(Path(spoilt.preset.data_root).glob("crops/shard_*/validation/query/*/*.jpg"))
    assert QueryEngine.open(spoilt.store, torch.device("cpu")).search_image(photo, 3).no_verdict == told


def test_an_index_without_verdicts_has_no_calibration(small_graph: Graph) -> None:
    assert small_graph.preset.confidence is None
    assert read_confidence(current_index(small_graph.store)[0].path) is None


def test_a_first_index_of_an_encoder_trained_from_nothing_is_of_its_own_vectors(spoilt: Graph) -> None:
    assert "first_index" not in spoilt.steps
    preset = spoilt.preset.model_copy(update={"first_index": True})
    (Path(preset.data_root) / "index/fingerprints/CURRENT").unlink()
    made = run_asset(preset, "first_index")
    assert metadata(made)["published"] == 1
    artifact, index = current_index(spoilt.store)
    assert artifact.manifest.recipe.inputs["clip_checkpoint"] == spoilt.store.read("checkpoints/clip").digest
    assert len(index) == spoilt.store.read("tables/fingerprints").summary["skus"]
    engine = QueryEngine.open(spoilt.store, torch.device("cpu"), preset.query_encoder)
    assert len(engine.search_text("a red skirt", 3).hits) == 3
