"""The paper's protocol leaks by design; these tests show that it does, and that ours does not see it."""

import numpy as np
import polars as pl

from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.evaluation.paper import judge_paper, paper_models, paper_teachers
from skufp_pipeline.evaluation.report import results
from skufp_pipeline.evaluation.retrieval import ReportInputs, build_models, judge
from skufp_pipeline.evaluation.tables import markdown_tables
from skufp_pipeline.fingerprint.tables import EmbeddingTables, teacher_table

from ..fingerprint.examples import image_table, text_table
from .examples import report_of

# Two views of each SKU. The train query of `t` is like its first view, its evaluation query like its second;
# `v` has evaluation queries alone.
FIRST, SECOND, OTHER, FAR = ([float(i == n) for i in range(4)] for n in range(4))
IMAGES = [
    ("t view 1", "t", "train", "gallery", FIRST),
    ("t view 2", "t", "train", "gallery", SECOND),
    ("t train", "t", "train", "train", FIRST),
    ("t eval", "t", "train", "evaluation", SECOND),
    ("v view 1", "v", "validation", "gallery", OTHER),
    ("v view 2", "v", "validation", "gallery", FAR),
    ("v eval", "v", "validation", "evaluation", FAR),
]


def inputs() -> ReportInputs:
    tables = EmbeddingTables(image_table(IMAGES), text_table([(f"{i} text", *row) for i, *row in IMAGES]))
    teachers, _ = teacher_table(tables, 8)
    fingerprints = teachers.select(
        "sku_id", "split", pl.lit(0.0).alias("bias"), pl.col("image_teacher").alias("fingerprint")
    )
    return ReportInputs(tables, None, teachers, fingerprints, 8)


def test_the_papers_teachers_are_those_that_the_scored_queries_like() -> None:
    given = inputs()
    leaky = paper_teachers(given.tables, 8).sort("sku_id")
    assert embedding_rows(leaky, "image_teacher").tolist() == [SECOND, FAR]
    ours = given.teachers.sort("sku_id")
    assert embedding_rows(ours, "image_teacher").tolist() == [FIRST, OTHER]


def test_the_leak_is_the_difference_from_our_model_of_that_name() -> None:
    given = inputs()
    ours = build_models(given)
    leaky = paper_models(ours, paper_teachers(given.tables, 8))
    assert [model.name for model in leaky] == ["best_shot", "paper_best_shot"]
    found = judge_paper(leaky, 50, 0).settings["seen+zero"]["image"]
    assert found.models["paper_best_shot"].intervals["recall@1"].mean == 1
    assert found.models["best_shot"].intervals["recall@1"].mean == 0
    assert found.differences["paper_best_shot-best_shot"]["recall@1"].delta == 1


def test_a_fingerprint_trained_with_those_teachers_stands_beside_ours() -> None:
    given = inputs()
    teachers = paper_teachers(given.tables, 8)
    made = teachers.select(
        "sku_id", "split", pl.lit(0.0).alias("bias"), pl.col("image_teacher").alias("fingerprint")
    )
    leaky = paper_models(build_models(given), teachers, made)
    assert [model.name for model in leaky][2:] == ["fingerprint", "paper_fingerprint"]
    found = judge_paper(leaky, 50, 0).settings["seen"]["image"]
    assert set(found.differences) == {"paper_best_shot-best_shot", "paper_fingerprint-fingerprint"}


def test_the_papers_rows_are_labelled_wherever_they_are_shown() -> None:
    given = inputs()
    ours = build_models(given)
    leaky = judge_paper(paper_models(ours, paper_teachers(given.tables, 8)), 50, 0)
    report = report_of(judge(ours, 50, 0), paper_protocol=results(leaky))
    assert not any("paper" in name for name in report.settings["seen"]["image"].models)
    tables = markdown_tables(report)
    first = tables.split("The paper's protocol, image queries: teachers chosen by the queries")[0]
    assert "paper_best_shot" not in first
    assert "Not comparable with any other table: it leaks." in tables
    frame = report.frame()
    assert set(frame.filter(pl.col("model").str.starts_with("paper"))["protocol"]) == {"paper"}
    assert np.isfinite(frame["value"].to_numpy()).all()
