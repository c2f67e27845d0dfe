"""What `report.json` holds: the agreed keys, the evaluation's figures, and nothing else."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from skufp_pipeline.errors import UserError
from skufp_pipeline.evaluation.protocol import Evaluation, Model, evaluate
from skufp_pipeline.evaluation.report import FRAME_SCHEMA, Duplicates, Report
from skufp_pipeline.measures.metrics import METRICS

from .examples import LATENCY, gallery, report_of


@pytest.fixture
def data(report: Report) -> dict[str, Any]:
    """The report as a reader of the JSON sees it."""
    found: dict[str, Any] = json.loads(report.to_json())
    return found


def test_the_json_has_exactly_the_agreed_keys(data: dict[str, Any]) -> None:
    assert list(data) == ["preset", "judged_on", "settings", "latency", "protocol", "text_sources", "stages"]
    assert list(data["settings"]) == ["seen", "zero", "seen+zero"]
    for by_modality in data["settings"].values():
        assert list(by_modality) == ["image", "text"]
        for result in by_modality.values():
            expected = {"queries", "gallery", "missing", "models", "intervals", "differences"}
            assert set(result) == expected
    image = data["settings"]["seen"]["image"]
    assert {name: tuple(values) for name, values in image["models"].items()} == {
        "right": METRICS,
        "swapped": METRICS,
    }
    assert {name: tuple(values) for name, values in image["intervals"].items()} == {
        "right": METRICS,
        "swapped": METRICS,
    }
    assert list(image["differences"]) == ["right-swapped"]
    assert tuple(image["differences"]["right-swapped"]) == METRICS
    assert set(image["differences"]["right-swapped"]["mrr"]) == {"delta", "low", "high"}


def test_the_json_holds_the_evaluations_figures(data: dict[str, Any]) -> None:
    image = data["settings"]["seen"]["image"]
    assert (data["preset"], image["queries"], image["gallery"]) == ("demo", 3, 2)
    assert image["models"]["swapped"] == {
        "recall@1": 0.0,
        "recall@5": 1.0,
        "recall@10": 1.0,
        "recall@20": 1.0,
        "mrr": 0.5,
        "ndcg@10": pytest.approx(0.6309, abs=1e-4),
    }
    assert image["intervals"]["swapped"]["mrr"] == [0.5, 0.5]
    assert image["differences"]["right-swapped"]["mrr"] == {"delta": 0.5, "low": 0.5, "high": 0.5}
    assert image["missing"] == {"queries": 0, "sku_ids": []}


def test_a_report_is_read_as_it_was_written(by_source: Report, tmp_path: Path) -> None:
    whole = by_source.model_copy(
        update={
            "paper_protocol": by_source.settings,
            "view_controls": by_source.settings,
            "skipped_items": {"style_zero": 12},
            "query_encoder": {"precision": "int8", "int8_photos": 500, "int8_recall": 0.5},
            "duplicates": Duplicates(threshold=0.98, groups=1, skus=3, same=2),
        }
    )
    path = tmp_path / "report.json"
    whole.write(path)
    assert Report.read(path) == whole
    again = tmp_path / "again.json"
    Report.read(path).write(again)
    assert again.read_bytes() == path.read_bytes()
    assert path.read_text() == json.dumps(json.loads(path.read_text()), indent=1) + "\n"


def without(data: dict[str, Any], *keys: str) -> dict[str, Any]:
    inner = data
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    return data


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda data: "", "the file: "),
        (lambda data: json.dumps(data)[:100], "the file: "),
        (lambda data: json.dumps([data]), "the file: "),
        (lambda data: json.dumps({**data, "extra": 1}), "extra: Extra inputs are not permitted"),
        (lambda data: json.dumps(without(data, "preset")), "preset: Field required"),
        (lambda data: json.dumps(without(data, "settings", "zero")), "settings: .*expected the settings"),
        (
            lambda data: json.dumps(without(data, "settings", "seen", "image", "queries")),
            "settings.seen.image.queries: Field required",
        ),
    ],
)
def test_a_broken_or_foreign_report_is_refused_by_name(
    data: dict[str, Any], tmp_path: Path, spoil: Any, told: str
) -> None:
    path = tmp_path / "report.json"
    path.write_text(spoil(data))
    with pytest.raises(UserError, match=f"{path} is no retrieval report of this version .{told}.*again"):
        Report.read(path)


def test_a_report_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"report.json can't be read .*materialize retrieval_report again"):
        Report.read(tmp_path / "report.json")


def test_the_frame_has_a_row_per_figure(report: Report) -> None:
    frame = report.frame()
    assert dict(frame.schema) == FRAME_SCHEMA
    # Three settings: two models and one difference on images, one model on text.
    assert frame.height == 3 * 4 * len(METRICS)
    row = frame.filter(
        setting="seen+zero", modality="image", model="right-swapped", metric="recall@1"
    ).to_dicts()
    assert (row[0]["value"], row[0]["queries"], row[0]["gallery"]) == (0.5, 6, 4)
    assert row[0]["low"] <= 0.5 <= row[0]["high"]


def test_the_frame_names_the_source_of_a_text_query(by_source: Report) -> None:
    frame = by_source.frame()
    assert set(frame["source"]) == {None, "metadata", "attributes"}
    row = frame.filter(source="metadata", setting="seen+zero", model="fingerprint", metric="recall@1")
    assert row["value"].to_list() == [pytest.approx(1 / 6)]
    assert frame.filter(pl.col("source").is_null()).height == 3 * 4 * len(METRICS)


def test_a_report_without_queries_has_an_empty_frame() -> None:
    report = report_of(evaluate([Model("m", {}, gallery())], []))
    assert report.frame().equals(pl.DataFrame(schema=FRAME_SCHEMA))


def test_a_part_that_was_not_measured_is_no_key(evaluation: Evaluation) -> None:
    assert {"latency", "seeds", "view_controls"}.isdisjoint(json.loads(report_of(evaluation).to_json()))
    assert "latency" in json.loads(report_of(evaluation, latency=LATENCY).to_json())
