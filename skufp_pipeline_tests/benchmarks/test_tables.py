"""The tables of several seeds: who shares what, what a re-run replaces, and what comes out of data roots."""

import json
import os
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from skufp_pipeline.errors import UserError

from ..graphs import Graph, copy_graph
from .programs import load_program

BEGIN, END = "<!-- tables demo: begin -->", "<!-- tables demo: end -->"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    return load_program("tables")


def test_a_seed_has_a_root_of_its_own_and_the_same_data(tables: ModuleType, small_graph: Graph) -> None:
    presets = tables.seed_presets(small_graph.preset, 3)
    root = small_graph.preset.data_root
    assert [(preset.seed, preset.data_root) for preset in presets] == [
        (5, root),
        (6, f"{root}-seed6"),
        (7, f"{root}-seed7"),
    ]
    assert {preset.dataset.model_dump_json() for preset in presets} == {
        small_graph.preset.dataset.model_dump_json()
    }


def test_the_catalogue_of_a_seed_is_hard_links_and_nothing_that_is_trained(
    tables: ModuleType, small_graph: Graph, tmp_path: Path
) -> None:
    source, target = Path(small_graph.preset.data_root), tmp_path / "other"
    tables.share_catalog(source, target)
    shared = [path.relative_to(target) for path in target.rglob("*") if path.is_file()]
    assert {path.parts[0] for path in shared} == {"raw", "crops", "tables"}
    assert {path.parts[1] for path in shared if path.parts[0] == "tables"} == {"annotations", "image_text"}
    assert all(os.path.samefile(source / path, target / path) for path in shared)
    tables.share_catalog(source, target)  # what is there stays


def test_a_rerun_replaces_its_own_section_only(tables: ModuleType) -> None:
    first = tables.replace_section("# Results\n\nMine.\n", "demo", "one\n")
    assert first == f"# Results\n\nMine.\n\n{BEGIN}\none\n{END}\n"
    both = tables.replace_section(first, "df2", "other")
    again = tables.replace_section(both, "demo", "two")
    assert again == both.replace("one", "two")
    assert tables.replace_section("", "demo", "one") == f"{BEGIN}\none\n{END}\n"


@pytest.mark.parametrize("document", [f"{BEGIN}\none", f"one\n{END}", f"{END}\n{BEGIN}"])
def test_a_document_with_one_marker_is_left_alone(tables: ModuleType, document: str) -> None:
    with pytest.raises(UserError, match="repair the document"):
        tables.replace_section(document, "demo", "two")


def test_tables_of_two_roots_have_both_seeds_in_every_figure(
    tables: ModuleType, small_graph: Graph, tmp_path: Path
) -> None:
    other = copy_graph(small_graph, tmp_path / "copy")
    written = {name: tmp_path / f"tables.{name}" for name in ("json", "html", "docs")}
    options = [word for name, path in written.items() for word in (f"--{name}", str(path))]
    roots = ["--roots", small_graph.preset.data_root, other.preset.data_root]
    done = CliRunner().invoke(tables.main, ["--preset", str(small_graph.preset_file), *options, *roots])
    assert done.exit_code == 0, done.output
    report = json.loads(written["json"].read_text())
    assert report["seeds"] == [5, 5]
    for entry in (report["settings"], report["paper_protocol"]):
        result = entry["seen+zero"]["image"]
        for model, values in result["models"].items():
            for metric, value in values.items():
                assert result["seeds"][model][metric] == pytest.approx([value, value])
    names = report["paper_protocol"]["seen"]["image"]["models"]
    assert set(names) == {"best_shot", "paper_best_shot", "fingerprint", "paper_fingerprint"}
    assert not any(name.startswith("paper") for name in report["settings"]["seen"]["image"]["models"])
    times = report["settings"]["zero"]["text"]["latency"]["fingerprint"]
    assert len(times["seeds"]) == 2
    assert times["batched"]["batch"] == small_graph.preset.evaluation.batch
    for text in (done.output, written["html"].read_text(), written["docs"].read_text()):
        for part in ("Means over the training seeds 5, 5", "The paper&#39;s protocol", "threads:"):
            assert part in text or part.replace("&#39;", "'") in text
