"""A new group is one object: nothing else has to hear of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from skufp_pipeline import definitions
from skufp_pipeline.artifacts.places import SKU_CROPS
from skufp_pipeline.artifacts.stored import Reader, Stored
from skufp_pipeline.orchestration.doctor import examine
from skufp_pipeline.orchestration.materialize import materialize_graph, refresh_graph
from skufp_pipeline.orchestration.schedules import DAILY, REFRESH_SHARDS, REFRESH_TABLES, WEEKLY, stages
from skufp_pipeline.orchestration.schedules import refreshed as refreshed_by
from skufp_pipeline.orchestration.staleness import Place, catalog_diff
from skufp_pipeline.presets import Preset
from skufp_pipeline.steps import Group, Run, Step

from .graphs import Graph

COUNTS = Stored("counts", "tables/counts", Reader, sharded=True)
TOTAL = Stored("total", "tables/total", Reader)


def counts(run: Run) -> dg.MaterializeResult:
    """How many crops the shard has."""
    crops = run.read(SKU_CROPS).summary["crops"]
    return run.done(run.produce(COUNTS, lambda directory: {"crops": crops}), {})


def total(run: Run) -> dg.MaterializeResult:
    """How many crops there are."""
    shards = run.read_all(COUNTS)
    return run.done(run.produce(TOTAL, lambda _: {"crops": sum(s.summary["crops"] for s in shards)}), {})


def some(steps: Sequence[Step]) -> list[dg.AssetChecksDefinition]:
    @dg.asset_check(asset=TOTAL.name, name="there_are_some")
    def check(artifacts: definitions.ArtifactStoreResource) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=TOTAL.read(artifacts.get()).summary["crops"] > 0)

    return [check]


def group(preset: Preset) -> Group:
    same: dict[str, Any] = {"kinds": {"python"}, "code": ("skufp_pipeline.hashing",)}
    steps = [
        Step(stored=COUNTS, make=counts, stage="count_shards", deps=(SKU_CROPS,), **same),
        Step(stored=TOTAL, make=total, stage="add_up", deps=(COUNTS,), **same),
    ]
    return Group.of("toys", preset, steps, some)


@pytest.fixture
def toys(spoilt: Graph, monkeypatch: pytest.MonkeyPatch) -> Graph:
    monkeypatch.setattr(definitions, "GROUPS", (*definitions.GROUPS, group))
    return spoilt


def test_a_new_group_is_found_in_the_definitions(toys: Graph) -> None:
    found = definitions.build_defs(toys.preset)
    dg.Definitions.validate_loadable(found)
    graph = found.resolve_asset_graph()
    assert {dg.AssetKey("counts"), dg.AssetKey("total")} <= graph.get_all_asset_keys()
    assert dg.AssetCheckKey(dg.AssetKey("total"), "there_are_some") in graph.asset_check_keys
    assert {"count_shards", "add_up"} <= {job.name for job in found.resolve_all_job_defs()}
    for job, name in ((REFRESH_SHARDS, "counts"), (REFRESH_TABLES, "total")):
        assert name in {node.name for node in found.resolve_job_def(job).nodes}


def test_a_new_group_is_found_in_the_stages_and_in_both_refreshes(toys: Graph) -> None:
    steps = definitions.graph_steps(toys.preset)
    by_name = {stage.name: stage for stage in stages(steps)}
    assert by_name["count_shards"].assets == ("counts",)
    assert by_name["count_shards"].sharded
    assert list(by_name).index("count_shards") < list(by_name).index("add_up")
    for kind in (DAILY, WEEKLY):
        assert {"counts", "total"} <= refreshed_by(steps, kind)


def test_a_new_group_is_found_by_the_difference_of_the_catalogue_and_by_doctor(toys: Graph) -> None:
    steps = definitions.graph_steps(toys.preset)
    reasons = catalog_diff(toys.preset, steps, refreshed_by(steps, DAILY)).reasons
    assert reasons[Place("counts", 0)] == reasons[Place("total")] == "it is not there"
    states = {found.key: found.state for found in examine(steps, toys.store, every_shard=True)}
    assert (states["tables/counts"], states["tables/total"]) == ("0 of 2 shards are there", "not there")
    assert states["crops/shard_0001"].startswith("ok (")


@pytest.mark.parametrize("run", [materialize_graph, refresh_graph])
def test_a_new_group_is_made_and_checked_by_the_command_line(toys: Graph, run: Any, tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        outcome = run(toys.preset, instance, lambda line: None)
    assert outcome.failed_checks == []
    crops = [shard.summary["crops"] for shard in SKU_CROPS.read_all(toys.store, 2)]
    assert TOTAL.read(toys.store).summary == {"crops": sum(crops)}
    states = {found.key: found.state for found in examine(toys.steps, toys.store, every_shard=True)}
    assert states["tables/counts/shard_0000"].startswith("ok (")
