"""The preset chooses the executor, and what its steps need stays on the assets."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pytest

from skufp_pipeline.cli import main
from skufp_pipeline.definitions import build_defs, graph_steps
from skufp_pipeline.errors import UserError
from skufp_pipeline.orchestration.executors import executor, set_pool_limits
from skufp_pipeline.presets import ComputeSettings, load_preset


@pytest.mark.parametrize("name", ["in_process", "multiprocess", "ray", "k8s"])
def test_the_preset_names_the_executor(name: str) -> None:
    assert executor(ComputeSettings(executor=name)).name == name  # type: ignore[arg-type]


def test_a_run_takes_no_more_steps_at_once_than_the_preset_says() -> None:
    preset = load_preset("ci")
    compute = preset.compute.model_copy(update={"max_concurrent": 3})
    definitions = build_defs(preset.model_copy(update={"compute": compute}))
    assert isinstance(definitions.executor, dg.ExecutorDefinition)
    resolved = definitions.executor.config_schema.resolve_config({})
    assert resolved.value["config"]["max_concurrent"] == 3


class Recorded:
    """Stands for the executor of a package that needs a cluster."""

    def __init__(self) -> None:
        self.config: Any = None

    def configured(self, config: Any) -> dg.ExecutorDefinition:
        self.config = config
        return dg.in_process_executor


@pytest.mark.parametrize(
    ("name", "module", "attribute", "config"),
    [
        ("ray", "dagster_ray", "ray_executor", {}),
        ("k8s", "dagster_k8s", "k8s_job_executor", {"max_concurrent": 2}),
    ],
)
def test_nothing_is_set_on_a_clusters_executor_but_its_width(
    monkeypatch: pytest.MonkeyPatch, name: Any, module: str, attribute: str, config: dict[str, int]
) -> None:
    fake, recorded = ModuleType(module), Recorded()
    setattr(fake, attribute, recorded)
    monkeypatch.setitem(sys.modules, module, fake)
    executor(ComputeSettings(executor=name))
    assert recorded.config == config


@pytest.mark.parametrize(("name", "module"), [("ray", "dagster_ray"), ("k8s", "dagster_k8s")])
def test_an_executor_whose_package_is_missing_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, name: Any, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"compute.executor {name} needs .*skufp-pipeline\[{name}\]"):
        executor(ComputeSettings(executor=name))


def test_the_pools_that_steps_wait_in_get_their_limits() -> None:
    steps = graph_steps(load_preset("df2")).values()
    with dg.DagsterInstance.ephemeral() as instance:
        assert set_pool_limits(instance, steps, ComputeSettings(pools={"gpu": 4})) == {"gpu": 4}
        assert instance.event_log_storage.get_concurrency_info("gpu").slot_count == 4
        with pytest.raises(UserError, match=r"compute\.pools has no limit for gpu"):
            set_pool_limits(instance, steps, ComputeSettings(pools={}))


def test_setup_instance_writes_settings_and_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    result = CliRunner().invoke(main, ["setup-instance", "--preset", "df2"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'home'}: pools: gpu 1\n"
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        assert instance.event_log_storage.get_concurrency_info("gpu").slot_count == 1
