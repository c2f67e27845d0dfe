"""The benchmark of an index of millions, on a few thousand SKUs: its check of answers can fail."""

from pathlib import Path

import numpy as np
import pytest

from skufp_pipeline.search.index import FingerprintIndex

from .programs import load_program


def test_an_index_is_built_and_changed_with_exact_answers(tmp_path: Path) -> None:
    program, folder = load_program("large_index"), tmp_path / "index"
    catalogue = program.Catalogue(3000, 16)
    assert program.build(catalogue, folder, 1000)["disk_gb"] > 0
    index, changed = FingerprintIndex.load(folder), program.change(catalogue, folder, 100)
    assert len(index.segments) == 3
    assert program.is_exact(index, catalogue.queries())
    assert (changed["change_exact"], changed["removed_found"]) == (True, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_answers_of_another_index_are_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    program = load_program("large_index")
    catalogue = program.Catalogue(400, 16)
    rows, skus = next(catalogue.segments(400))
    index = FingerprintIndex(rows, skus)
    assert program.is_exact(index, catalogue.queries())
    best = FingerprintIndex(np.roll(rows, 1, axis=0), skus).best
    monkeypatch.setattr(index, "best", best)
    assert not program.is_exact(index, catalogue.queries())
