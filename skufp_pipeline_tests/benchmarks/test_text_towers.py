"""The benchmark of text towers: what is asked is never known, and settings are chosen without evaluation."""

from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.encoders.tables import embedding_column

from .programs import load_program

SKUS = 12  # the last four are of the validation split


@pytest.fixture(scope="module")
def program() -> ModuleType:
    return load_program("text_towers")


@pytest.fixture
def catalogue(program: ModuleType) -> Any:
    """A title and five sentences a SKU; of training SKUs the last sentence is an evaluation query."""
    queries = []
    for sku in range(SKUS):
        split = "train" if sku < SKUS - 4 else "validation"
        for place in range(6):
            role = "train" if split == "train" and place < 5 else "evaluation"
            text = f"Title {sku:02d}" if place == 0 else f"Sentence {place} of the product {sku:02d}."
            row = {"query_id": f"{sku}#{place}", "sku_id": f"s{sku:02d}", "split": split, "role": role}
            queries.append({**row, "text": text})
    table = pl.DataFrame(queries)
    texts = table.filter(role="train").with_columns(role=pl.lit("gallery")).rename({"query_id": "text_id"})
    images = table.unique("sku_id", keep="first", maintain_order=True).drop("text")
    images = images.with_columns(role=pl.lit("gallery")).with_columns(
        embedding_column(np.eye(SKUS, 16, dtype=np.float32))
    )
    return program.Catalogue(images, table, texts)


def words(table: pl.DataFrame) -> set[str]:
    return set(table["text"])


def test_a_described_product_is_asked_for_by_what_it_does_not_say(
    program: ModuleType, catalogue: Any
) -> None:
    found = program.described(catalogue)
    asked = found.queries.filter(split="validation")
    known = found.texts.filter(split="validation")
    assert asked.height >= 2
    assert known.height >= 4
    assert not words(asked) & words(found.texts)
    assert words(asked) | words(known) == words(catalogue.queries.filter(split="validation"))
    assert words(known) >= {f"Title {sku:02d}" for sku in range(SKUS - 4, SKUS)}
    assert set(found.queries["role"]) == {"evaluation"}
    seen = pl.col("split") == "train"
    assert found.texts.filter(seen)["text_id"].to_list() == sorted(catalogue.texts["text_id"])


def test_settings_are_chosen_on_training_skus_without_an_evaluation_sentence(
    program: ModuleType, catalogue: Any
) -> None:
    evaluation = words(catalogue.queries.filter(role="evaluation"))
    folds = [program.relabelled(catalogue, fold) for fold in range(program.FOLDS)]
    for fold in folds:
        asked = fold.queries.filter(role="evaluation")
        assert not (words(fold.queries) | words(fold.texts)) & evaluation
        assert not words(asked) & words(fold.texts)
        new = set(fold.images.filter(split="validation")["sku_id"])
        assert not new & set(fold.texts["sku_id"])
        assert set(fold.queries.filter(split="validation")["role"]) <= {"evaluation"}
    news = [sku for fold in folds for sku in fold.images.filter(split="validation")["sku_id"]]
    assert sorted(news) == [f"s{sku:02d}" for sku in range(SKUS - 4)]  # each is new once
