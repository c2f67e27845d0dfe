"""`skufp export`: what it writes, and what it refuses."""

import json
import sys
from pathlib import Path

import pytest

from skufp_pipeline.search.bundle import current_index

from ..graphs import Graph
from .asking import ask, refused


def test_the_export_has_the_crop_tree_the_metadata_and_the_jsonl(
    graph: Graph, preset: tuple[str, Path], tmp_path: Path
) -> None:
    result = ask("export", "df2-jsonl", *preset, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    for split in ("train", "validation"):
        lines = (tmp_path / "out" / f"{split}_image_text.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert f"{len(rows)} {split} rows" in result.stdout
        assert all((tmp_path / "out" / row["image_path"]).is_file() for row in rows)
        assert (tmp_path / "out" / f"{split}_sku_metadata.json").is_file()


@pytest.mark.parametrize("name", ["parquet", "numpy"])
def test_the_fingerprints_are_exported(
    graph: Graph, preset: tuple[str, Path], tmp_path: Path, name: str
) -> None:
    out = tmp_path / "fingerprints"
    result = ask("export", "fingerprints", *preset, "--format", name, "--out", out)
    assert result.exit_code == 0, result.stderr
    count = len(current_index(graph.store)[1])
    assert result.stdout.startswith(f"{out}: {count} fingerprints of 128 dimensions in fingerprints.")
    assert "is not empty" in refused(ask("export", "fingerprints", *preset, "--format", name, "--out", out))


def test_a_format_whose_library_is_missing_names_the_extra(
    preset: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    told = refused(ask("export", "fingerprints", *preset, "--format", "faiss", "--out", tmp_path / "out"))
    assert told.endswith("pip install 'skufp-pipeline[export]'")


def test_a_second_export_to_qdrant_writes_no_point_again(
    graph: Graph, preset: tuple[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("qdrant_client", reason="needs the extra `export`")
    from skufp_pipeline.search.qdrant import ask as search
    from skufp_pipeline.search.qdrant import connect

    artifact, index = current_index(graph.store)
    said = [ask("export", "qdrant", *preset, "--path", tmp_path / "qdrant") for _ in range(2)]
    version = artifact.manifest.recipe.digest
    for result in said:
        assert result.exit_code == 0, result.stderr
        assert f"fingerprints is fingerprints-{version}, {len(index)} points" in result.stdout
    assert [f"points: {len(index)}/{len(index)}" in result.stderr for result in said] == [True, False]
    query = index.fingerprints[0]
    with connect(tmp_path / "qdrant") as client:
        (found,) = search(client, "fingerprints", query, 10)
    (expected,) = index.search(query, 10)
    assert [sku_id for sku_id, _ in found] == index.skus["sku_id"][expected.rows].to_list()


def test_an_export_to_qdrant_needs_one_place(preset: tuple[str, Path], tmp_path: Path) -> None:
    for places in ((), ("--url", "http://localhost:6333", "--path", tmp_path)):
        assert "give one of --url and --path" in refused(ask("export", "qdrant", *preset, *places))
