"""The program that judges a prepared encoder, run whole on the small graph."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ..graphs import REPOSITORY, Graph
from .programs import load_program

SETTINGS = ("seen", "zero", "seen+zero")


def test_development_photos_choose_and_evaluation_photos_judge_once(
    small_graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    program, work, target = load_program("preparation"), tmp_path / "work", tmp_path / "found.json"
    options = ["--preset", str(small_graph.preset_file), "--work", str(work), "--json", str(target)]
    options += ["--share", "0.7", "--epochs", "2"]
    first = CliRunner().invoke(program.main, options)
    assert first.exit_code == 0, first.output
    found = json.loads(target.read_text())
    held = [row for row in found["rows"] if row["photos"] == "development"]
    assert [(row["setting"], row["white_balance"]) for row in held] == [("seen", 0.0), ("seen", 0.7)]
    off, balanced = held
    assert found["chosen"] == (0.7 if balanced["r1"] > off["r1"] else 0.0), "0 wins a tie"
    assert off["gain"] == off["low"] == off["high"] == 0
    assert balanced["low"] <= balanced["gain"] == pytest.approx(balanced["r1"] - off["r1"])
    judged = [(row["setting"], row["white_balance"]) for row in found["rows"] if row not in held]
    wanted = [(setting, share) for setting in SETTINGS for share in (0.0, 0.7)]
    assert judged == (wanted if found["chosen"] else [])
    kept = {path.parent.parent.name: path for path in work.glob("*/encoder/open_clip_model.safetensors")}
    weights = [kept[f"balance_{share}_seed_0_epochs_2"].read_bytes() for share in ("0", "0.7")]
    assert weights[0] != weights[1], "each was trained on its own images"
    assert [path.parent.parent.name for path in work.glob("*/encoder/preparation.json")] == [
        "balance_0.7_seed_0_epochs_2"
    ]
    before = target.read_text()
    again = CliRunner().invoke(program.main, options)
    assert "epoch" not in again.output, "nothing is trained twice"
    assert target.read_text() == before
