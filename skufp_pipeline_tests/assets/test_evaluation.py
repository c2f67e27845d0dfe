"""The report's asset writes JSON, Parquet, pictures and a page, and shows them in its metadata."""

import json
import shutil
from pathlib import Path

from ..graphs import Graph, failure, metadata, run_asset


def test_the_report_is_written_in_every_form(small_graph: Graph) -> None:
    folder = small_graph.store.read("reports/retrieval").path
    written = {path.name for path in folder.iterdir()}
    assert written == {
        "report.json", "metrics.parquet", "report.html", "recall.png", "latency.png", "grid.png",
        "manifest.json", "files.json",
    }  # fmt: skip
    assert json.loads((folder / "report.json").read_text())["protocol"] == "leak-free"
    sources = json.loads((folder / "report.json").read_text())["text_sources"]
    assert list(sources) == ["metadata", "attributes"]
    asked = [by_setting["seen+zero"]["queries"] for by_setting in sources.values()]
    assert asked[0] == asked[1] > 0
    assert "precision@10 category" in sources["metadata"]["seen+zero"]["models"]["fingerprint"]
    for name in ("recall", "latency", "grid"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_its_metadata_shows_the_tables_and_pictures(small_graph: Graph) -> None:
    told = metadata(run_asset(small_graph.preset, "retrieval_report"))
    assert "Table 1: Image-to-SKU retrieval" in told["tables"]
    assert "Table 2: Text-to-SKU retrieval" in told["tables"]
    for name in ("recall", "latency", "grid"):
        assert told[name].startswith("![figure](data:image/png;base64,")
    assert Path(told["page"]).is_file()
    assert told["computed"] == 0


def test_thresholds_are_no_part_of_the_report(spoilt: Graph) -> None:
    preset = spoilt.preset
    thresholds = preset.evaluation.thresholds.model_copy(update={"encoder_recall_low": 0.99})
    evaluation = preset.evaluation.model_copy(update={"thresholds": thresholds})
    result = run_asset(preset.model_copy(update={"evaluation": evaluation}), "retrieval_report")
    assert metadata(result)["computed"] == 0


def test_there_is_no_report_without_an_index(spoilt: Graph) -> None:
    shutil.rmtree(Path(spoilt.preset.data_root) / "index")
    assert "has no search index" in failure(run_asset(spoilt.preset, "retrieval_report"))
