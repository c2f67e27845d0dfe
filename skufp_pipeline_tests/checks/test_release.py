"""A candidate index is put in use only where it passes; each check fails on what it is there for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skufp_pipeline.checks.release import (
    RECALL,
    index_is_exact,
    not_rolled_back,
    recall_holds,
    skus_are_covered,
)
from skufp_pipeline.evaluation.settings import Thresholds
from skufp_pipeline.search.bundle import current_index
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.store import Artifact, ArtifactStore, Recipe

from ..graphs import Graph


def version(tmp_path: Path, name: str, recall: float | None) -> Artifact:
    store = ArtifactStore(tmp_path)
    return store.produce(f"index/{name}", Recipe(code_version=name), lambda directory: {RECALL: recall})


def test_the_published_index_is_exact(small_graph: Graph) -> None:
    artifact, index = current_index(small_graph.store)
    found = index_is_exact(artifact, index, 5)
    assert found.passed
    assert found.metadata["queries"].value == 64


def test_an_index_with_removed_skus_and_biases_is_judged_by_what_it_holds(spoilt: Graph) -> None:
    artifact, index = current_index(spoilt.store)
    changed = index.remove(index.skus["sku_id"][:5]).with_biases(np.linspace(0, 1, index.row_count))

    def build(directory: Path) -> dict[str, int]:
        changed.save(directory, artifact.path)
        return {"skus": len(changed)}

    made = spoilt.store.produce("index/fingerprints/changed", Recipe(code_version="1"), build)
    assert index_is_exact(made, FingerprintIndex.load(made.path), 5).passed


def test_a_flipped_bit_of_the_index_fails(spoilt: Graph) -> None:
    artifact, index = current_index(spoilt.store)
    path = artifact.path / "segment_0000" / "fingerprints.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = index_is_exact(artifact, index, 5)
    assert not found.passed
    assert found.metadata["damaged_files"].value == ["segment_0000/fingerprints.npy"]


def test_skus_that_are_missing_are_named(small_graph: Graph) -> None:
    _, index = current_index(small_graph.store)
    ids = index.skus["sku_id"].to_list()
    assert skus_are_covered(index, ids, Thresholds(index_coverage=1)).passed
    found = skus_are_covered(index, [*ids, "new"], Thresholds(index_coverage=1))
    assert not found.passed
    assert found.metadata["missing_skus"].value == ["new"]
    assert skus_are_covered(index, [*ids, "new"], Thresholds(index_coverage=0.9)).passed


@pytest.mark.parametrize(
    ("now", "before", "allowed", "passed"),
    [
        (0.50, 0.52, 0.02, True),
        (0.49, 0.52, 0.02, False),
        (0.60, 0.52, 0.0, True),
        (0.10, 0.52, None, True),
        (None, 0.52, 0.0, True),
        (0.10, None, 0.0, True),
    ],
)
def test_recall_may_fall_by_what_the_preset_allows(
    tmp_path: Path, now: Any, before: Any, allowed: Any, passed: bool
) -> None:
    candidate, current = version(tmp_path, "new", now), version(tmp_path, "old", before)
    thresholds = Thresholds(index_recall_drop=allowed)
    assert recall_holds(candidate, current, thresholds).passed is passed
    assert recall_holds(candidate, None, thresholds).passed


def test_a_version_that_was_rolled_back_fails_and_says_how_to_publish_it() -> None:
    assert not_rolled_back("abc", ["def"]).passed
    found = not_rolled_back("abc", ["abc"])
    assert not found.passed
    assert found.metadata["to_publish_it"].value == "skufp index publish abc"
