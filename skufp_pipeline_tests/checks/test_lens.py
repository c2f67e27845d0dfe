"""The checks of the extractors' comparison fail where it would mislead."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from skufp_pipeline.artifacts.kinds import ExtractorFolds
from skufp_pipeline.artifacts.places import extractor_folds
from skufp_pipeline.checks.lens import beats_chance, folds_disjoint, held_out_loss_falls
from skufp_pipeline.evaluation.lens import LOSS_SCHEMA, PRODUCT_SCHEMA
from skufp_pipeline.store import ArtifactStore, Recipe

PARTS = [(0, "a", "test"), (0, "b", "train"), (1, "a", "train"), (1, "b", "test")]
ASKED_SCHEMA = {"fold": pl.Int32(), "sku_id": pl.String(), "setting": pl.String(), "query_id": pl.String()}
ASKED = [(0, "a", "zero"), (0, "b", "seen"), (1, "a", "seen"), (1, "b", "zero")]


def folds(
    folder: Path,
    parts: list[Any] = PARTS,
    asked: list[Any] = ASKED,
    test_losses: tuple[float, float] = (2, 1),
) -> ExtractorFolds:
    queries = [(fold, sku_id, setting, f"photo of {sku_id}") for fold, sku_id, setting in asked]
    tables = (
        pl.DataFrame(parts, schema=PRODUCT_SCHEMA, orient="row"),
        pl.DataFrame(
            [(0, state, 1, loss, 1) for state, loss in zip(("before", "after"), test_losses, strict=True)],
            schema=LOSS_SCHEMA,
            orient="row",
        ),
        pl.DataFrame(queries, schema=ASKED_SCHEMA, orient="row"),
    )

    def build(directory: Path) -> dict[str, Any]:
        ExtractorFolds.write(directory, *tables)
        return {}

    stored, recipe = extractor_folds("vit"), Recipe(code_version="1")
    return stored.open(ArtifactStore(folder).produce(stored.key, recipe, build))


def test_folds_that_part_the_products_pass(tmp_path: Path) -> None:
    assert folds_disjoint("vit_folds", folds(tmp_path)).passed


@pytest.mark.parametrize(
    ("parts", "asked"),
    [
        ([*PARTS, (0, "a", "train")], ASKED),  # trained on what is tested
        (PARTS, [(0, "b", "zero")]),  # called new, and trained on
        (PARTS, [(0, "a", "seen")]),  # tested, and called seen
        (PARTS, [(0, "c", "zero")]),  # of no known part
        ([*PARTS, (1, "c", "test"), (0, "c", "test")], ASKED),  # tested twice
        ([], []),
    ],
)
def test_a_leak_between_folds_fails(tmp_path: Path, parts: list[Any], asked: list[Any]) -> None:
    assert not folds_disjoint("vit_folds", folds(tmp_path, parts, asked)).passed


@pytest.mark.parametrize(("after", "passed"), [(1.0, True), (2.0, False), (3.0, False)])
def test_a_test_loss_that_does_not_fall_fails(tmp_path: Path, after: float, passed: bool) -> None:
    assert held_out_loss_falls("vit_folds", folds(tmp_path, test_losses=(2, after))).passed is passed


def test_an_extractor_that_is_no_better_than_chance_fails() -> None:
    good = {"extractor": "vit", "setting": "zero", "recall@10_low": 0.2, "chance": 0.01}
    poor = {**good, "extractor": "clip", "recall@10_low": 0.1}
    seen = {**poor, "setting": "seen"}
    assert beats_chance("lens_report", [good, seen]).passed
    assert not beats_chance("lens_report", [good, poor]).passed
    assert not beats_chance("lens_report", []).passed
