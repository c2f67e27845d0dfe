"""The declarative form of the refreshes: each result is made again once it is stale by content.

One sensor, `stale_by_content`, evaluates it; turn on either it or the schedules.
"""

import warnings
from collections.abc import Collection, Mapping
from typing import Any

import dagster as dg

from skufp_pipeline.orchestration.staleness import stale, waiting_for_none
from skufp_pipeline.presets import Preset
from skufp_pipeline.steps import Step
from skufp_pipeline.store import ArtifactStore


class StaleByContent(dg.AutomationCondition):
    """True for results that are not made from what the store has, and wait for no other.

    Args:
        among: the assets that are kept up to date by this condition.
    """

    def __init__(self, steps: Mapping[str, Step], data_root: str, among: Collection[str]) -> None:
        self.steps, self.data_root, self.among = steps, data_root, frozenset(among)

    @property
    def requires_cursor(self) -> bool:
        return False

    @property
    def description(self) -> str:
        return "Not made from what the store has now"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        reasons = stale(self.steps, ArtifactStore(self.data_root), self.among)
        name = context.key.to_user_string()
        shards = {place.shard for place in waiting_for_none(self.steps, reasons) if place.asset == name}
        subset = context.candidate_subset
        if self.steps[name].shards is not None:
            keys = {f"shard_{shard:04d}" for shard in shards}
            subset = subset.compute_intersection_with_partition_keys(keys) if keys else subset
        return dg.AutomationResult(context, subset if shards else context.get_empty_subset())


def automation_conditions(
    preset: Preset, steps: Mapping[str, Step], daily: Collection[str]
) -> dict[str, dg.AutomationCondition]:
    """The condition of each asset.

    Args:
        daily: what a new product needs to be found; all else is looked at by the weekly cron. What is
            made from nothing reads the catalogue from where it lies, by the daily cron.
    """
    settings = preset.automation
    roots = {name for name, step in steps.items() if not step.deps}
    day, week = (_ticked(cron, settings.timezone) for cron in (settings.daily, settings.weekly))
    idle = ~dg.AutomationCondition.in_progress() & ~dg.AutomationCondition.any_deps_in_progress()
    retried = ~dg.AutomationCondition.execution_failed() | day
    up_to_date = StaleByContent(steps, preset.data_root, set(daily) - roots) & idle & retried
    trained = StaleByContent(steps, preset.data_root, set(steps) - roots) & idle & week
    conditions: dict[str, dg.AutomationCondition[Any]] = {
        name: up_to_date if name in daily else trained for name in steps
    }
    return conditions | dict.fromkeys(roots, day & idle)


def with_automation(
    assets: list[dg.AssetsDefinition], conditions: Mapping[str, dg.AutomationCondition]
) -> list[dg.AssetsDefinition]:
    """The assets with their conditions."""

    def automated(spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.replace_attributes(automation_condition=conditions[spec.key.to_user_string()])

    return [asset.map_asset_specs(automated) for asset in assets]


def condition_sensor() -> dg.AutomationConditionSensorDefinition:
    """Evaluates the conditions; off until someone turns it on, as the schedules do the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # where conditions of one's own are evaluated
        return dg.AutomationConditionSensorDefinition(
            "stale_by_content",
            target=dg.AssetSelection.all(),
            use_user_code_server=True,
            default_status=dg.DefaultSensorStatus.STOPPED,
            description="Makes again what is stale by content, without schedules.",
        )


def _ticked(cron: str, timezone: str) -> dg.AutomationCondition:
    """From a tick until the asset was asked for or made."""
    handled = dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated()
    return dg.AutomationCondition.cron_tick_passed(cron, timezone).since(handled)
