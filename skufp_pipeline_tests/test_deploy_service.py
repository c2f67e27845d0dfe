"""The service under deploy/: the image, the Kubernetes objects, the compose file and its monitoring."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from skufp_pipeline.presets import load_preset
from skufp_pipeline.serving.app import create_app
from skufp_pipeline.serving.feedback import FOLDER
from skufp_pipeline.serving.keys import Keys
from skufp_pipeline.serving.metrics import IndexState, Metrics, ServiceState
from skufp_pipeline.serving.record import Record
from skufp_pipeline.serving.rules import FILE
from skufp_pipeline.serving.settings import ServingSettings
from skufp_pipeline.store import ArtifactStore

from .graphs import environment
from .test_deploy import DEPLOY, dockerfile, read

COMPOSE = "compose/compose.yaml"
KINDS = {
    "Deployment": "V1Deployment",
    "Service": "V1Service",
    "HorizontalPodAutoscaler": "V2HorizontalPodAutoscaler",
    "PodDisruptionBudget": "V1PodDisruptionBudget",
}
NAME = re.compile(r"\bskufp_[a-z_]+")


def objects() -> dict[str, Any]:
    text = (DEPLOY / "kubernetes" / "service.yaml").read_text()
    return {found["kind"]: found for found in yaml.safe_load_all(text)}


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = objects()["Deployment"]["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    (found,) = pod()["containers"]
    return dict(found)


def service_image() -> list[tuple[str, str]]:
    """The instructions of the image's target `service`."""
    lines = dockerfile()
    start = lines.index(("FROM", "code AS service"))
    end = lines.index(("FROM", "code AS graph"))
    return lines[start:end]


def measured() -> dict[str, set[str]]:
    """The service's metrics after one request of each kind, and the labels of each."""
    index = IndexState("fingerprints", "v1", 10.0, 3)
    swaps = {"fingerprints": 1}
    metrics = Metrics(lambda: ServiceState(1, 2, 3, 4, (index,), swaps, swaps))
    metrics.observe(
        Record(
            "1",
            "POST",
            route="/v1/search",
            status=429,
            milliseconds=3,
            refused="busy",
            index="fingerprints",
            verdict="match",
            stages={"search": 1},
        )
    )
    metrics.thumb(True)
    found: dict[str, set[str]] = {}
    for line in metrics.text().decode().splitlines():
        if not line.startswith("#"):
            name, labels = re.match(r"([a-z_0-9]+)(\{.*\})?", line).groups()  # type: ignore[union-attr]
            found.setdefault(name, set()).update(re.findall(r"([a-z_]+)=\"", labels or ""))
    return found


def expressions() -> list[str]:
    """Every PromQL expression: of the alerts, the dashboard and the autoscaler's metric."""
    (rules,) = read("compose/alerts.yaml")["groups"]
    (custom,) = read("kubernetes/prometheus-adapter.yaml")["rules"]["custom"]
    panels = json.loads((DEPLOY / "compose/grafana/skufp.json").read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    return [*(rule["expr"] for rule in rules["rules"]), *asked, custom["seriesQuery"]]


@pytest.mark.parametrize("kind", KINDS)
def test_kubernetes_knows_every_field(kind: str) -> None:
    client = pytest.importorskip("kubernetes.client", reason="needs the extra `k8s`")
    given = objects()[kind]

    class Answer:
        data = json.dumps(given)

    api = client.ApiClient()
    assert api.sanitize_for_serialization(api.deserialize(Answer, KINDS[kind])) == given


def test_a_field_that_kubernetes_does_not_know_would_be_lost() -> None:
    client = pytest.importorskip("kubernetes.client", reason="needs the extra `k8s`")

    class Answer:
        data = json.dumps({"kind": "Service", "spec": {"selectr": {"app": "x"}}})

    api = client.ApiClient()
    assert api.sanitize_for_serialization(api.deserialize(Answer, "V1Service")) == {
        "kind": "Service",
        "spec": {},
    }


def test_every_object_means_the_same_pods() -> None:
    all_objects = objects()
    assert set(all_objects) == set(KINDS)
    labels = all_objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selected = [
        all_objects["Deployment"]["spec"]["selector"]["matchLabels"],
        all_objects["Service"]["spec"]["selector"],
        all_objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ]
    assert selected == [labels] * 3
    name = all_objects["Deployment"]["metadata"]["name"]
    assert all_objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == name


def test_image_service_probes_and_scrapes_name_the_same_port() -> None:
    (port,) = container()["ports"]
    assert str(port["containerPort"]) == dict(service_image())["EXPOSE"]
    assert f"--port {port['containerPort']}" in dict(service_image())["CMD"]
    assert objects()["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    assert {container()[probe]["httpGet"]["port"] for probe in PROBES} == {port["name"]}
    (endpoint,) = read("kubernetes/monitor.yaml")["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == port["name"]
    (scrape,) = read("compose/prometheus.yaml")["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": [f"service:{port['containerPort']}"]}]


PROBES = {"startupProbe": "/readyz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}


@pytest.mark.parametrize(("probe", "path"), PROBES.items())
def test_a_probe_asks_what_it_is_for(probe: str, path: str) -> None:
    assert container()[probe]["httpGet"]["path"] == path


def test_a_stopping_pod_has_time_for_the_last_proxy_and_the_last_request() -> None:
    (_, waited) = container()["lifecycle"]["preStop"]["exec"]["command"]
    drain = ServingSettings().notice_seconds + ServingSettings().drain_seconds
    assert pod()["terminationGracePeriodSeconds"] > int(waited) + drain
    assert int(read(COMPOSE)["services"]["service"]["stop_grace_period"].rstrip("s")) > drain


def test_nothing_but_tmp_and_the_services_own_folders_can_be_written() -> None:
    own = {f"/data/{FOLDER}", f"/data/{FILE.split('/')[0]}"}
    assert container()["securityContext"]["readOnlyRootFilesystem"] is True
    writable = {mount["mountPath"] for mount in container()["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/tmp", *own}
    assert {volume["name"] for volume in pod()["volumes"] if "emptyDir" in volume} == {"tmp"}
    service = read(COMPOSE)["services"]["service"]
    assert service["read_only"] is True
    mounted = [mount.split(":") for mount in service["volumes"] if not mount.endswith(":ro")]
    assert {place for _, place in mounted} == own
    for instruction, rest in service_image():
        if instruction == "ENV":
            assert all(place.split("=")[1].startswith("/tmp") for place in rest.split())


def test_the_service_is_no_root_and_has_no_capabilities() -> None:
    assert dict(service_image())["USER"] == "skufp"
    assert pod()["securityContext"]["runAsNonRoot"] is True
    uid = next(rest for _, rest in dockerfile() if rest.startswith("useradd"))
    assert f"--uid {pod()['securityContext']['runAsUser']} " in uid
    security = container()["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}


def test_every_mount_has_its_volume_and_the_keys_are_a_secret() -> None:
    volumes = {volume["name"]: volume for volume in pod()["volumes"]}
    assert {mount["name"] for mount in container()["volumeMounts"]} == set(volumes)
    assert volumes["keys"]["secret"]["secretName"] == "skufp-keys"


def test_the_service_is_scaled_by_a_metric_that_it_has_and_the_adapter_gives() -> None:
    (metric,) = objects()["HorizontalPodAutoscaler"]["spec"]["metrics"]
    (custom,) = read("kubernetes/prometheus-adapter.yaml")["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == custom["name"]["as"]
    assert custom["name"]["as"] in measured()
    assert float(metric["pods"]["target"]["averageValue"]) < ServingSettings().waiting


def test_every_metric_that_is_asked_for_is_measured_with_the_labels_asked_for() -> None:
    known = measured()
    for expression in expressions():
        names = set(NAME.findall(expression))
        assert names <= known.keys(), expression
        labels = {label for name in names for label in known[name]} | {"instance", "namespace", "pod", "job"}
        grouped = [
            name.strip() for group in re.findall(r"by \(([^)<]*)\)", expression) for name in group.split(",")
        ]
        chosen = re.findall(r"([a-z_]+)(?:=~|!=|=)\"", expression)
        assert {*grouped, *chosen} <= labels, expression


def test_the_dashboard_shows_what_an_operator_looks_for() -> None:
    asked = " ".join(expressions())
    for metric in (
        *("skufp_request_seconds_bucket", "skufp_request_seconds_count", "skufp_stage_seconds_bucket"),
        *("skufp_refused_total", "skufp_searches_waiting", "skufp_verdicts_total"),
        *("skufp_index_age_seconds", "skufp_swaps_total", "skufp_failed_swaps_total"),
    ):
        assert metric in asked


def test_the_dashboard_is_provisioned_from_the_source_that_is() -> None:
    (source,) = read("compose/grafana/datasource.yaml")["datasources"]
    board = json.loads((DEPLOY / "compose/grafana/skufp.json").read_text())
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"]}
    (provider,) = read("compose/grafana/dashboards.yaml")["providers"]
    mounts = [mount.split(":") for mount in read(COMPOSE)["services"]["grafana"]["volumes"]]
    assert any(inside.startswith(provider["options"]["path"]) for _, inside, _ in mounts)
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


def test_every_file_that_compose_mounts_is_there() -> None:
    for service in read(COMPOSE)["services"].values():
        for mount in service["volumes"]:
            if mount.startswith("./"):
                assert (DEPLOY / "compose" / mount.split(":")[0]).is_file(), mount


def test_what_compose_says_to_write_is_a_preset_with_keys_and_a_key(tmp_path: Path) -> None:
    lines = (DEPLOY / COMPOSE).read_text().splitlines()
    commands = [
        line.removeprefix("#   ") for line in lines if line.startswith("#   ") and "docker" not in line
    ]
    assert len(commands) == 4
    packaged = tmp_path / "skufp_pipeline" / "presets"
    shutil.copytree(DEPLOY.parent / "skufp_pipeline" / "presets", packaged)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        "\n".join(["set -e", *commands]), shell=True, cwd=tmp_path, env=environment(PATH=path), check=True
    )
    served = tmp_path / "served"
    assert load_preset(str(served / "preset.yaml")).data_root == "/data"
    found = Keys(served / "keys.yaml").find((served / "metrics-key").read_text().strip())
    assert found is not None
    assert found.role == "admin"


def test_the_one_who_scrapes_shows_a_key() -> None:
    compose = read(COMPOSE)
    (scrape,) = read("compose/prometheus.yaml")["scrape_configs"]
    (secret,) = compose["services"]["prometheus"]["secrets"]
    assert scrape["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    assert secret in compose["secrets"]
    (endpoint,) = read("kubernetes/monitor.yaml")["spec"]["podMetricsEndpoints"]
    assert "credentials" in endpoint["authorization"]


def test_the_service_has_the_addresses_that_are_probed_and_scraped(tmp_path: Path) -> None:
    (endpoint,) = read("kubernetes/monitor.yaml")["spec"]["podMetricsEndpoints"]
    (scrape,) = read("compose/prometheus.yaml")["scrape_configs"]
    preset = load_preset("demo").model_copy(update={"data_root": str(tmp_path)})
    known = create_app(preset, ArtifactStore(preset.data_root)).openapi()["paths"]
    assert {*PROBES.values(), endpoint["path"], scrape["metrics_path"]} <= known.keys()
