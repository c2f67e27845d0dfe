"""The program that measures a second look, run whole on the small graph."""

import json
from pathlib import Path

from ..graphs import Graph
from .programs import run_on


def test_every_seed_judges_the_same_photos_with_and_without_a_second_look(
    small_graph: Graph, tmp_path: Path
) -> None:
    options = ("--queries", "20", "--seeds", "2", "--json", tmp_path / "found.json")
    done = run_on(small_graph, "look_twice", *options)
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "found.json").read_text())
    assert [row["setting"] for row in rows] == ["seen", "zero", "seen+zero"]
    both = {row["setting"]: row["photos"] for row in rows}
    assert both["seen"] + both["zero"] == both["seen+zero"] == 20
    for row in rows:
        assert row["low"] <= row["gain"] <= row["high"]
        assert abs(row["look_twice"] - row["fingerprint"] - row["gain"]) < 1e-9
    assert f"seed {small_graph.preset.seed + 1}: weight" in done.output
