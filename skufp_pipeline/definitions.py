"""The Dagster Definitions: asset groups of a preset, with jobs, schedules, sensors and resources."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg

from skufp_pipeline.assets import (
    catalog,
    detection,
    encoder,
    evaluation,
    extractors,
    fingerprints,
    image_index,
    image_search,
    index,
    lens,
    look_twice,
    multi_stage,
    policy,
    street2shop,
    synthetic,
    views,
)
from skufp_pipeline.orchestration.executors import executor
from skufp_pipeline.orchestration.schedules import jobs, schedules, sensors
from skufp_pipeline.presets import Preset, load_preset
from skufp_pipeline.resources.logger import plain_logger
from skufp_pipeline.resources.models import ModelProvider
from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.steps import Group, Step

GROUPS: Sequence[Callable[[Preset], Group]] = (
    catalog.group,
    encoder.group,
    extractors.group,
    views.group,
    synthetic.group,
    fingerprints.group,
    policy.group,
    look_twice.group,
    detection.group,
    index.group,
    multi_stage.group,
    image_index.group,
    evaluation.group,
    image_search.group,
    street2shop.group,
    lens.group,
)
# All there is in a graph without fingerprints.
OF_PICTURES = (catalog.group, extractors.group, synthetic.group, image_index.group, lens.group)


def graph_steps(preset: Preset) -> dict[str, Step]:
    """Every step of the graph by asset name."""
    return {step.name: step for group in groups_of(preset) for step in group.steps}


def groups_of(preset: Preset) -> list[Group]:
    """The groups that the preset's graph is made of."""
    made = GROUPS if preset.graph == "fingerprints" else OF_PICTURES
    return [group(preset) for group in made]


def build_defs(preset: Preset | None = None, replace: Mapping[str, Any] | None = None) -> dg.Definitions:
    """The definitions of a preset (`$SKUFP_PRESET` or `demo` by default).

    For tests, `replace` maps names of assets, checks (`asset:check`), jobs, schedules, sensors and resources
    (`artifacts`, `models`) to replacements. Raises ValueError if one of the names does not exist.
    """
    preset, others = preset or load_preset(), dict(replace or {})
    groups = groups_of(preset)
    steps = {step.name: step for group in groups for step in group.steps}
    assets = [asset for group in groups for asset in group.assets]
    checks = [check for group in groups for check in group.checks]
    every_job = jobs(steps)
    resources = {
        "artifacts": ArtifactStoreResource(root=preset.data_root),
        "models": ModelProvider(device=preset.compute.device),
    }
    definitions = dg.Definitions(
        assets=[others.pop(asset.key.to_user_string(), asset) for asset in assets],
        asset_checks=[others.pop(_name(check), check) for check in checks],
        jobs=[others.pop(job.name, job) for job in every_job],
        schedules=[others.pop(schedule.name, schedule) for schedule in schedules(preset.automation)],
        sensors=[others.pop(sensor.name, sensor) for sensor in sensors(preset, steps, every_job)],
        resources={name: others.pop(name, resource) for name, resource in resources.items()},
        loggers={"console": dg.colored_console_logger, "plain": plain_logger},
        executor=executor(preset.compute),
    )
    if others:
        raise ValueError(f"nothing to replace under the names {', '.join(sorted(others))}")
    return definitions


def _name(check: dg.AssetChecksDefinition) -> str:
    return f"{check.check_key.asset_key.to_user_string()}:{check.check_key.name}"


@dg.definitions
def defs() -> dg.Definitions:
    """Loaded by `dg dev` and by workspace.yaml."""
    return build_defs()
