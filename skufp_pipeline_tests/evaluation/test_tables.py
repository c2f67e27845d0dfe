import pytest

from skufp_pipeline.evaluation.labels import Labels
from skufp_pipeline.evaluation.protocol import Model, evaluate
from skufp_pipeline.evaluation.report import Duplicates
from skufp_pipeline.evaluation.tables import (
    markdown_tables,
    source_sections,
    text_tables,
)

from .examples import LATENCY, gallery, queries, report_of


def test_a_report_without_queries_still_has_a_frame_and_tables():
    report = report_of(evaluate([Model("m", {}, gallery())], []))
    assert report.frame().is_empty()
    assert "(no queries)" in text_tables(report)


@pytest.mark.parametrize(
    ("judged_on", "first"),
    [
        ("customers' photos", "Table 1: Image-to-SKU retrieval"),
        ("synthetic photos", "No customer's photo was judged: the image queries are synthetic photos, "),
        (None, "No customer's photo was judged: none is held out. `skufp evaluate PHOTOS.csv` judges "),
    ],
)
def test_the_first_line_says_where_no_customers_photo_was_judged(report, judged_on, first):
    told = report.model_copy(update={"judged_on": judged_on})
    for write in (text_tables, markdown_tables):
        assert write(told).startswith(first)
        assert ("`skufp evaluate PHOTOS.csv`" in write(told)) == (judged_on != "customers' photos")


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


def test_duplicates_are_counted_in_one_line_of_the_first_table(report):
    told = "3 SKUs in 1 groups show nearly the same catalog picture (cosine of at least 0.98), 2 of them"
    counted = Duplicates(threshold=0.98, groups=1, skus=3, same=2)
    text = text_tables(report.model_copy(update={"duplicates": counted}))
    lines = text.splitlines()
    (line,) = (number for number, line in enumerate(lines) if line.startswith(told))
    assert text.index(told) < text.index("Table 2")
    assert [*lines[:line], *lines[line + 2 :]] == text_tables(report).splitlines()


def test_text_tables_show_differences_with_intervals_and_mark_those_that_leave_out_zero(report):
    lines = text_tables(report).splitlines()
    seen = next(line for line in lines if line.startswith("right - swapped  Seen-SKU"))
    assert "+1.000 [+1.000, +1.000]*  +0.000 [+0.000, +0.000]" in seen
    assert seen.endswith("+0.500 [+0.500, +0.500]*")


def test_text_tables_show_dashes_for_a_model_that_knows_no_text(report):
    table_2 = text_tables(report).split("Table 2")[1]
    row = next(line for line in table_2.splitlines() if line.startswith("swapped"))
    assert row.split()[3:] == ["-"] * 6


def test_text_tables_show_latency_with_processor_and_threads(report):
    text = text_tables(report)
    assert "Latency per query (Example CPU, 1 thread)" in text
    assert text.splitlines()[-1].split("  ")[0] == "search, 64 at once"
    assert "Latency" not in text_tables(report.model_copy(update={"latency": None}))


ENCODER = {
    "precision": "int8", "int8_photos": 500, "int8_cosine_least": 0.99321, "int8_cosine_mean": 0.999,
    "int8_reference_recall": 0.5, "int8_recall": 0.496,
}  # fmt: skip


def test_tables_say_what_encodes_a_photo_and_how_near_it_is_to_pytorch(evaluation):
    told = (
        "int8. On 500 photos of training SKUs its cosine with PyTorch is at least 0.99321, and R@1 is 0.496"
    )
    report = report_of(evaluation, latency=LATENCY, query_encoder=ENCODER)
    assert told in text_tables(report)
    assert told in markdown_tables(report)
    for other in ({"precision": "PyTorch"}, None):
        assert "ONNX" not in text_tables(report_of(evaluation, latency=LATENCY, query_encoder=other))


def test_text_queries_of_two_sources_stand_side_by_side(by_source):
    (section,) = source_sections(by_source)
    rows = section.parts[0].rows
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


def test_a_report_of_one_source_has_no_table_of_sources(report):
    assert source_sections(report) == []
    assert "by what the words are made of" not in text_tables(report)


def test_table_2_shows_precision_at_10_where_it_was_measured():
    labels = Labels(
        {"category": dict.fromkeys("ab", "skirt")}, {"category": dict.fromkeys(("q0", "q1"), "skirt")}
    )
    model = Model("m", {"image": queries("ab"), "text": queries("ab")}, gallery("ab"))
    report = report_of(evaluate([model], [], 0, 50, labels))
    first, second = text_tables(report).split("Table 2")
    assert "P@10" not in first
    assert "P@10 category" in second
    row = next(line for line in second.splitlines() if line.startswith("m "))
    assert row.split()[-1] == "1.000"


def test_text_tables_name_missing_skus():
    models = [Model("m", {"image": queries("ab")}, gallery("acd"))]
    text = text_tables(report_of(evaluate(models, [], resamples=50)))
    assert "1 of 2 Seen-SKU queries (b); 1 of 2 Seen+Zero queries (b)." in text


def test_another_protocol_is_named_in_every_caption(report):
    text = text_tables(report.model_copy(update={"protocol": "paper"}))
    assert text.count("paper protocol") == 2
    assert "leak-free" not in text


def test_markdown_tables_have_equal_columns_and_escape_pipes(evaluation):
    image = evaluation.settings["seen"]["image"]
    image.models["odd|name"] = image.models.pop("right")
    table = markdown_tables(report_of(evaluation)).split("\n\n")[1].splitlines()
    assert (table[1].count("|:--"), table[1].count("--:|")) == (2, 7)
    assert {line.replace("\\|", "").count("|") for line in table} == {10}
    assert any(line.startswith("| odd\\|name |") for line in table)
