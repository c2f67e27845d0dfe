"""The comparison of ways to make one vector per SKU, run whole on the small graph."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ..graphs import Graph
from .programs import load_program

Tables = dict[str, list[dict[str, Any]]]


def compare(*arguments: str) -> Result:
    return CliRunner().invoke(load_program("fingerprints").main, arguments)


@pytest.fixture(scope="module")
def compared(small_graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tables, str]:
    """Every table, after one epoch; and what was printed."""
    written = tmp_path_factory.mktemp("compared") / "tables.json"
    root, preset = small_graph.preset.data_root, str(small_graph.preset_file)
    short = ("--seeds", "1", "--epochs", "1", "--json", str(written))
    done = compare("--data", root, "--preset", preset, *short)
    assert done.exit_code == 0, done.output
    return json.loads(written.read_text()), done.output


def test_every_table_is_made_and_printed(compared: tuple[Tables, str]) -> None:
    tables, printed = compared
    assert list(tables) == ["pooling", "losses", "views", "weights", "hubness", "many", "new"]
    for name, rows in tables.items():
        assert f"{name} (evaluation queries, 1 seeds)" in printed
        for way in {row["way"] for row in rows}:
            assert f"| {way} |" in printed


def test_every_way_answers_the_same_queries(compared: tuple[Tables, str]) -> None:
    for name in ("pooling", "losses", "weights", "hubness", "many"):
        asked: dict[str, set[tuple[str, str, int]]] = {}
        for row in compared[0][name]:
            asked.setdefault(row["way"], set()).add((row["setting"], row["queries"], row["count"]))
        assert len(set(map(frozenset, asked.values()))) == 1
        assert {setting for setting, _, _ in asked.popitem()[1]} == {"seen", "zero", "seen+zero"}


def test_what_is_compared_with_itself_does_not_differ(compared: tuple[Tables, str]) -> None:
    same = {
        "pooling": "mean",
        "losses": "all",
        "weights": "ours",
        "hubness": "strength 0.0",
        "many": "all views",
    }
    for name, way in same.items():
        rows = [row for row in compared[0][name] if row["way"] == way]
        assert rows
        assert all(row[f"r1 - {way}"] == [0, 0, 0] for row in rows)


def test_words_are_answered_by_the_catalogs_texts(compared: tuple[Tables, str]) -> None:
    rows = [row for row in compared[0]["weights"] if row["queries"] == "text" and row["setting"] == "zero"]
    found = {row["way"]: row["r1"] for row in rows}
    assert found["catalog_text_weight 0.3"] != found["catalog_text_weight 0.0"]


def test_one_vector_a_sku_is_fewer_than_all_views(compared: tuple[Tables, str]) -> None:
    vectors = {row["way"]: (row["vectors"], row["bytes"]) for row in compared[0]["many"]}
    assert vectors["fingerprint"] == vectors["mean"]
    assert vectors["fingerprint"] < vectors["all views"]


def test_a_root_without_embeddings_is_told_in_a_line(small_graph: Graph, tmp_path: Path) -> None:
    done = compare("--data", str(tmp_path), "--preset", str(small_graph.preset_file), "--tables", "pooling")
    assert done.exit_code == 1
    assert "materialize clip_embeddings" in done.output


def test_a_table_that_no_query_is_for_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    load_program("fingerprints").show([])
    assert capsys.readouterr().out.startswith("nothing to compare")
