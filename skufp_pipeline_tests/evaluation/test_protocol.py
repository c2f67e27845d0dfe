import numpy as np
import polars as pl
import pytest

from skufp_pipeline.evaluation.labels import Labels
from skufp_pipeline.evaluation.protocol import (
    MODALITIES,
    SETTINGS,
    Gallery,
    Model,
    QuerySet,
    evaluate,
    evaluation_queries,
)
from skufp_pipeline.measures.bootstrap import Difference, paired_bootstrap
from skufp_pipeline.measures.metrics import METRICS
from skufp_pipeline.measures.ranks import UNRANKED

from .examples import DIRECTIONS, gallery, queries, query_table


def test_an_evaluation_query_set_never_contains_a_training_query():
    roles = ["train", "evaluation", "development", "gallery", "evaluation", "evaluation"]
    splits = ["train", "train", "train", "train", "validation", "test"]
    table = query_table(
        [
            (f"q{i}", "a", split, role, (i, 1))
            for i, (role, split) in enumerate(zip(roles, splits, strict=True))
        ]
    )
    kept = evaluation_queries(table)
    assert kept.query_ids == ["q1", "q4"]
    assert kept.splits == ["train", "validation"]
    assert kept.embeddings.tolist() == [[1, 1], [4, 1]]
    assert kept.embeddings.dtype == np.float32


def test_no_evaluation_query_at_all_is_an_empty_set():
    empty = evaluation_queries(query_table([("q0", "a", "train", "train", (1, 0))]))
    assert empty.query_ids == []
    assert empty.embeddings.shape == (0, 2)


def test_an_embedding_column_of_variable_length_is_an_error():
    table = query_table([("q0", "a", "train", "evaluation", (1, 0))], pl.List(pl.Float32()))
    with pytest.raises(ValueError, match="fixed-size list"):
        evaluation_queries(table)


def test_a_query_without_embedding_is_an_error():
    with pytest.raises(ValueError, match="1 evaluation queries have no embedding"):
        evaluation_queries(query_table([("q0", "a", "train", "evaluation", None)]))


def test_a_repeated_query_id_is_an_error():
    with pytest.raises(ValueError, match="'q0' more than once"):
        QuerySet(["q0", "q0"], ["a", "a"], ["train", "train"], np.ones((2, 2)))


def test_columns_of_unequal_length_are_an_error():
    with pytest.raises(ValueError, match="gallery: columns of 2, 1 values"):
        Gallery(["a", "b"], ["train"], np.ones((2, 2)))


def test_each_setting_asks_its_own_queries_of_its_own_gallery(evaluation):
    sizes = {s: (r["image"].query_ids, r["image"].gallery) for s, r in evaluation.settings.items()}
    assert sizes == {
        "seen": (["q0", "q1", "q2"], 2),
        "zero": (["q3", "q4", "q5"], 2),
        "seen+zero": (["q0", "q1", "q2", "q3", "q4", "q5"], 4),
    }


def test_ranks_are_those_of_the_settings_gallery(evaluation):
    swapped = {s: r["image"].models["swapped"].ranks.tolist() for s, r in evaluation.settings.items()}
    # Of four directions the swapped one is at a right angle to the query, and so is one other.
    assert swapped == {"seen": [2, 2, 2], "zero": [1, 1, 1], "seen+zero": [3, 3, 3, 1, 1, 1]}


def test_a_difference_is_a_minus_b_and_equals_the_paired_bootstrap(evaluation):
    result = evaluation.settings["seen+zero"]["image"]
    found = result.differences["right-swapped"]
    assert tuple(found) == METRICS
    assert found["recall@1"].delta == 0.5
    right, swapped = (result.models[name].per_query["mrr"] for name in ("right", "swapped"))
    expected = paired_bootstrap(right, swapped, np.array(result.sku_ids), resamples=200, seed=0)
    assert (found["mrr"].delta, found["mrr"].low, found["mrr"].high) == pytest.approx(
        (expected.delta, expected.low, expected.high)
    )


def test_intervals_hold_the_means(evaluation):
    for scores in evaluation.settings["seen+zero"]["image"].models.values():
        for metric, interval in scores.intervals.items():
            assert interval.mean == pytest.approx(scores.per_query[metric].mean())
            assert interval.low <= interval.mean <= interval.high


def test_text_queries_are_handled_the_same():
    model = Model("m", {"image": queries(), "text": queries()}, gallery())
    for by_modality in evaluate([model], [], resamples=50).settings.values():
        image, text = by_modality["image"], by_modality["text"]
        assert image.query_ids == text.query_ids
        assert image.models["m"].ranks.tolist() == text.models["m"].ranks.tolist()
        assert image.models["m"].intervals == text.models["m"].intervals


def test_precision_by_label_is_measured_for_text_where_every_query_has_the_label():
    labels = Labels(
        {"category": {"a": "skirt", "b": "vest", "c": "skirt", "d": "skirt"}, "colour": {"a": "red"}},
        {"category": {"q0": "skirt", "q1": "vest", "q2": "skirt"}, "colour": {"q0": "red"}},
    )
    model = Model("m", {"image": queries("abd"), "text": queries("abd")}, gallery())
    settings = evaluate([model], [("m", "m")], resamples=50, labels=labels).settings
    found = settings["seen+zero"]["text"].models["m"]
    # Of all four SKUs three are skirts and one is a vest.
    assert found.per_query["precision@10 category"].tolist() == [0.75, 0.25, 0.75]
    assert found.intervals["precision@10 category"].mean == pytest.approx(7 / 12)
    assert "precision@10 colour" not in found.per_query
    assert settings["seen+zero"]["text"].differences["m-m"]["precision@10 category"].delta == 0
    assert tuple(settings["seen+zero"]["image"].models["m"].per_query) == METRICS


def test_a_model_that_knows_no_text_is_absent_there_with_its_differences(evaluation):
    text = evaluation.settings["seen"]["text"]
    assert list(text.models) == ["right"]
    assert text.differences == {}


def test_a_missing_sku_is_counted_and_scores_zero():
    models = [Model("m", {"image": queries("ab")}, gallery("acd"))]
    result = evaluate(models, [], resamples=50).settings["seen"]["image"]
    assert result.missing == ["q1"]
    assert result.query_ids == ["q0", "q1"]
    assert result.models["m"].ranks.tolist() == [1, UNRANKED]
    assert result.models["m"].intervals["recall@20"].mean == 0.5


def test_a_sku_with_several_gallery_rows_scores_their_maximum_and_counts_once():
    vectors = np.array([DIRECTIONS["b"], DIRECTIONS["c"], DIRECTIONS["a"]], dtype=np.float32)
    image_level = Gallery(["b", "a", "a"], ["train"] * 3, vectors)
    result = evaluate([Model("m", {"image": queries("ab")}, image_level)], [], resamples=50)
    assert result.settings["seen"]["image"].gallery == 2
    assert result.settings["seen"]["image"].models["m"].ranks.tolist() == [1, 1]


def test_the_order_of_the_gallery_does_not_matter():
    models = [Model("m", {"image": queries()}, gallery(order)) for order in ("abcd", "dbca")]
    one, other = (evaluate([m], [], resamples=50).settings["seen+zero"]["image"].models["m"] for m in models)
    assert one.ranks.tolist() == other.ranks.tolist()


def test_no_validation_split_leaves_empty_settings_in_the_report():
    model = Model("m", {"image": queries("ab")}, gallery("ab"))
    settings = evaluate([model], [("m", "m")], resamples=50).settings
    assert tuple(settings) == SETTINGS
    assert (settings["zero"]["image"].query_ids, settings["zero"]["image"].models) == ([], {})
    assert settings["seen"]["image"].differences["m-m"]["mrr"] == Difference(0.0, 0.0, 0.0)
    assert tuple(settings["seen"]) == MODALITIES
    assert settings["seen"]["text"].models == {}


@pytest.mark.parametrize("other", ["ba", "abb"])
def test_models_that_saw_different_queries_are_refused(other):
    models = [
        Model("m", {"image": queries("ab")}, gallery()),
        Model("n", {"image": queries(other)}, gallery()),
    ]
    with pytest.raises(ValueError, match=r"setting seen, image queries: .*models m .* and n .* differ"):
        evaluate(models, [])


def test_models_that_searched_different_skus_are_refused():
    models = [Model("m", {"image": queries()}, gallery()), Model("n", {"image": queries()}, gallery("abc"))]
    with pytest.raises(ValueError, match="setting zero, image queries: SKUs"):
        evaluate(models, [])


def test_a_difference_of_an_unknown_model_is_an_error():
    with pytest.raises(ValueError, match=r"unknown models \['x'\]"):
        evaluate([Model("m", {"image": queries()}, gallery())], [("m", "x")])


def test_two_models_of_one_name_are_an_error():
    model = Model("m", {"image": queries()}, gallery())
    with pytest.raises(ValueError, match="unique"):
        evaluate([model, model], [])


def test_a_model_name_that_would_blur_a_difference_is_an_error():
    with pytest.raises(ValueError, match="'-' is kept for differences"):
        Model("mean-sku", {}, gallery())


def test_an_unknown_modality_is_an_error():
    with pytest.raises(ValueError, match="modality must be one of"):
        Model("m", {"video": queries()}, gallery())


def test_a_bias_is_added_to_the_score_of_its_sku():
    plain = gallery("ab")
    helped = Gallery(plain.sku_ids, plain.splits, plain.vectors, np.array([0.5, 2.0], dtype=np.float32))
    result = evaluate([Model("m", {"image": queries("ab")}, helped)], [], resamples=50)
    assert result.settings["seen"]["image"].models["m"].ranks.tolist() == [2, 1]


def test_a_bias_that_makes_two_skus_equal_is_a_tie_and_counts_against_the_truth():
    plain = gallery("ab")
    tied = Gallery(plain.sku_ids, plain.splits, plain.vectors, np.array([0.0, 1.0], dtype=np.float32))
    result = evaluate([Model("m", {"image": queries("ab")}, tied)], [], resamples=50)
    assert result.settings["seen"]["image"].models["m"].ranks.tolist() == [2, 1]


def test_biases_go_with_their_skus_into_each_setting():
    plain = gallery("dabc")
    biases = np.array([0.0, 0.0, 2.0, 0.0], dtype=np.float32)  # b's
    model = Model("m", {"image": queries()}, Gallery(plain.sku_ids, plain.splits, plain.vectors, biases))
    settings = evaluate([model], [], resamples=50).settings
    assert settings["seen"]["image"].models["m"].ranks.tolist() == [2, 2, 1]
    assert settings["zero"]["image"].models["m"].ranks.tolist() == [1, 1, 1]


def test_as_many_biases_as_rows_are_needed():
    plain = gallery("ab")
    with pytest.raises(ValueError, match=r"biases \(3,\) for 2 rows"):
        Gallery(plain.sku_ids, plain.splits, plain.vectors, np.zeros(3, dtype=np.float32))
