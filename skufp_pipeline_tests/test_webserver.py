"""Dagster's webserver on a materialized graph: the UI's own queries find its assets and runs."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .graphs import REPOSITORY, Graph, environment
from .test_definitions import CI_ASSETS, CI_CHECKS

STARTS_WITHIN = 120.0  # seconds


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def query(url: str, text: str) -> dict[str, Any]:
    """What the GraphQL endpoint answers."""
    request = urllib.request.Request(
        f"{url}/graphql", json.dumps({"query": text}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: dict[str, Any] = json.load(response)
    assert "errors" not in answer, answer
    found: dict[str, Any] = answer["data"]
    return found


@pytest.fixture(scope="module")
def url(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A webserver on the workspace of the repository and the instance of the ci graph."""
    port = free_port()
    log = tmp_path_factory.mktemp("webserver") / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("dagster-webserver"), "-h", "127.0.0.1", "-p", str(port)],
            cwd=REPOSITORY,
            env=environment(DAGSTER_HOME=str(graph.home), SKUFP_PRESET=str(graph.preset_file)),
            stdout=stream,
            stderr=stream,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(f"{address}/server_info", process, log)
            yield address
        finally:
            process.terminate()
            process.wait(timeout=60)


def wait_for(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise AssertionError(f"no answer within {STARTS_WITHIN} s: {log.read_text()}")


def test_the_ui_shows_every_asset_with_its_group_and_last_materialization(url: str) -> None:
    found = query(
        url,
        "{ assetNodes { assetKey { path } groupName description isMaterializable"
        " repository { name location { name } }"
        " assetMaterializations(limit: 1) { runId } } }",
    )
    nodes = {node["assetKey"]["path"][-1]: node for node in found["assetNodes"]}
    assert {name: node["groupName"] for name, node in nodes.items()} == {
        name: group for name, (group, _, _) in CI_ASSETS.items()
    }
    for node in nodes.values():
        assert node["isMaterializable"]
        assert node["repository"]["location"]["name"] == "skufp_pipeline"
        assert len(node["assetMaterializations"]) == 1


def test_the_ui_shows_the_runs_that_the_command_line_made(url: str, graph: Graph) -> None:
    found = query(url, "{ runsOrError { ... on Runs { results { jobName status } } } }")
    runs = found["runsOrError"]["results"]
    assert {run["status"] for run in runs} == {"SUCCESS"}
    of_job = {run["jobName"]: [r["jobName"] for r in runs].count(run["jobName"]) for run in runs}
    assert of_job == {
        "read_catalog": 1,
        "build_catalog_shards": graph.preset.shards,
        "train_models": 5,
        "embed_shards": 2 * graph.preset.shards,  # of the encoder, of ReID
        "calibrate_filters": 1,
        "generate_views": graph.preset.shards,
        "train_fingerprints": 1,
        "label_policy": graph.preset.shards,
        "train_policy": 2,
        "train_look_twice": 1,
        "make_patches": graph.preset.shards,
        "build_index": 6,
    }


def test_the_ui_shows_every_check_with_its_last_result(url: str) -> None:
    found = query(
        url,
        "{ assetNodes { assetKey { path } assetChecksOrError { ... on AssetChecks { checks"
        " { name blocking executionForLatestMaterialization { status } } } } } }",
    )
    checks = {
        f"{node['assetKey']['path'][-1]}:{check['name']}": check
        for node in found["assetNodes"]
        for check in node["assetChecksOrError"].get("checks", [])
    }
    assert {name: check["blocking"] for name, check in checks.items()} == CI_CHECKS
    for name, check in checks.items():
        status = check["executionForLatestMaterialization"]["status"]
        assert status == "SUCCEEDED" or (status == "FAILED" and not CI_CHECKS[name])


def test_the_ui_offers_a_job_for_every_stage(url: str) -> None:
    found = query(url, "{ repositoriesOrError { ... on RepositoryConnection { nodes { jobs { name } } } } }")
    (repository,) = found["repositoriesOrError"]["nodes"]
    assert {"read_catalog", "build_catalog_shards", "train_models", "embed_shards", "build_index"} <= {
        job["name"] for job in repository["jobs"]
    }
