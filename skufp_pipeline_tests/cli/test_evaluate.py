"""`skufp report`: its tables and its JSON."""

import json
from pathlib import Path

from ..graphs import Graph
from .asking import ask


def test_the_report_is_printed_as_tables_and_as_json(graph: Graph, preset: tuple[str, Path]) -> None:
    tables = ask("report", *preset).stdout
    assert "Table 1: Image-to-SKU retrieval (preset ci, leak-free protocol)" in tables
    assert "fingerprint - mean_sku" in tables
    found = json.loads(ask("report", *preset, "--json").stdout)
    assert found == json.loads((graph.store.read("reports/retrieval").path / "report.json").read_text())
