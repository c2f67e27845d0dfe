"""Confidence and verdicts: exact masking, the conformal guarantee, calibration, and what is refused."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.errors import UserError
from skufp_pipeline.query.confidence import (
    FILE,
    Confidence,
    Logistic,
    NoVerdicts,
    Pairs,
    SecondLooks,
    asked_twice,
    calibrate,
    calibrated,
    calibrated_on_regions,
    conformal_threshold,
    features_of,
    fit_logistic,
    pairs_of,
    read_confidence,
    write_confidence,
)
from skufp_pipeline.query.look_twice import LookTwice
from skufp_pipeline.query.settings import ConfidenceSettings
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.patches import PatchIndex


def unit_rows(count: int, seed: int, dimension: int = 8) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def index_of(rows: np.ndarray) -> FingerprintIndex:
    return FingerprintIndex(rows, pl.DataFrame({"sku_id": [f"s{number:03d}" for number in range(len(rows))]}))


def photos_near(rows: np.ndarray, noise: float, each: int, seed: int, split: str = "train") -> pl.DataFrame:
    """`each` development photos of every SKU, its fingerprint with noise."""
    numbers = np.repeat(np.arange(len(rows)), each)
    shaken = rows[numbers] + noise * np.random.default_rng(seed).standard_normal(
        (len(numbers), rows.shape[1])
    )
    shaken /= np.linalg.norm(shaken, axis=1, keepdims=True)
    named = pl.DataFrame({"sku_id": [f"s{number:03d}" for number in numbers]})
    known = named.with_columns(split=pl.lit(split), role=pl.lit("development"))
    return known.with_columns(embedding_column(shaken.astype(np.float32)))


def test_masking_a_sku_gives_the_scores_of_the_index_without_it() -> None:
    rows = unit_rows(30, 0)
    rows[7] = rows[3]  # ties
    index = index_of(rows).with_biases(np.linspace(-0.1, 0.1, 30))
    queries, skus = unit_rows(30, 1), index.skus["sku_id"].to_list()
    present, absent, right = asked_twice(index, queries, skus)
    for number, sku_id in enumerate(skus):
        query = queries[number : number + 1]
        (whole,), (without,) = index.search(query, 10), index.remove([sku_id]).search(query, 10)
        for found, expected in ((present, whole), (absent, without)):
            of_one = features_of(expected.scores[None])
            assert {name: values[number] for name, values in found.items()} == {
                name: values[0] for name, values in of_one.items()
            }
        assert right[number] == (index.skus["sku_id"][int(whole.rows[0])] == sku_id)


def test_masking_is_exact_under_a_second_look_too() -> None:
    rng = np.random.default_rng(3)
    index = index_of(unit_rows(30, 0))
    patches = PatchIndex(rng.integers(-90, 91, (30, 1, 3, 4), np.int8), np.ones(30, np.uint8))
    look, photos = LookTwice(patches, 12, 0.5), rng.integers(-90, 91, (30, 5, 4), np.int8)
    queries, skus = unit_rows(30, 1), index.skus["sku_id"].to_list()
    present, absent, right = asked_twice(index, queries, skus, SecondLooks(look, photos))
    for number, sku_id in enumerate(skus):
        (whole,) = index.search(queries[number], 12)
        (without,) = index.remove([sku_id]).search(queries[number], 12)
        for found, first in ((present, whole), (absent, without)):
            expected = features_of(first.scores[None], look.ranked(first, photos[number])[None])
            assert {name: values[number] for name, values in found.items()} == {
                name: values[0] for name, values in expected.items()
            }
        assert right[number] == (skus[look.again(whole, photos[number]).rows[0]] == sku_id)


def test_no_photos_have_no_features_under_a_second_look_too() -> None:
    patches = PatchIndex(np.ones((30, 1, 3, 4), np.int8), np.ones(30, np.uint8))
    seen = SecondLooks(LookTwice(patches, 12, 0.5), np.empty((0, 5, 4), np.int8))
    present, absent, right = asked_twice(index_of(unit_rows(30, 0)), np.empty((0, 8), np.float32), [], seen)
    assert {len(values) for values in [*present.values(), *absent.values(), right]} == {0}


def test_features_are_those_of_the_first_ten_scores() -> None:
    scores = np.concatenate([[[0.9, 0.5], [0.4, 0.4]], np.full((2, 8), 0.2), [[0.1], [-9]]], axis=1)
    found = features_of(scores, np.array([[0.5, 0.75, 0.25], [0.25, 0.25, 0.125]]))
    assert found["top"].tolist() == [0.9, 0.4]
    assert found["margin"] == pytest.approx([0.4, 0])
    assert found["mean_of_ten"] == pytest.approx([0.3, 0.24])
    assert found["second_top"].tolist() == [0.75, 0.25]
    assert found["second_margin"].tolist() == [0.25, 0]


def test_a_feature_that_is_missing_is_an_error_and_no_zero() -> None:
    fitted = Logistic(features=("top", "rerank"), means=(0, 0), scales=(1, 1), weights=(1, 1), intercept=0)
    with pytest.raises(UserError, match="counts rerank, which this search has not computed"):
        fitted.probability({"top": np.array([0.5])})
    sure = fitted.probability({"top": np.array([0.5]), "rerank": np.array([0.5])})
    assert sure == pytest.approx([1 / (1 + np.exp(-1))])


def test_the_regression_is_where_its_slope_vanishes() -> None:
    generator = np.random.default_rng(0)
    features = {"a": generator.normal(3, 2, 400), "b": generator.normal(size=400)}
    event = generator.random(400) < 1 / (1 + np.exp(-(features["a"] - 3)))
    weights = generator.uniform(0.5, 2, 400)
    found = fit_logistic(features, event, weights, l2=2.0)
    rows = (np.stack([*features.values()], axis=1) - found.means) / found.scales
    left = weights * (event - found.probability(features))
    assert rows.T @ left == pytest.approx(2.0 * np.array(found.weights), abs=1e-6)
    assert left.sum() == pytest.approx(0, abs=1e-3)
    assert np.average(rows, axis=0, weights=weights) == pytest.approx([0, 0], abs=1e-9)


def test_the_regression_of_events_that_one_feature_divides_stays_finite() -> None:
    found = fit_logistic({"a": np.arange(10.0), "same": np.ones(10)}, np.arange(10) > 4, np.ones(10), l2=1.0)
    sure = found.probability({"a": np.arange(10.0), "same": np.ones(10)})
    assert np.isfinite(sure).all()
    assert (np.diff(sure) > 0).all()


@pytest.mark.parametrize(("groups", "alpha", "expected"), [(19, 0.05, 0), (39, 0.05, 1), (99, 0.05, 4)])
def test_one_score_a_group_gives_the_order_statistic_of_split_conformal(
    groups: int, alpha: float, expected: int
) -> None:
    scores = np.random.default_rng(0).permutation(groups).astype(np.float64)
    assert conformal_threshold(scores, np.arange(groups).astype(str), alpha) == expected
    assert conformal_threshold(scores[: int(1 / alpha) - 2], np.arange(18).astype(str), alpha) is None


def test_the_photos_of_a_sku_share_its_weight() -> None:
    # 39 groups weigh 1/40 each: 0.05 - 1/40 = 1/40 may lie below, one group's whole weight.
    groups = np.array(["many"] * 10 + [f"g{number}" for number in range(38)])
    scores = np.concatenate([np.arange(10.0), np.arange(100.0, 138.0)])
    assert conformal_threshold(scores, groups, 0.05) == 100
    halved = np.array(["many"] * 10 + ["two"] * 2 + [f"g{number}" for number in range(37)])
    assert conformal_threshold(
        np.concatenate([np.arange(10.0), [5.5], np.arange(100.0, 138.0)]), halved, 0.05
    )


def test_a_further_group_is_rejected_no_more_often_than_promised() -> None:
    generator, rejected = np.random.default_rng(1), []
    for _ in range(1500):
        sizes = generator.integers(1, 5, 60)
        level = generator.normal(size=61)
        groups = np.repeat(np.arange(60), sizes)
        scores = level[groups] + 0.3 * generator.normal(size=len(groups))
        threshold = conformal_threshold(scores, groups.astype(str), 0.1)
        assert threshold is not None
        rejected.append(level[60] + 0.3 * generator.normal() < threshold)
    assert 0.06 < np.mean(rejected) <= 0.1 + 2 * np.sqrt(0.1 * 0.9 / 1500)


def test_where_photos_are_clear_absent_products_are_told_and_present_ones_kept() -> None:
    rows = unit_rows(200, 2)
    index, settings = index_of(rows), ConfidenceSettings()
    found = calibrated(index, photos_near(rows, 0.1, 2, 3), None, settings)
    assert isinstance(found, Confidence)
    assert (found.photos, found.skus, found.synthetic) == (400, 200, False)
    assert found.calibration_error < 0.05
    assert sum(part.weight for part in found.curve) == pytest.approx(1)
    fresh = pairs_of(index, photos_near(rows, 0.1, 2, 4))
    verdicts = {
        name: [found.verdict(value) for value in found.judge(features).tolist()]
        for name, features in (("present", fresh.present), ("absent", fresh.absent))
    }
    assert verdicts["present"].count("none") <= 0.08 * 400
    assert verdicts["present"].count("match") > 100
    assert verdicts["absent"].count("none") > 200
    assert verdicts["absent"].count("match") < 20


def test_too_few_skus_give_no_verdict_and_say_how_many_are_needed() -> None:
    rows = unit_rows(30, 5)
    told = calibrated(index_of(rows), photos_near(rows, 0.1, 3, 6), None, ConfidenceSettings(least_skus=10))
    assert isinstance(told, NoVerdicts)
    assert told.off.startswith(
        "no verdicts: they need development photos of 19 SKUs to fit and of 19 more for the threshold"
    )
    few = calibrated(index_of(rows[:11]), photos_near(rows, 0.1, 3, 6), None, ConfidenceSettings())
    assert few == NoVerdicts(off="no verdicts: they need an index of more than 11 SKUs")


def test_synthetic_photos_stand_in_where_customers_are_too_few() -> None:
    rows = unit_rows(120, 7)
    index, settings = index_of(rows), ConfidenceSettings()
    real, synthetic = photos_near(rows, 0.1, 1, 8), photos_near(rows, 0.2, 1, 9, split="validation")
    found = calibrated(index, real[:20], synthetic, settings)
    assert isinstance(found, Confidence)
    assert (found.synthetic, found.photos) == (True, 120)
    assert calibrated(index, real, synthetic, settings) == calibrated(index, real, None, settings)


def test_no_evaluation_or_training_photo_and_no_photo_of_a_validation_sku_calibrates() -> None:
    rows = unit_rows(120, 7)
    index, settings, real = index_of(rows), ConfidenceSettings(), photos_near(rows, 0.1, 2, 8)
    others = [
        photos_near(rows, 0.5, 1, 1).with_columns(role=pl.lit(role))
        for role in ("train", "evaluation", "gallery")
    ]
    more = pl.concat([real, *others, photos_near(rows, 0.5, 1, 1, split="validation")])
    assert calibrated(index, more, None, settings) == calibrated(index, real, None, settings)


def test_regions_that_a_detector_found_have_a_promise_of_their_own() -> None:
    rows, settings = unit_rows(200, 2), ConfidenceSettings()
    index = index_of(rows)
    cut = lambda each, seed: photos_near(rows, 0.3, each, seed).with_columns(region_score=pl.lit(0.5))  # noqa: E731
    exact = calibrated(index, photos_near(rows, 0.1, 2, 3), None, settings)
    found = calibrated_on_regions(index, exact, cut(2, 5), None, settings)
    assert isinstance(found, Confidence)
    assert found.model_copy(update={"detected": None}) == exact
    assert found.of(None) == found
    own = found.of(0.5)
    assert own == found.detected
    assert "region_score" in own.logistic.features
    fresh = pairs_of(index, cut(2, 6)).present
    assert fresh["region_score"].tolist() == [0.5] * 400
    rejected = {
        name: np.mean(judge.judge(fresh) < judge.reject_below)
        for name, judge in (("own", own), ("exact", exact))
    }
    assert rejected["own"] <= 0.08 < 0.2 < rejected["exact"]


def test_regions_of_other_roles_and_splits_calibrate_nothing_and_too_few_are_judged_as_the_others() -> None:
    rows, settings = unit_rows(120, 7), ConfidenceSettings()
    index = index_of(rows)
    exact = calibrated(index, photos_near(rows, 0.1, 2, 8), None, settings)
    regions = photos_near(rows, 0.2, 1, 4).with_columns(region_score=pl.lit(0.5))
    found = calibrated_on_regions(index, exact, regions, None, settings)
    others = [
        regions.with_columns(role=pl.lit("evaluation")),
        regions.with_columns(split=pl.lit("validation")),
    ]
    assert (
        calibrated_on_regions(index, exact, pl.concat([regions, *others]), None, settings) == found != exact
    )
    for few in (regions[:20], regions[:0]):
        assert calibrated_on_regions(index, exact, few, None, settings) == exact
    assert isinstance(exact, Confidence)
    assert exact.of(0.5) == exact
    off = NoVerdicts(off="too few")
    assert calibrated_on_regions(index, off, regions, None, settings) == off


def test_a_threshold_above_that_of_a_match_is_lowered_to_it() -> None:
    sku_ids = np.array([f"s{number}" for number in range(200)])
    tops = np.linspace(0.9, 1, 200)
    pairs = Pairs(sku_ids, {"top": tops}, {"top": tops - 0.9}, np.ones(200, bool))
    found = calibrate(pairs, ConfidenceSettings(match=0.3))
    assert isinstance(found, Confidence)
    assert found.reject_below == 0.3
    assert [found.verdict(value) for value in (0.29, 0.3)] == ["none", "match"]


def test_the_file_of_an_index_version_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_confidence(tmp_path) is None
    rows = unit_rows(120, 7)
    for found in (
        calibrated(index_of(rows), photos_near(rows, 0.1, 2, 8), None, ConfidenceSettings()),
        NoVerdicts(off="too few"),
    ):
        write_confidence(tmp_path, found)
        assert read_confidence(tmp_path) == found
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(UserError, match=r"confidence\.json is no calibration of this version; build search"):
        read_confidence(tmp_path)
