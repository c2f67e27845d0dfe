"""Baseline 1 as a model of the report."""

import numpy as np
import polars as pl

from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.evaluation.protocol import evaluate
from skufp_pipeline.evaluation.retrieval import reid_model


def images(rows: list[tuple[str, str, tuple[float, float]]]) -> pl.DataFrame:
    """(sku, role, embedding) of training SKUs."""
    vectors = np.array([vector for _, _, vector in rows], dtype=np.float32)
    return pl.DataFrame(
        {
            "item_id": [f"i{n}" for n in range(len(rows))],
            "sku_id": [sku for sku, _, _ in rows],
            "split": "train",
            "role": [role for _, role, _ in rows],
        }
    ).with_columns(embedding_column(vectors))


# The mean of a's crops is farther from a's query than b's crop; one of a's crops is nearer.
CROPS = [("a", "gallery", (1.0, 0.0)), ("a", "gallery", (-1.0, 0.0)), ("b", "gallery", (0.8, 0.6))]


def test_a_sku_scores_its_best_crop_and_counts_once() -> None:
    model = reid_model(images([*CROPS, ("a", "evaluation", (1.0, 0.0)), ("b", "evaluation", (0.0, 1.0))]))
    result = evaluate([model], [], resamples=50).settings["seen"]["image"]
    assert result.gallery == 2
    assert result.models["reid"].ranks.tolist() == [1, 1]


def test_a_crop_that_ties_with_the_right_one_comes_before_it() -> None:
    model = reid_model(images([*CROPS, ("b", "gallery", (1.0, 0.0)), ("a", "evaluation", (1.0, 0.0))]))
    result = evaluate([model], [], resamples=50).settings["seen"]["image"]
    assert result.models["reid"].ranks.tolist() == [2]


def test_it_searches_catalogue_crops_alone_and_knows_no_text() -> None:
    others = [("b", role, (1.0, 0.0)) for role in ("train", "development")]
    rows = [*CROPS, *others, ("a", "evaluation", (1.0, 0.0))]
    model = reid_model(images(rows))
    assert model.gallery.sku_ids == ["a", "a", "b"]
    assert set(model.queries) == {"image"}
    assert evaluate([model], [], resamples=50).settings["seen"]["image"].models["reid"].ranks.tolist() == [1]
