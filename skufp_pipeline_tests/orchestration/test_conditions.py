"""The automation conditions ask for what is stale by content, and for nothing else."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from skufp_pipeline.definitions import build_defs

from ..graphs import Graph, run_asset
from ..living import drop_product, living_graph, shard_of

SUNDAY = datetime(2026, 1, 4, 2, 0, tzinfo=UTC)  # before both crons


def asked(graph: Graph, instance: dg.DagsterInstance, *times: datetime) -> set[tuple[str, str | None]]:
    """Assets and partitions that evaluations at these times ask for, together."""
    cursor, found = None, set()
    for time in times:
        result = dg.evaluate_automation_conditions(
            build_defs(graph.preset), instance, evaluation_time=time, cursor=cursor
        )
        cursor = result.cursor
        for evaluation in result.results:
            subset, key = evaluation.true_subset, evaluation.key
            if not isinstance(key, dg.AssetKey) or subset.is_empty:
                continue
            partitions = {p.partition_key for p in subset.expensively_compute_asset_partitions()}
            found |= {(key.to_user_string(), partition) for partition in partitions}
    return found


@pytest.fixture
def living(small_graph: Graph, tmp_path: Path) -> tuple[Graph, Path]:
    return living_graph(small_graph, tmp_path)


def test_where_nothing_is_stale_nothing_is_asked_for(small_graph: Graph) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert asked(small_graph, instance, SUNDAY, SUNDAY + timedelta(minutes=1)) == set()


def test_the_daily_cron_looks_at_the_catalogue(small_graph: Graph) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert asked(small_graph, instance, SUNDAY, SUNDAY + timedelta(hours=1.5)) == {("raw_dataset", None)}


def test_a_new_product_asks_for_its_shard_alone(living: tuple[Graph, Path]) -> None:
    graph, shop = living
    sku_id = drop_product(shop)
    run_asset(graph.preset, "raw_dataset")
    with dg.DagsterInstance.ephemeral() as instance:
        assert asked(graph, instance, SUNDAY) == {("annotations", None)}
        run_asset(graph.preset, "annotations")
        assert asked(graph, instance, SUNDAY) == {("sku_crops", f"shard_{shard_of(graph, sku_id):04d}")}
