"""The daemon for real: a scheduled tick makes a new product searchable; the UI re-runs one shard alone."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from skufp_pipeline.orchestration.materialize import INSTANCE_SETTINGS
from skufp_pipeline.orchestration.schedules import DAILY, refreshed
from skufp_pipeline.search.bundle import current_index

from ..graphs import REPOSITORY, Graph, environment
from ..living import drop_product, living_graph, materialized, shard_of
from ..servers import wait_until
from ..test_faults import bytes_of
from ..test_webserver import free_port, query, wait_for

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Site:
    """A shop in operation: its graph, the folder of its photos, and the webserver's address."""

    graph: Graph
    shop: Path
    home: Path
    url: str


@pytest.fixture
def site(graph: Graph, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """Refreshed every minute, or never."""
    folder = tmp_path / "site"
    automation = {"running": request.param, "daily": "* * * * *", "weekly": "0 0 1 1 *"}
    living, shop = living_graph(graph, folder, automation=automation)
    home = folder / "home"
    home.mkdir()
    shutil.copyfile(INSTANCE_SETTINGS, home / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(home)):
        """Makes the databases, which two processes that start at once would both make."""
    variables = environment(DAGSTER_HOME=str(home), SKUFP_PRESET=str(living.preset_file))
    port = free_port()
    tools = Path(sys.executable)
    commands = [
        [tools.with_name("dagster-webserver"), "-h", "127.0.0.1", "-p", str(port)],
        [tools.with_name("dagster-daemon"), "run"],
    ]
    with (folder / "log").open("w") as log:
        running = [
            subprocess.Popen(command, cwd=REPOSITORY, env=variables, stdout=log, stderr=log)
            for command in commands
        ]
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(f"{url}/server_info", running[0], folder / "log")
            yield Site(living, shop, home, url)
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(timeout=120)


@pytest.mark.parametrize("site", [True], indirect=True, ids=["scheduled"])
def test_a_dropped_product_is_searchable_after_a_scheduled_tick(site: Site) -> None:
    sku_id = drop_product(site.shop)
    wait_until(lambda: sku_id in set(current_index(site.graph.store)[1].skus["sku_id"]), "the new product")
    partition = f"shard_{shard_of(site.graph, sku_id):04d}"
    with dg.DagsterInstance.from_config(str(site.home)) as instance:
        wait_until(lambda: "search_index" in materialized(instance), "the index in the event log")
        made = materialized(instance)
    daily = refreshed(site.graph.steps, DAILY)
    sharded = {name for name in daily if site.graph.steps[name].shards is not None}
    assert {"sku_crops", "image_text", "clip_embeddings"} <= sharded
    assert {name: made[name] for name in sharded} == {name: [partition] for name in sharded}
    assert set(made) <= daily | {"raw_dataset", "annotations"}


LAUNCH = """
mutation {
  launchRun(executionParams: {
    selector: {
      repositoryLocationName: "skufp_pipeline", repositoryName: "__repository__", jobName: "generate_views",
      assetSelection: [{path: ["generated_views"]}]
    },
    executionMetadata: {tags: [{key: "dagster/partition", value: "shard_0001"}]},
    runConfigData: {}
  }) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""


@pytest.mark.parametrize("site", [False], indirect=True, ids=["by hand"])
def test_a_shard_made_again_from_the_ui_leaves_the_bytes_of_every_other_alone(site: Site) -> None:
    before = bytes_of(site.graph)
    mine = "views/generated/shard_0001/"
    shutil.rmtree(site.graph.store.read(mine.rstrip("/")).path)
    answer = query(site.url, LAUNCH)["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    run_id = answer["run"]["runId"]
    with dg.DagsterInstance.from_config(str(site.home)) as instance:

        def ended() -> bool:
            run = instance.get_run_by_id(run_id)
            return run is not None and run.is_finished

        wait_until(ended, "the run that the UI started")
        run = instance.get_run_by_id(run_id)
        assert run is not None
        assert run.status == dg.DagsterRunStatus.SUCCESS
    after = bytes_of(site.graph)
    assert {name for name in after if name.startswith(mine)}
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert {name for name in changed if name.startswith("views/generated/")} == set()
    assert {
        name for name in changed if not name.startswith(("index/", "raw/", "tables/annotations"))
    } == set()
