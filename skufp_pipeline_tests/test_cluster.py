"""The same graph on several machines: a database, storage and a Ray cluster, started here for real."""

import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import fsspec
import pytest

from skufp_pipeline.orchestration.materialize import materialize_graph
from skufp_pipeline.presets import load_preset

from .graphs import REPOSITORY, SMALL, Graph, digests, environment, run_asset, write_preset
from .living import materialized
from .servers import BUCKET, Node, postgres, postgres_tool, production_home, ray_cluster, s3, wait_until

needs_postgres = pytest.mark.skipif(postgres_tool("initdb") is None, reason="PostgreSQL is not installed")
PATIENCE = 300.0  # seconds
FIRST = ("raw_dataset", "annotations")
SHARDED = ("sku_crops", "image_text")


def launch(shard: int, variables: dict[str, str]) -> "subprocess.Popen[str]":
    """Starts a run of one shard, as a person would."""
    words = ["launch", "--assets", ",".join(SHARDED), "--partition", f"shard_{shard:04d}"]
    return subprocess.Popen(
        [Path(sys.executable).with_name("dg"), *words],
        cwd=REPOSITORY,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def require_success(runs: list["subprocess.Popen[str]"]) -> None:
    for run in runs:
        told, _ = run.communicate(timeout=PATIENCE)
        assert run.returncode == 0, told


def counted(instance: dg.DagsterInstance, kind: dg.DagsterEventType) -> int:
    return sum(len(instance.all_logs(run.run_id, of_type=kind)) for run in instance.get_runs())


def remote_digests(root: str) -> dict[str, str]:
    """The content digest of every complete artifact under a data root, by key."""
    files, base = fsspec.url_to_fs(root)
    found = [json.loads(files.cat_file(path)) for path in files.glob(f"{base}/**/manifest.json")]
    return {manifest["artifact"]: manifest["digest"] for manifest in found}


def most_at_once(instance: dg.DagsterInstance) -> int:
    """How many runs were under way at one moment."""
    records = instance.get_run_records()
    spans = [(record.start_time, record.end_time) for record in records]
    return max(sum(a <= start < b for a, b in spans) for start, _ in spans)


@needs_postgres
def test_four_shards_run_at_once_on_postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = write_preset(tmp_path / "alone", {**SMALL, "shards": 4})
    together = write_preset(tmp_path / "together", {**SMALL, "shards": 4})
    for preset_file in (alone, together):
        for name in FIRST:
            assert run_asset(load_preset(str(preset_file)), name).success
    for shard in range(4):
        for name in SHARDED:
            assert run_asset(load_preset(str(alone)), name, shard).success
    with postgres() as database:
        home = production_home(tmp_path)
        variables = {**database, "DAGSTER_HOME": str(home), "SKUFP_PRESET": str(together)}
        require_success([launch(shard, variables) for shard in range(4)])
        for variable, value in database.items():
            monkeypatch.setenv(variable, value)
        with dg.DagsterInstance.from_config(str(home)) as instance:
            assert type(instance.event_log_storage).__name__ == "PostgresEventLogStorage"
            assert most_at_once(instance) >= 2
            partitions = [f"shard_{shard:04d}" for shard in range(4)]
            made = materialized(instance)
            assert {name: sorted(made[name]) for name in made} == dict.fromkeys(SHARDED, partitions)
            assert not any(instance.event_log_storage.get_concurrency_info("gpu").claimed_slots)
    assert digests(Graph(together, None, "").store) == digests(Graph(alone, None, "").store)


@pytest.mark.slow
@needs_postgres
def test_a_ray_cluster_on_s3_loses_a_node_and_ends_with_the_same_bytes(
    small_graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = f"s3://{BUCKET}/data"
    compute = {"executor": "ray", "cores": 1}
    preset_file = write_preset(tmp_path, {**SMALL, "compute": compute}, data_root=root)
    preset, home = load_preset(str(preset_file)), production_home(tmp_path)
    with postgres() as database, s3(tmp_path) as storage:
        variables = {**database, **storage, "DAGSTER_HOME": str(home), "SKUFP_PRESET": str(preset_file)}
        for variable, value in variables.items():
            monkeypatch.setenv(variable, value)
        for name in FIRST:
            assert run_asset(preset, name).success
        with (
            dg.DagsterInstance.from_config(str(home)) as instance,
            ray_cluster(tmp_path, variables) as (address, nodes),
        ):
            runs = [launch(shard, {**variables, "RAY_ADDRESS": address}) for shard in range(2)]
            lose_the_second(nodes, runs, instance)
            require_success(runs)
            assert counted(instance, dg.DagsterEventType.STEP_UP_FOR_RETRY) == 1
            assert not nodes[0].steps()
            materialize_graph(preset, instance, lambda line: None)
        made, expected = remote_digests(root), digests(small_graph.store)
        assert made.keys() == expected.keys()
        different = {key for key in made if made[key] != expected[key]}
        assert different == {"reports/retrieval"}  # it holds what was timed


def lose_the_second(
    nodes: list[Node], runs: list["subprocess.Popen[str]"], instance: dg.DagsterInstance
) -> None:
    """Kills a node when each of the two is at work on a step."""

    def both_at_work() -> bool:
        assert all(run.poll() is None for run in runs), [run.communicate()[0] for run in runs]
        started = counted(instance, dg.DagsterEventType.STEP_START)
        return started == 2 and all(len(node.steps()) == 1 for node in nodes)

    wait_until(both_at_work, "a step on each node")
    nodes[1].kill()
    assert counted(instance, dg.DagsterEventType.STEP_SUCCESS) == 0
