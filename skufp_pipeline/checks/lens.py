"""Checks of the extractors' comparison: no leak between folds, losses fall, held-out products are found."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.kinds import ExtractorFolds

FOLDS_DISJOINT, TEST_LOSS_FALLS, BEATS_CHANCE = "folds_disjoint", "test_loss_falls", "beats_chance"
_TOP = 10


def folds_specs(asset: str) -> tuple[dg.AssetCheckSpec, ...]:
    """Declares the checks on an extractor's folds."""
    disjoint = dg.AssetCheckSpec(
        FOLDS_DISJOINT,
        asset=asset,
        blocking=True,
        description="Every product is tested in one fold at most, and asked for as new there alone.",
    )
    falls = dg.AssetCheckSpec(
        TEST_LOSS_FALLS,
        asset=asset,
        description="On pictures that were left out the loss is lower after the training than before.",
    )
    return disjoint, falls


def beats_chance_spec(asset: str) -> dg.AssetCheckSpec:
    """Declares the check on the report."""
    return dg.AssetCheckSpec(
        BEATS_CHANCE,
        asset=asset,
        description=f"Each extractor finds held-out products among the first {_TOP} more than by chance.",
    )


def folds_disjoint(asset: str, result: ExtractorFolds) -> dg.AssetCheckResult:
    """Passes if no product is tested twice, and what each query is called agrees with its fold's training."""
    products, queries = result.products(), result.queries()
    tested = products.filter(part="test")
    twice = tested.filter(tested["sku_id"].is_duplicated())["sku_id"].unique().sort()
    parts = products.group_by("fold", "sku_id").agg(pl.col("part").unique())
    asked = queries.join(parts, on=["fold", "sku_id"], how="left")
    only_tested = pl.col("part") == pl.lit(["test"], dtype=pl.List(pl.String))
    is_wrong = (pl.col("setting") == "zero") != only_tested.fill_null(value=False)
    wrong = asked.filter(is_wrong)["query_id"].unique().sort()
    return dg.AssetCheckResult(
        passed=twice.is_empty() and wrong.is_empty() and tested.height > 0,
        check_name=FOLDS_DISJOINT,
        asset_key=asset,
        metadata={
            "tested": tested.height,
            "tested_twice": twice.head(20).to_list(),
            "wrong_queries": wrong.head(20).to_list(),
        },
    )


def held_out_loss_falls(asset: str, result: ExtractorFolds) -> dg.AssetCheckResult:
    """Passes if the mean test loss of the folds is lower after the training."""
    losses = result.losses().drop_nans("test_loss")
    means = {state: losses.filter(state=state)["test_loss"].mean() for state in ("before", "after")}
    measured = {name: value for name, value in means.items() if isinstance(value, float)}
    if len(measured) < len(means):
        metadata: dict[str, Any] = {"not_measured": "too few pictures in the folds for this loss"}
        return dg.AssetCheckResult(
            passed=True, check_name=TEST_LOSS_FALLS, asset_key=asset, metadata=metadata
        )
    return dg.AssetCheckResult(
        passed=measured["after"] < measured["before"],
        check_name=TEST_LOSS_FALLS,
        asset_key=asset,
        metadata=measured,
    )


def beats_chance(asset: str, rows: Sequence[Mapping[str, Any]]) -> dg.AssetCheckResult:
    """Passes if the interval of Recall@10 on `zero` is above chance for every extractor."""
    held_out = {row["extractor"]: row for row in rows if row["setting"] == "zero"}
    lows = {name: (row[f"recall@{_TOP}_low"], _TOP * row["chance"]) for name, row in held_out.items()}
    return dg.AssetCheckResult(
        passed=bool(lows) and all(low > chance for low, chance in lows.values()),
        check_name=BEATS_CHANCE,
        asset_key=asset,
        metadata={name: f"from {low:.3f}, by chance {chance:.3f}" for name, (low, chance) in lows.items()},
    )
