"""`skufp materialize` and `demo`: what they print, and how they answer a mistake."""

import os
from pathlib import Path

import pytest

from ..graphs import SMALL, Graph, skufp, write_preset
from .asking import ask


def test_a_mistake_while_materializing_is_one_line_and_no_stack_trace(tmp_path: Path) -> None:
    missing = {"source": "deepfashion2", "path": str(tmp_path / "nowhere")}
    path = write_preset(tmp_path, {**SMALL, "dataset": missing})
    done = skufp("materialize", "--preset", path, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "[1/6] read_catalog: raw_dataset, annotations",
        f"Error: raw_dataset failed: dataset.path '{tmp_path / 'nowhere'}' is no folder; see README, "
        "'Your own data'",
    ]
    assert done.stdout == ""


def test_processes_that_dagster_starts_find_the_preset_that_was_given(
    spoilt: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SKUFP_PRESET", "of-another-run")
    monkeypatch.chdir(spoilt.preset_file.parent)
    result = ask("materialize", "--preset", spoilt.preset_file.name)
    assert result.exit_code == 0, result.stderr
    assert os.environ["SKUFP_PRESET"] == str(spoilt.preset_file)


def test_the_demo_prints_tables_and_answers_a_photo_and_a_sentence(
    spoilt: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SKUFP_PRESET", str(spoilt.preset_file))
    result = ask("demo")
    assert result.exit_code == 0, result.stderr
    assert "Table 2: Text-to-SKU retrieval (preset small, leak-free protocol)" in result.stdout
    assert "A photo no model was trained on (" in result.stdout
    assert 'A sentence: "' in result.stdout
    *_, told, _, last = result.stdout.splitlines()
    assert last.endswith("make serve (or skufp serve), then open http://localhost:8000")
    page = Path(told.removeprefix("The report: "))
    assert page.name == "report.html"
    assert page.is_file()
