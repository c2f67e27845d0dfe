"""Street2Shop's rule on two categories of products in a plane, small enough to check by hand."""

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.evaluation.street2shop import (
    ALL_QUERIES,
    MEAN_OF_CATEGORIES,
    accuracy_tables,
    fingerprint_model,
    headline,
    image_model,
    judge_street2shop,
)
from skufp_pipeline.measures.ranks import first_row_ranks

Row = tuple[str, str, str, float]  # SKU, split, role, angle in degrees


def images(*rows: Row) -> pl.DataFrame:
    """An embedding table of unit vectors at these angles."""
    angles = np.radians([angle for *_, angle in rows])
    return pl.DataFrame(
        {
            "item_id": [f"i{number}" for number in range(len(rows))],
            **{name: [row[place] for row in rows] for place, name in enumerate(("sku_id", "split", "role"))},
        }
    ).with_columns(embedding_column(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)))


# A photo of hats_1 at 0 degrees: both pictures of the training product hats_2 are nearer than its own, and
# the distractor hats_3 is farther. The photo of bags_1 finds its only picture first.
WORLD = (
    ("hats_1", "validation", "gallery", 20.0),
    ("hats_1", "validation", "gallery", 60.0),
    ("hats_2", "train", "gallery", 5.0),
    ("hats_2", "train", "gallery", -10.0),
    ("hats_3", "validation", "gallery", 40.0),
    ("bags_1", "validation", "gallery", 1.0),
    ("hats_1", "validation", "evaluation", 0.0),
    ("bags_1", "validation", "evaluation", 0.0),
    ("bags_1", "validation", "evaluation", 10.0),
    ("hats_2", "train", "train", 20.0),
)
CATEGORIES = {"hats_1": "hats", "hats_2": "hats", "hats_3": "hats", "bags_1": "bags"}


def accuracies(rows: pl.DataFrame, **where: str) -> list[float]:
    """Accuracy at 1, 3, 5, 10 and 20 of the test pairs."""
    found = rows.filter(*(pl.col(name) == value for name, value in ({"setting": "zero"} | where).items()))
    assert found["top"].to_list() == [1, 3, 5, 10, 20]
    return found["accuracy"].to_list()


@pytest.fixture(scope="module")
def judged() -> pl.DataFrame:
    return judge_street2shop([image_model("clip", images(*WORLD))], CATEGORIES, resamples=100)


def test_a_hit_is_any_photo_of_the_product_among_the_first(judged: pl.DataFrame) -> None:
    assert accuracies(judged, category="hats", unit="image") == [0, 1, 1, 1, 1]  # third row
    assert accuracies(judged, category="hats", unit="product") == [0, 1, 1, 1, 1]  # second product


def test_the_whole_retrieval_set_of_the_category_and_no_other_is_searched(judged: pl.DataFrame) -> None:
    sizes = judged.filter(pl.col("setting") == "zero").select("category", "unit", "products", "rows").unique()
    assert sorted(sizes.rows()) == [
        ("all queries", "image", 4, 6),
        ("all queries", "product", 4, 4),
        ("bags", "image", 1, 1),
        ("bags", "product", 1, 1),
        ("hats", "image", 3, 5),
        ("hats", "product", 3, 3),
        ("mean of categories", "image", 4, 6),
        ("mean of categories", "product", 4, 4),
    ]


def test_it_is_pooled_over_queries_and_over_categories(judged: pl.DataFrame) -> None:
    assert accuracies(judged, category="bags", unit="image") == [1, 1, 1, 1, 1]
    assert accuracies(judged, category=ALL_QUERIES, unit="image")[0] == pytest.approx(2 / 3)
    assert accuracies(judged, category=MEAN_OF_CATEGORIES, unit="image")[0] == pytest.approx(1 / 2)


def test_intervals_hold_the_accuracy_and_are_0_wide_where_all_is_right(judged: pl.DataFrame) -> None:
    assert (judged["low"] <= judged["accuracy"] + 1e-12).all()
    assert (judged["accuracy"] <= judged["high"] + 1e-12).all()
    sure = judged.filter((pl.col("category") == "bags") & (pl.col("setting") == "zero"))
    assert sure["low"].to_list() == sure["high"].to_list() == [1.0] * 10
    assert set(judged["queries"]) == {1, 2, 3}


def test_training_photos_are_no_queries_and_a_setting_without_queries_has_no_rows(
    judged: pl.DataFrame,
) -> None:
    assert set(judged["setting"]) == {"zero", "seen+zero"}


def test_a_constant_embedding_hits_only_where_all_others_fit_before_it() -> None:
    constant = images(*((sku, split, role, 0.0) for sku, split, role, _ in WORLD))
    rows = judge_street2shop([image_model("clip", constant)], CATEGORIES, resamples=100)
    assert accuracies(rows, category="hats", unit="image") == [
        0,
        0,
        1,
        1,
        1,
    ]  # three rows of others before it


def test_fingerprints_are_searched_by_product_with_their_biases() -> None:
    table = images(*WORLD)
    angles = {"hats_1": 30.0, "hats_2": 0.0, "hats_3": 90.0, "bags_1": 0.0}
    for bias, right in ((0.0, 0.0), (0.2, 1.0)):  # cos 30 is .87: the bias lifts it over 1
        fingerprints = images(
            *((sku, "validation", "gallery", angle) for sku, angle in angles.items())
        ).select(
            "sku_id",
            "split",
            bias=pl.when(pl.col("sku_id") == "hats_1").then(bias).otherwise(0.0),
            fingerprint="embedding",
        )
        models = [image_model("clip", table), fingerprint_model(table, fingerprints)]
        rows = judge_street2shop(models, CATEGORIES, resamples=100)
        assert accuracies(rows, category="hats", model="fingerprint")[0] == right
        assert set(rows.filter(pl.col("model") == "fingerprint")["unit"]) == {"product"}


def test_a_query_whose_product_the_gallery_lacks_is_a_miss() -> None:
    lacking = [row for row in WORLD if row[:3] != ("bags_1", "validation", "gallery")]
    rows = judge_street2shop([image_model("clip", images(*lacking))], CATEGORIES, resamples=100)
    assert accuracies(rows, category="bags", unit="image") == [0, 0, 0, 0, 0]


def test_models_that_answer_other_queries_are_refused() -> None:
    other = image_model("other", images(*WORLD[:-2]))
    with pytest.raises(ValueError, match="clip and other differ in their queries"):
        judge_street2shop([image_model("clip", images(*WORLD)), other], CATEGORIES)


def test_the_tables_and_the_headline_say_what_was_measured(judged: pl.DataFrame) -> None:
    text = accuracy_tables(judged)
    assert "**zero**, 3 queries" in text
    assert "| all queries | clip | image | 6 | 0.667 [" in text
    assert "| model | unit | bags | hats | all queries | mean of categories |" in text
    assert headline(judged) == {"clip, image": 1.0, "clip, product": 1.0}


def test_the_first_row_of_the_right_item_is_counted_from_all_rows() -> None:
    three = np.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2]])
    by_hand = first_row_ranks(np.array([[1.0, 0.0]] * 2), three, np.array([1, 0]), np.array([0, 0, 1]))
    assert by_hand.tolist() == [3, 1]
    generator = np.random.default_rng(3)
    gallery, queries = generator.normal(size=(40, 5)), generator.normal(size=(30, 5))
    owner = np.sort(generator.integers(0, 12, size=40))
    owner = np.unique(owner, return_inverse=True)[1]
    truth = generator.integers(-1, owner.max() + 1, size=30)
    found = first_row_ranks(queries, gallery, truth, owner, block=7)
    for query, right, rank in zip(queries, truth, found, strict=True):
        order = owner[np.argsort(-(gallery @ query))]
        assert rank == (np.flatnonzero(order == right)[0] + 1 if right >= 0 else np.iinfo(np.int64).max)
