"""Every file under deploy/ is understood by what reads it, as far as no cluster is needed."""

import shlex
from typing import Any

import pytest
import yaml
from dagster._config import validate_config
from dagster._core.instance.config import dagster_instance_config_schema

from skufp_pipeline.presets import load_preset

from .graphs import REPOSITORY

DEPLOY = REPOSITORY / "deploy"


def read(path: str) -> Any:
    return yaml.safe_load((DEPLOY / path).read_text())


@pytest.mark.parametrize("place", ["laptop", "production"])
def test_the_instance_settings_fit_dagsters_schema(place: str) -> None:
    result = validate_config(dagster_instance_config_schema(), read(f"{place}/dagster.yaml"))
    assert result.success, result.errors


def test_the_schema_refuses_what_it_does_not_know() -> None:
    settings = {**read("production/dagster.yaml"), "run_monitorin": {}}
    assert not validate_config(dagster_instance_config_schema(), settings).success


def test_production_takes_its_password_from_the_environment() -> None:
    database = read("production/dagster.yaml")["storage"]["postgres"]["postgres_db"]
    assert database == {
        "hostname": {"env": "DAGSTER_PG_HOST"},
        "port": {"env": "DAGSTER_PG_PORT"},
        "username": {"env": "DAGSTER_PG_USERNAME"},
        "password": {"env": "DAGSTER_PG_PASSWORD"},
        "db_name": {"env": "DAGSTER_PG_DB"},
    }


@pytest.mark.parametrize("place", ["laptop", "production"])
def test_a_cancelled_run_gives_its_slot_back(place: str) -> None:
    monitoring = read(f"{place}/dagster.yaml")["run_monitoring"]
    assert monitoring["enabled"]
    assert monitoring["free_slots_after_run_end_seconds"] == 60


def dockerfile() -> list[tuple[str, str]]:
    """Instruction and arguments, line by line."""
    text = (DEPLOY / "kubernetes" / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def test_the_image_copies_what_is_there_and_does_not_run_as_root() -> None:
    for instruction, rest in dockerfile():
        if instruction == "COPY":
            for source in shlex.split(rest)[:-1]:
                assert (REPOSITORY / source).exists(), source
    assert dockerfile()[-3:][0] == ("USER", "skufp")


def test_chart_and_image_serve_the_same_definitions_on_the_same_port() -> None:
    (deployment,) = read("kubernetes/values.yaml")["dagster-user-deployments"]["deployments"]
    command = yaml.safe_load(dict(dockerfile())["CMD"])
    assert deployment["dagsterApiGrpcArgs"] == command[3:5] == ["-m", "skufp_pipeline.definitions"]
    assert str(deployment["port"]) == command[-1] == dict(dockerfile())["EXPOSE"]
    assert load_preset(deployment["env"]["SKUFP_PRESET"]).name == "df2"


def test_the_chart_launches_runs_in_pods_with_a_queue() -> None:
    values = read("kubernetes/values.yaml")
    assert values["runLauncher"]["type"] == "K8sRunLauncher"
    assert set(values["runLauncher"]["config"]) == {"k8sRunLauncher"}
    assert values["dagsterDaemon"]["runCoordinator"]["type"] == "QueuedRunCoordinator"


def test_ray_takes_the_cluster(caplog: pytest.LogCaptureFixture) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(read("ray/cluster.yaml")))
    assert not caplog.records
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config({**read("ray/cluster.yaml"), "max_worker": 1}))


def test_the_ray_cluster_gives_its_nodes_no_resources_of_its_own() -> None:
    cluster = read("ray/cluster.yaml")
    assert {"cluster_name", "provider", "auth", "head_start_ray_commands", "worker_start_ray_commands"} <= {
        *cluster
    }
    commands = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    assert not [command for command in commands if "--resources" in command]
