"""Mistakes that every command answers alike: one line, no stack trace."""

from pathlib import Path

import pytest

from ..graphs import SMALL, write_preset
from .asking import ask, refused


def test_an_unknown_preset_names_those_there_are() -> None:
    assert refused(ask("search", "--preset", "nope", "--text", "a")).startswith(
        "no preset 'nope': expected a YAML file or one of "
    )


def test_a_preset_that_is_no_yaml_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [b\n c: {")
    assert "bad.yaml is not YAML: " in refused(ask("report", "--preset", tmp_path / "bad.yaml"))


def test_a_misspelt_key_is_named(tmp_path: Path) -> None:
    path = write_preset(tmp_path, {**SMALL, "shard": 3})
    assert refused(ask("report", "--preset", path)).endswith("shard: unknown key")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("search", "--text", "a"), "has no search index; materialize the graph first (`skufp demo`)"),
        (("doctor",), "has no search index; materialize the graph first (`skufp demo`)"),
        (("report",), "no complete reports/retrieval under"),
        (("export", "df2-jsonl", "--out", "out"), "no complete raw/dataset under"),
    ],
)
def test_what_is_not_materialized_yet_is_said(
    tmp_path: Path, words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_preset(tmp_path, SMALL)
    assert message in refused(ask(*words, "--preset", path))
