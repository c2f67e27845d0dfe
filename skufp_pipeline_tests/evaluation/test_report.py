import json

import polars as pl
import pytest

from skufp_pipeline.evaluation.labels import Labels
from skufp_pipeline.evaluation.protocol import Model, evaluate
from skufp_pipeline.evaluation.report import (
    REPORT_SCHEMA,
    markdown_tables,
    report_frame,
    report_json,
    source_rows,
    sources_json,
    text_tables,
)
from skufp_pipeline.measures.metrics import METRICS

from .examples import DIRECTIONS, gallery, queries

LATENCY = {
    "threads": 1,
    "processor": "Example CPU",
    "stages": {"search": {"p50_ms": 0.1, "p95_ms": 0.2, "mean_ms": 0.12}},
    "search_batched": {"batch": 64, "p50_ms": 0.01, "p95_ms": 0.02, "mean_ms": 0.012},
}


@pytest.fixture
def report(evaluation):
    return report_json("demo", evaluation, LATENCY, {"provenance": {"seed": 0}})


def test_the_json_has_exactly_the_agreed_keys(report):
    assert list(report) == ["preset", "settings", "latency", "provenance"]
    assert list(report["settings"]) == ["seen", "zero", "seen+zero"]
    for by_modality in report["settings"].values():
        assert list(by_modality) == ["image", "text"]
        for result in by_modality.values():
            expected = {"queries", "gallery", "missing", "models", "intervals", "differences"}
            assert set(result) == expected
    image = report["settings"]["seen"]["image"]
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


def test_the_json_holds_the_evaluations_figures(report):
    image = report["settings"]["seen"]["image"]
    assert (report["preset"], image["queries"], image["gallery"]) == ("demo", 3, 2)
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


def test_the_json_survives_json(report):
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_extras_may_not_replace_a_key_of_the_report(evaluation):
    with pytest.raises(ValueError, match=r"\['settings'\]"):
        report_json("demo", evaluation, {}, {"settings": {}})


def test_the_frame_has_a_row_per_figure(report):
    frame = report_frame(report)
    assert dict(frame.schema) == REPORT_SCHEMA
    # Three settings: two models and one difference on images, one model on text.
    assert frame.height == 3 * 4 * len(METRICS)
    row = frame.filter(
        setting="seen+zero", modality="image", model="right-swapped", metric="recall@1"
    ).to_dicts()
    assert (row[0]["value"], row[0]["queries"], row[0]["gallery"]) == (0.5, 6, 4)
    assert row[0]["low"] <= 0.5 <= row[0]["high"]


def test_a_report_without_queries_still_has_a_frame_and_tables():
    report = report_json("demo", evaluate([Model("m", {}, gallery())], []), {}, {})
    assert report_frame(report).equals(pl.DataFrame(schema=REPORT_SCHEMA))
    assert "(no queries)" in text_tables(report)


def test_text_tables_have_the_papers_columns_and_rows(report):
    lines = text_tables(report).splitlines()
    assert lines[0] == "Table 1: Image-to-SKU retrieval (preset demo, leak-free protocol)"
    assert lines[2].split() == [
        "Method",
        "Setting",
        "Queries",
        "R@1",
        "R@5",
        "R@10",
        "R@20",
        "MRR",
        "NDCG@10",
    ]
    assert [line.split() for line in lines[4:6]] == [
        ["right", "Seen-SKU", "3", "1.000", "1.000", "1.000", "1.000", "1.000", "1.000"],
        ["swapped", "Seen-SKU", "3", "0.000", "1.000", "1.000", "1.000", "0.500", "0.631"],
    ]
    assert max(map(len, lines)) <= 120


def test_text_tables_show_differences_with_intervals_and_mark_those_that_leave_out_zero(report):
    lines = text_tables(report).splitlines()
    seen = next(line for line in lines if line.startswith("right - swapped  Seen-SKU"))
    assert "+1.000 [+1.000, +1.000]*  +0.000 [+0.000, +0.000]   +0.500 [+0.500, +0.500]*" in seen


def test_text_tables_show_dashes_for_a_model_that_knows_no_text(report):
    table_2 = text_tables(report).split("Table 2")[1]
    row = next(line for line in table_2.splitlines() if line.startswith("swapped"))
    assert row.split()[3:] == ["-"] * 6


def test_text_tables_show_latency_with_processor_and_threads(report):
    text = text_tables(report)
    assert "Latency per query (Example CPU, 1 thread)" in text
    assert text.splitlines()[-1].split("  ")[0] == "search, 64 at once"
    assert "Latency" not in text_tables({**report, "latency": {}})


ENCODER = {
    "precision": "int8", "int8_photos": 500, "int8_cosine_least": 0.99321, "int8_cosine_mean": 0.999,
    "int8_reference_recall": 0.5, "int8_recall": 0.496,
}  # fmt: skip


def test_tables_say_what_encodes_a_photo_and_how_near_it_is_to_pytorch(evaluation):
    told = (
        "int8. On 500 photos of training SKUs its cosine with PyTorch is at least 0.99321, and R@1 is 0.496"
    )
    report = report_json("demo", evaluation, LATENCY, {"query_encoder": ENCODER})
    assert told in text_tables(report)
    assert told in markdown_tables(report)
    for other in ({"query_encoder": {"precision": "PyTorch"}}, {}):
        assert "ONNX" not in text_tables(report_json("demo", evaluation, LATENCY, other))


@pytest.fixture
def by_source(evaluation):
    """By metadata one query in six is right, by attributes all are."""
    labels = {
        "category": {"a": "skirt", "b": "skirt", "c": "vest", "d": "vest"},
        "colour": {"a": "red", "b": "blue", "c": "red", "d": "red"},
    }
    of_queries = {
        name: {f"q{i}": values[sku] for i, sku in enumerate("aabccd")} for name, values in labels.items()
    }
    turned = queries()
    turned.embeddings[:] = DIRECTIONS["b"]
    asked = {"metadata": turned, "attributes": queries()}
    judged = {
        source: evaluate(
            [Model("fingerprint", {"text": words}, gallery())], [], 0, 50, Labels(labels, of_queries)
        )
        for source, words in asked.items()
    }
    return report_json("demo", evaluation, LATENCY, {"text_sources": sources_json(judged)})


def test_text_queries_of_two_sources_stand_side_by_side(by_source):
    rows = source_rows(by_source)
    assert [row[:4] for row in rows[-2:]] == [
        ["fingerprint", "Seen+Zero", "metadata", "6"],
        ["fingerprint", "Seen+Zero", "attributes", "6"],
    ]
    assert [row[4] for row in rows[-2:]] == ["0.167", "1.000"]
    # All four SKUs are among the first ten: half share the category, and by colour 3 or 1 of 4.
    assert rows[-1][7:] == ["0.500", "0.667", "-", "-", "-"]
    told = "R@1 of the fingerprint by attribute prompts over metadata prompts: "
    for text in (text_tables(by_source), markdown_tables(by_source)):
        assert told in text
        assert "6.0 times (Seen+Zero)" in text


def test_the_frame_names_the_source_of_a_text_query(by_source):
    frame = report_frame(by_source)
    assert set(frame["source"]) == {None, "metadata", "attributes"}
    row = frame.filter(source="metadata", setting="seen+zero", model="fingerprint", metric="recall@1")
    assert row["value"].to_list() == [pytest.approx(1 / 6)]
    assert frame.filter(pl.col("source").is_null()).height == 3 * 4 * len(METRICS)


def test_a_report_of_one_source_has_no_table_of_sources(report):
    assert source_rows(report) == []
    assert "by what the words are made of" not in text_tables(report)


def test_table_2_shows_precision_at_10_where_it_was_measured():
    labels = Labels(
        {"category": dict.fromkeys("ab", "skirt")}, {"category": dict.fromkeys(("q0", "q1"), "skirt")}
    )
    model = Model("m", {"image": queries("ab"), "text": queries("ab")}, gallery("ab"))
    report = report_json("demo", evaluate([model], [], 0, 50, labels), {}, {})
    first, second = text_tables(report).split("Table 2")
    assert "P@10" not in first
    assert "P@10 category" in second
    row = next(line for line in second.splitlines() if line.startswith("m "))
    assert row.split()[-1] == "1.000"


def test_text_tables_name_missing_skus():
    models = [Model("m", {"image": queries("ab")}, gallery("acd"))]
    text = text_tables(report_json("demo", evaluate(models, [], resamples=50), {}, {}))
    assert "1 of 2 Seen-SKU queries (b); 1 of 2 Seen+Zero queries (b)." in text


def test_another_protocol_is_named_in_every_caption(report):
    text = text_tables({**report, "protocol": "paper"})
    assert text.count("paper protocol") == 2
    assert "leak-free" not in text


def test_markdown_tables_have_equal_columns_and_escape_pipes(evaluation):
    report = report_json("demo", evaluation, {}, {})
    models = report["settings"]["seen"]["image"]["models"]
    models["odd|name"] = models.pop("right")
    table = markdown_tables(report).split("\n\n")[1].splitlines()
    assert table[1] == "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert {line.replace("\\|", "").count("|") for line in table} == {10}
    assert any(line.startswith("| odd\\|name |") for line in table)
