"""Products come and go: only their shards are made again, nothing is trained, and the index follows."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner

from skufp_pipeline.cli import main
from skufp_pipeline.definitions import build_defs
from skufp_pipeline.errors import UserError
from skufp_pipeline.orchestration import schedules
from skufp_pipeline.orchestration.materialize import refresh_graph
from skufp_pipeline.orchestration.schedules import (
    DAILY,
    READ_CATALOG,
    REFRESH_ID_TAG,
    REFRESH_TAG,
    WEEKLY,
    refreshed,
)
from skufp_pipeline.search.bundle import current_index

from ..graphs import Graph
from ..living import drop_product, living_graph, materialized, shard_of


@pytest.fixture
def living(small_graph: Graph, tmp_path: Path) -> tuple[Graph, Path]:
    return living_graph(small_graph, tmp_path)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as opened:
        yield opened


def sharded(graph: Graph) -> set[str]:
    """The sharded assets that a new product needs."""
    return {name for name in refreshed(graph.steps, DAILY) if graph.steps[name].shards is not None}


def skus(graph: Graph) -> set[str]:
    return set(current_index(graph.store)[1].skus["sku_id"])


def require_one_shard_made(graph: Graph, instance: dg.DagsterInstance, sku_id: str) -> None:
    """Asserts from the event log that the shard of `sku_id` was made again, and no training was."""
    made = materialized(instance)
    partition = f"shard_{shard_of(graph, sku_id):04d}"
    assert {name: made[name] for name in sharded(graph)} == {name: [partition] for name in sharded(graph)}
    assert not [name for name in made if graph.steps[name].trained]
    assert made["search_index"] == [None]


def diff(graph: Graph) -> dict[str, Any]:
    result = CliRunner().invoke(
        main, ["catalog", "diff", "--json", "--preset", str(graph.preset_file)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_new_product_is_found_after_one_refresh_of_one_shard(
    living: tuple[Graph, Path], instance: dg.DagsterInstance
) -> None:
    graph, shop = living
    refresh_graph(graph.preset, dg.DagsterInstance.ephemeral(), lambda line: None)
    before = skus(graph)
    sku_id = drop_product(shop)
    told: list[str] = []
    refresh_graph(graph.preset, instance, told.append)
    assert skus(graph) == before | {sku_id}
    require_one_shard_made(graph, instance, sku_id)
    shards = graph.preset.shards
    assert told[0] == f"SKUs: 1 new, 0 changed, 0 removed; shards: 1 changed, {shards - 1} unchanged"


def test_the_diff_says_what_the_refresh_then_does(
    living: tuple[Graph, Path], instance: dg.DagsterInstance
) -> None:
    graph, shop = living
    assert diff(graph) == {"changes": [], "again": {}, "shards_skipped": graph.preset.shards}
    sku_id = drop_product(shop)
    found = diff(graph)
    (change,) = found["changes"]
    assert (change["sku_id"], change["change"]) == (sku_id, "new")
    shard = f"shard_{shard_of(graph, sku_id):04d}"
    assert set(found["again"]) == {shard, "whole"}
    assert found["again"][shard]["sku_crops"] == "annotations changed"
    assert found["shards_skipped"] == graph.preset.shards - 1
    refresh_graph(graph.preset, instance, lambda line: None)
    made = materialized(instance)
    again = {name for assets in found["again"].values() for name in assets}
    assert again == set(made) - {"raw_dataset", "annotations"}


def test_a_photo_with_new_bytes_and_a_product_that_is_gone_are_found(
    living: tuple[Graph, Path], instance: dg.DagsterInstance
) -> None:
    graph, shop = living
    sku_id = drop_product(shop)
    refresh_graph(graph.preset, instance, lambda line: None)
    photos = sorted((shop / "train" / "image").glob("900001*.jpg"))
    photos[0].write_bytes(photos[1].read_bytes())
    (change,) = diff(graph)["changes"]
    assert (change["change"], change["detail"]) == ("changed", "other image_digest")
    for path in shop.glob("train/*/900001*"):
        path.unlink()
    (change,) = diff(graph)["changes"]
    assert change["change"] == "removed"
    refresh_graph(graph.preset, instance, lambda line: None)
    assert sku_id not in skus(graph)


def run(graph: Graph, instance: dg.DagsterInstance, request: dg.RunRequest, job: str) -> dg.DagsterRun:
    """Runs what a schedule or sensor asks for."""
    done = (
        build_defs(graph.preset)
        .resolve_job_def(request.job_name or job)
        .execute_in_process(
            instance=instance,
            tags=dict(request.tags),
            partition_key=request.partition_key,
            asset_selection=request.asset_selection,
        )
    )
    return done.dagster_run


def goes_on(
    graph: Graph, instance: dg.DagsterInstance, cursor: str | None = None
) -> tuple[list[dg.RunRequest], str | None]:
    """What the sensor starts now, and its cursor."""
    definitions = build_defs(graph.preset)
    sensor: Any = next(s for s in definitions.sensors or [] if s.name == "refresh_goes_on")
    artifacts = (definitions.resources or {})["artifacts"]
    with dg.build_sensor_context(instance, cursor=cursor, resources={"artifacts": artifacts}) as context:
        found = sensor(context)
    if isinstance(found, dg.SkipReason):
        return [], cursor
    return list(found.run_requests or []), found.cursor


def test_one_scheduled_tick_makes_a_new_product_searchable(
    living: tuple[Graph, Path], instance: dg.DagsterInstance
) -> None:
    graph, shop = living
    sku_id = drop_product(shop)
    schedule = next(s for s in build_defs(graph.preset).schedules or [] if s.name == "daily_refresh")
    time = datetime(2026, 1, 5, 3, tzinfo=UTC)
    context = dg.build_schedule_context(instance, scheduled_execution_time=time)
    first = schedule(context)
    assert isinstance(first, dg.RunRequest)
    wave, cursor, keys = [first], None, []
    while wave:
        for request in wave:
            run(graph, instance, request, READ_CATALOG)
        wave, cursor = goes_on(graph, instance, cursor)
        assert not {new.run_key for new in wave} & set(keys)
        keys += [new.run_key for new in wave]
    assert len(keys) == 2  # one shard, then the tables and the index
    assert sku_id in skus(graph)
    require_one_shard_made(graph, instance, sku_id)


TAGS = {REFRESH_TAG: DAILY, REFRESH_ID_TAG: "daily 1"}


def record(
    graph: Graph,
    instance: dg.DagsterInstance,
    status: dg.DagsterRunStatus,
    again: dg.DagsterRun | None = None,
) -> dg.DagsterRun:
    """A run of the refresh that was not executed; the re-execution of another where there is one."""
    first = again and {"parent_run_id": again.run_id, "root_run_id": again.run_id}
    job = build_defs(graph.preset).resolve_job_def("refresh_shards")
    return instance.create_run_for_job(job, tags=TAGS, status=status, **(first or {}))


def test_the_refresh_waits_for_its_other_runs_and_is_looked_at_once_they_have_ended(
    living: tuple[Graph, Path], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, shop = living
    drop_product(shop)
    run(graph, instance, dg.RunRequest(tags=TAGS), READ_CATALOG)
    other = record(graph, instance, dg.DagsterRunStatus.STARTED)
    assert goes_on(graph, instance) == ([], None)
    instance.report_run_canceled(other)
    record(graph, instance, dg.DagsterRunStatus.SUCCESS, again=other)
    wave, cursor = goes_on(graph, instance)
    assert len(wave) == 1
    monkeypatch.setattr(schedules, "stale", None)  # not asked again until there is another run
    assert goes_on(graph, instance, cursor) == ([], cursor)


def test_a_failed_run_ends_its_refresh_until_it_is_executed_again(
    living: tuple[Graph, Path], instance: dg.DagsterInstance
) -> None:
    graph, shop = living
    drop_product(shop)
    run(graph, instance, dg.RunRequest(tags=TAGS), READ_CATALOG)
    failed = record(graph, instance, dg.DagsterRunStatus.FAILURE)
    record(graph, instance, dg.DagsterRunStatus.SUCCESS)
    wave, cursor = goes_on(graph, instance)
    assert wave == []
    record(graph, instance, dg.DagsterRunStatus.SUCCESS, again=failed)
    assert len(goes_on(graph, instance, cursor)[0]) == 1


def test_runs_of_no_refresh_start_nothing(living: tuple[Graph, Path], instance: dg.DagsterInstance) -> None:
    graph, shop = living
    drop_product(shop)
    run(graph, instance, dg.RunRequest(), READ_CATALOG)
    assert goes_on(graph, instance) == ([], None)


def test_the_weekly_refresh_covers_the_graph_and_the_daily_one_trains_nothing(small_graph: Graph) -> None:
    steps = small_graph.steps
    assert refreshed(steps, WEEKLY) == set(steps) - {"raw_dataset", "annotations"}
    daily = refreshed(steps, DAILY)
    assert {"sku_crops", "clip_embeddings", "fingerprints", "search_index"} <= daily
    assert not [name for name in daily if steps[name].trained]


def test_a_catalogue_that_is_cut_short_keeps_the_index_in_use_until_it_is_allowed(
    living: tuple[Graph, Path], instance: dg.DagsterInstance
) -> None:
    graph, shop = living
    preset = graph.preset
    refresh_graph(preset, instance, lambda line: None)
    before, version = skus(graph), current_index(graph.store)[0]
    annos = {path: json.loads(path.read_text())["pair_id"] for path in (shop / "train" / "annos").iterdir()}
    for path in [path for path, pair in annos.items() if pair > sorted(annos.values())[len(annos) // 2]]:
        path.unlink()
        (shop / "train" / "image" / f"{path.stem}.jpg").unlink()
    with pytest.raises(UserError, match=r"few_skus_removed did not pass: removed \d+ of the \d+ SKUs in use"):
        refresh_graph(preset, instance, lambda line: None)
    assert current_index(graph.store)[0] == version
    asked = ["refresh", "--preset", str(graph.preset_file), "--allow-removals"]
    done = CliRunner(env={"DAGSTER_HOME": str(graph.preset_file.parent)}).invoke(main, asked)
    assert done.exit_code == 0, done.output
    assert skus(graph) < before
    assert "rows read" in done.stderr
