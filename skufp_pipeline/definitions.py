"""The one Definitions: assets, checks, jobs and resources of a preset."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from skufp_pipeline.assets.baselines import baseline_assets, baseline_steps
from skufp_pipeline.assets.catalog import catalog_assets, catalog_steps
from skufp_pipeline.assets.encoder import encoder_assets, encoder_steps
from skufp_pipeline.assets.evaluation import evaluation_assets, evaluation_steps
from skufp_pipeline.assets.fingerprints import fingerprint_assets, fingerprint_steps
from skufp_pipeline.assets.index import index_assets, index_steps
from skufp_pipeline.assets.policy import policy_assets, policy_steps
from skufp_pipeline.assets.views import view_assets, view_steps
from skufp_pipeline.checks.evaluation import evaluation_checks
from skufp_pipeline.checks.index import index_checks
from skufp_pipeline.orchestration.conditions import automation_conditions, condition_sensor, with_automation
from skufp_pipeline.orchestration.executors import executor
from skufp_pipeline.orchestration.schedules import jobs, schedules, sensors
from skufp_pipeline.orchestration.staleness import refreshed_daily
from skufp_pipeline.presets import Preset, load_preset
from skufp_pipeline.resources.logger import plain_logger
from skufp_pipeline.resources.models import ModelProvider
from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.steps import Step


def graph_steps(preset: Preset) -> dict[str, Step]:
    """Every step of the graph by asset name."""
    return {
        **catalog_steps(preset),
        **encoder_steps(preset),
        **baseline_steps(preset),
        **view_steps(preset),
        **fingerprint_steps(preset),
        **policy_steps(preset),
        **index_steps(preset),
        **evaluation_steps(preset),
    }


def build_defs(preset: Preset | None = None, resources: Mapping[str, Any] | None = None) -> dg.Definitions:
    """The definitions of a preset (`$SKUFP_PRESET` or `demo` by default).

    Args:
        resources: replacements for `artifacts` and `models`, for tests.
    """
    preset = preset or load_preset()
    steps = graph_steps(preset)
    every_job = jobs(steps)
    assets = [
        *catalog_assets(preset),
        *encoder_assets(preset, steps),
        *baseline_assets(preset, steps),
        *view_assets(preset, steps),
        *fingerprint_assets(preset, steps),
        *policy_assets(preset, steps),
        *index_assets(preset, steps),
        *evaluation_assets(preset, steps),
    ]
    conditions = automation_conditions(preset, steps, refreshed_daily(steps))
    return dg.Definitions(
        assets=with_automation(assets, conditions, preset.automation.index_fresh_hours),
        asset_checks=[*evaluation_checks(preset, steps), *index_checks(preset, steps)],
        jobs=every_job,
        schedules=schedules(preset.automation),
        sensors=[*sensors(preset, steps, every_job), condition_sensor()],
        resources={
            "artifacts": ArtifactStoreResource(root=preset.data_root),
            "models": ModelProvider(device=preset.compute.device),
            **(resources or {}),
        },
        loggers={"console": dg.colored_console_logger, "plain": plain_logger},
        executor=executor(preset.compute),
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Loaded by `dg dev` and by workspace.yaml."""
    return build_defs()
