"""The benchmark of the engines of an index of pictures, on a few pictures."""

import json
from pathlib import Path

from click.testing import CliRunner

from .programs import load_program


def test_the_exact_engine_finds_all_and_the_table_has_every_engine(tmp_path: Path) -> None:
    target = tmp_path / "figures.json"
    size = ["--products", "60", "--pictures", "3", "--dimension", "16", "--queries", "5", "--rounds", "1"]
    done = CliRunner().invoke(load_program("image_index").main, [*size, "--json", str(target)])
    assert done.exit_code == 0, done.output
    figures = json.loads(target.read_text())
    rows = {row["engine"]: row for row in figures["engines"]}
    assert list(rows) == ["exact", "flat", "hnsw"]
    assert rows["exact"]["recall@10"] == rows["flat"]["recall@10"] == 1
    assert rows["exact"]["same"] == "5/5"
    assert figures["products"] == 60 < figures["pictures"]
    assert all(row["p50_ms"] > 0 and row["bytes"] > 0 for row in rows.values())
