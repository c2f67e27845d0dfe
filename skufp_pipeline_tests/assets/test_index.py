"""The index's asset publishes whole versions, keeps some, and refuses parts that do not belong together."""

import shutil
from pathlib import Path

import pytest

from skufp_pipeline.presets import Preset
from skufp_pipeline.search.bundle import current_index

from ..graphs import Graph, failure, metadata, pretend_made_with, run_asset


def with_other_teachers(graph: Graph, digest: str) -> None:
    """Makes the teachers look like others, so that the next index is a new version."""
    path = graph.store.read("tables/best_shot_teachers").path / "manifest.json"
    path.write_text(path.read_text().replace(graph.store.read("tables/best_shot_teachers").digest, digest))


def versions(preset: Preset) -> set[str]:
    return {path.name for path in (Path(preset.data_root) / "index").iterdir() if path.is_dir()}


def test_the_index_in_use_holds_every_fingerprint(small_graph: Graph) -> None:
    artifact, index = current_index(small_graph.store)
    assert len(index) == small_graph.store.read("tables/fingerprints").summary["skus"]
    assert index.references["clip_checkpoint"] == small_graph.store.read("checkpoints/clip").digest
    assert all(small_graph.store.local_path(image).is_file() for image in index.skus["image"])
    assert artifact.damaged_files() == []


def test_a_changed_input_makes_a_new_version_and_old_ones_are_kept_to_a_number(spoilt: Graph) -> None:
    preset = spoilt.preset.model_copy(update={"kept_index_versions": 2})
    first = spoilt.store.read_pointer("index/CURRENT")
    made = [first]
    for digest in ("1" * 16, "2" * 16):
        with_other_teachers(spoilt, digest)
        made.append(metadata(run_asset(preset, "search_index"))["version"])
        assert spoilt.store.read_pointer("index/CURRENT") == made[-1]
    assert len(set(made)) == 3
    assert versions(preset) == set(made[1:])


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
    pretend_made_with(artifact.path, "tables/fingerprints", "0123456789abcdef")
    told = failure(run_asset(spoilt.preset, "retrieval_report"))
    assert "was made with tables/fingerprints 0123456789abcdef" in told


def test_a_missing_shard_of_texts_is_refused_by_name(spoilt: Graph) -> None:
    shutil.rmtree(spoilt.store.read("tables/image_text/shard_0000").path)
    told = failure(run_asset(spoilt.preset, "search_index"))
    assert told.startswith("no complete tables/image_text/shard_0000 under ")
