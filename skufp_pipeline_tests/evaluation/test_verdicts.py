"""Verdicts on evaluation photos: their shares, areas, and how the report shows them."""

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.evaluation.figures import verdict_curves
from skufp_pipeline.evaluation.protocol import Evaluation
from skufp_pipeline.evaluation.report import Report
from skufp_pipeline.evaluation.tables import VERDICTS_TITLE, text_tables
from skufp_pipeline.evaluation.verdicts import JudgedPhotos, ask_photos, judge_verdicts, roc
from skufp_pipeline.measures.metrics import area_under_roc, reliability
from skufp_pipeline.query.confidence import Logistic
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline_tests.query.examples import calibrated

from .examples import report_of

# Half a score more is ten times the odds: 0.5 at a score of 0.5.
CONFIDENCE = calibrated(
    Logistic(features=("top",), means=(0.5,), scales=(0.5,), weights=(np.log(10.0),), intercept=0),
    match=0.8,
    reject_below=0.5,
    photos=100,
    skus=50,
)
PHOTOS = JudgedPhotos(
    np.array(["a", "a", "b", "c"]),
    np.array([True, False, True, True]),
    np.array([0.9, 0.6, 0.85, 0.4]),
    np.array([0.3, 0.6, 0.1, 0.2]),
)


def test_photos_are_asked_of_the_whole_index_by_the_split_of_their_sku() -> None:
    names = [f"s{number}" for number in range(12)]
    index = FingerprintIndex(np.eye(12, dtype=np.float32), pl.DataFrame({"sku_id": names}))
    rows = np.eye(12, dtype=np.float32)[[0, 1, 2, 3]]
    images = pl.DataFrame(
        {
            "sku_id": ["s0", "s1", "s2", "gone"],
            "split": ["train", "validation", "validation", "train"],
            "role": ["evaluation", "evaluation", "development", "evaluation"],
        }
    ).with_columns(embedding_column(rows))
    judged = ask_photos(index, CONFIDENCE, images.filter(pl.col("role") == "evaluation"))
    asked = {setting: photos.sku_ids.tolist() for setting, photos in judged.items()}
    assert asked == {"seen": ["s0"], "zero": ["s1"], "seen+zero": ["s0", "s1"]}
    both = judged["seen+zero"]
    assert both.right.all()
    assert both.present == pytest.approx([10 / 11] * 2)
    assert both.absent == pytest.approx([1 / 11] * 2)  # all other SKUs score 0
    assert ask_photos(index, CONFIDENCE, images.clear()) == {}


def test_shares_of_verdicts_are_counted_with_and_without_the_sku() -> None:
    found = judge_verdicts(CONFIDENCE, {"seen": PHOTOS}, 200, 0).settings["seen"]
    assert (found.photos, found.skus) == (4, 3)
    assert {name: share.share for name, share in found.present.items()} == {
        "match": 0.5, "similar": 0.25, "none": 0.25
    }  # fmt: skip
    assert {name: share.share for name, share in found.absent.items()} == {
        "match": 0, "similar": 0.25, "none": 0.75
    }  # fmt: skip
    assert found.present["none"].low <= 0.25 <= found.present["none"].high
    assert found.right_matches is not None
    assert found.right_matches.share == 1
    # Of 16 pairs 14 are in order and one ties: 0.6 against 0.6; 0.4 is below 0.6.
    assert found.area_under_roc == pytest.approx(14.5 / 16)


def test_calibration_weighs_absent_products_as_the_confidence_assumes() -> None:
    one = JudgedPhotos(np.array(["a"]), np.array([True]), np.array([0.75]), np.array([0.75]))
    assert one.calibration(0.25)[1] == pytest.approx(0.75 * 0.25 + 0.25 * 0.75)  # two bins of one photo
    assert one.calibration(0)[1] == pytest.approx(0.25)


def test_reliability_is_of_bins_of_equal_count() -> None:
    curve, error = reliability(np.array([0.1, 0.3, 0.8, 1.0]), np.array([0, 1, 1, 1]), bins=2)
    assert [tuple(part) for part in curve] == [
        pytest.approx((0.2, 0.5, 0.5)),
        pytest.approx((0.9, 1.0, 0.5)),
    ]
    assert error == pytest.approx(0.5 * 0.3 + 0.5 * 0.1)


def test_the_area_is_the_chance_of_the_right_order() -> None:
    generator = np.random.default_rng(0)
    higher, lower = generator.integers(2, 9, 40) / 10, generator.integers(0, 7, 30) / 10
    pairs = [(a > b) + (a == b) / 2 for a in higher for b in lower]
    assert area_under_roc(higher, lower) == pytest.approx(np.mean(pairs))
    rejected, told = roc(higher, lower)
    assert np.trapezoid(told, rejected) == pytest.approx(np.mean(pairs))


def test_the_report_shows_the_verdicts(evaluation: Evaluation) -> None:
    found = judge_verdicts(CONFIDENCE, {"seen": PHOTOS, "seen+zero": PHOTOS}, 200, 0)
    report = report_of(evaluation, verdicts=found)
    text = text_tables(report)
    assert VERDICTS_TITLE in text
    assert "The verdict none may reject 5% of photos whose product is there." in text
    assert "100 development photos of 50 SKUs" in text
    assert Report.model_validate_json(report.to_json()).verdicts == found
    assert VERDICTS_TITLE not in text_tables(report_of(evaluation))
    assert "verdicts" not in report_of(evaluation).to_json()


def test_the_figure_is_the_same_from_run_to_run() -> None:
    drawn = [
        verdict_curves(
            {"seen": PHOTOS.calibration(0.5)[0]}, {"seen": roc(PHOTOS.present, PHOTOS.absent)}, 0.05
        )
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0].startswith(b"\x89PNG")
