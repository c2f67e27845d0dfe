"""Jobs, schedules and sensors: a job per stage, daily and weekly refresh, drop folder, failure reports.

A refresh is a chain of runs with the same tags. The first run reads the catalogue; whenever all runs have
ended, the sensor `refresh_goes_on` starts runs for what is stale (`staleness.py`), until nothing is.
"""

import json
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from skufp_pipeline.datasets.catalogue import folder_listing
from skufp_pipeline.orchestration.interruption import UNFINISHED
from skufp_pipeline.orchestration.staleness import Work, in_order, next_work, stale
from skufp_pipeline.presets import AutomationSettings, Preset
from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.steps import READ_CATALOG, Step

REFRESH_SHARDS, REFRESH_TABLES = "refresh_shards", "refresh_tables"
DAILY, WEEKLY = "daily", "weekly"
REFRESH_TAG, REFRESH_ID_TAG = "skufp/refresh", "skufp/refresh_id"
_ANY_REFRESH = {REFRESH_TAG: [DAILY, WEEKLY]}
UNDER_WAY = "a refresh is under way"
_BETWEEN_RUNS = timedelta(seconds=60)  # a few of the sensor's intervals
_WEBHOOK_SECONDS = 10


@dataclass(frozen=True)
class Stage:
    """Assets that can be materialized together: all sharded, or none.

    `runs` groups the assets by the run in which `skufp materialize` makes them. Slow assets have a run of
    their own, so that no other asset waits for them needlessly.
    """

    name: str
    runs: tuple[tuple[str, ...], ...]
    sharded: bool

    @property
    def assets(self) -> tuple[str, ...]:
        return tuple(asset for run in self.runs for asset in run)


def stages(steps: Mapping[str, Step]) -> list[Stage]:
    """The stages of the graph, each after the stages that it depends on, those of high priority first.

    Raises ValueError if a stage mixes sharded and whole assets, or if two stages depend on each other.
    """
    waiting: dict[str, list[Step]] = {}
    for name in in_order(steps):
        waiting.setdefault(steps[name].stage, []).append(steps[name])
    found: list[Stage] = []
    while waiting:
        missing = {step.name: stage for stage, mine in waiting.items() for step in mine}
        ready = [
            stage
            for stage, mine in waiting.items()
            if all(missing.get(dep, stage) == stage for step in mine for dep in step.upstream)
        ]
        if not ready:
            raise ValueError(f"stages that wait for each other: {', '.join(waiting)}")
        first = max(ready, key=lambda stage: max(step.priority for step in waiting[stage]))
        found.append(_stage(first, waiting.pop(first)))
    return found


def _stage(name: str, steps: Sequence[Step]) -> Stage:
    if len({step.stored.sharded for step in steps}) > 1:
        raise ValueError(f"stage {name} holds sharded assets and whole ones; give them stages of their own")
    return Stage(name, tuple(_runs(steps)), steps[0].stored.sharded)


def _runs(steps: Sequence[Step]) -> Iterator[tuple[str, ...]]:
    """The assets of a stage, in its order, as they are made by one run each, after those they depend on."""
    waiting = list(steps)
    while waiting:
        missing = {step.name for step in waiting}
        apart = [step for step in waiting if step.apart and missing.isdisjoint(step.upstream)]
        together: list[str] = []
        for step in waiting:
            if not step.apart and missing.intersection(step.upstream) <= {*together}:
                together.append(step.name)
        yield from ((step.name,) for step in apart)
        if together:
            yield tuple(together)
        made = {*together, *(step.name for step in apart)}
        waiting = [step for step in waiting if step.name not in made]


def jobs(steps: dict[str, Step]) -> list[Any]:
    """One job per stage, and the two jobs that a refresh selects stale assets from."""
    staged = [
        dg.define_asset_job(stage.name, selection=dg.AssetSelection.assets(*stage.assets))
        for stage in stages(steps)
    ]
    sharded = [name for name, step in steps.items() if step.shards is not None]
    whole = [name for name in refreshed(steps, WEEKLY) if name not in sharded]
    return [
        *staged,
        dg.define_asset_job(REFRESH_SHARDS, selection=dg.AssetSelection.assets(*sharded)),
        dg.define_asset_job(REFRESH_TABLES, selection=dg.AssetSelection.assets(*whole)),
    ]


def refreshed(steps: Mapping[str, Step], kind: str) -> set[str]:
    """The assets that a refresh may rebuild after reading the catalogue; `daily` trains nothing."""
    after = [step for step in steps.values() if step.stage != READ_CATALOG]
    return {step.name for step in after if kind == WEEKLY or step.is_daily}


def schedules(settings: AutomationSettings) -> list[dg.ScheduleDefinition]:
    """The daily refresh, and the weekly refresh, which retrains."""
    status = dg.DefaultScheduleStatus.RUNNING if settings.running else dg.DefaultScheduleStatus.STOPPED

    def refresh(kind: str, cron: str, description: str) -> dg.ScheduleDefinition:
        @dg.schedule(
            name=f"{kind}_refresh",
            job_name=READ_CATALOG,
            cron_schedule=cron,
            execution_timezone=settings.timezone,
            default_status=status,
            description=description,
        )
        def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
            if is_under_way(context.instance):
                return dg.SkipReason(UNDER_WAY)
            return refresh_request(kind, context.scheduled_execution_time.isoformat())

        return schedule

    return [
        refresh(DAILY, settings.daily, "New, changed and removed products into the index, without training."),
        refresh(WEEKLY, settings.weekly, "Everything the catalogue has outdated, training and report too."),
    ]


def refresh_request(kind: str, refresh_id: str) -> dg.RunRequest:
    """The request for the first run of a refresh."""
    return dg.RunRequest(
        run_key=f"{kind} {refresh_id}", tags={REFRESH_TAG: kind, REFRESH_ID_TAG: f"{kind} {refresh_id}"}
    )


def is_under_way(instance: dg.DagsterInstance) -> bool:
    """Whether a refresh is running, or had a run so recently that the next may be about to start."""
    cutoff = datetime.now(UTC) - _BETWEEN_RUNS
    return bool(
        instance.get_runs_count(dg.RunsFilter(tags=_ANY_REFRESH, statuses=UNFINISHED))
        or instance.get_runs_count(dg.RunsFilter(tags=_ANY_REFRESH, updated_after=cutoff))
    )


def sensors(preset: Preset, steps: dict[str, Step], every_job: list[Any]) -> list[dg.SensorDefinition]:
    """The sensors that continue a refresh, report failures and, if configured, watch the drop folder."""
    found = [_continuation_sensor(steps, every_job), _failure_sensor(preset.automation)]
    if preset.automation.drop_folder is not None:
        found.append(_drop_folder_sensor(preset.automation, Path(preset.automation.drop_folder)))
    return found


def _continuation_sensor(steps: dict[str, Step], every_job: list[Any]) -> dg.SensorDefinition:
    @dg.sensor(
        name="refresh_goes_on",
        jobs=[job for job in every_job if job.name in (REFRESH_SHARDS, REFRESH_TABLES)],
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts what is stale once all runs of a refresh so far have ended.",
    )
    def refresh_goes_on(
        context: dg.SensorEvaluationContext, artifacts: ArtifactStoreResource
    ) -> dg.SensorResult | dg.SkipReason:
        newest = next(iter(context.instance.get_runs(dg.RunsFilter(tags=_ANY_REFRESH), limit=1)), None)
        if newest is None or newest.run_id == context.cursor:
            return dg.SkipReason("no new run of a refresh")
        if context.instance.get_runs_count(dg.RunsFilter(tags=_ANY_REFRESH, statuses=UNFINISHED)):
            return dg.SkipReason("runs of a refresh have not ended")
        tags = {name: newest.tags[name] for name in (REFRESH_TAG, REFRESH_ID_TAG)}
        if _has_failed(context.instance, tags[REFRESH_ID_TAG]):
            return dg.SensorResult(skip_reason="a run of the refresh has failed", cursor=newest.run_id)
        work = next_work(steps, stale(steps, artifacts.get(), refreshed(steps, tags[REFRESH_TAG])))
        if not work:
            return dg.SensorResult(skip_reason="nothing is stale", cursor=newest.run_id)
        return dg.SensorResult([_request(part, tags) for part in work], cursor=newest.run_id)

    return refresh_goes_on


def _has_failed(instance: dg.DagsterInstance, refresh_id: str) -> bool:
    """Whether a run of this refresh failed or was cancelled, and was not re-executed."""
    runs = instance.get_runs(dg.RunsFilter(tags={REFRESH_ID_TAG: refresh_id}))
    reexecuted = {run.parent_run_id for run in runs}
    return any(not run.is_success and run.run_id not in reexecuted for run in runs)


def _request(work: Work, tags: dict[str, str]) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=f"{tags[REFRESH_ID_TAG]} {work}",  # so that a failed run is not repeated in the same refresh
        job_name=REFRESH_TABLES if work.shard is None else REFRESH_SHARDS,
        partition_key=work.partition_key,
        asset_selection=[dg.AssetKey(name) for name in work.assets],
        tags=tags,
    )


def _drop_folder_sensor(settings: AutomationSettings, folder: Path) -> dg.SensorDefinition:
    running = dg.DefaultSensorStatus.RUNNING if settings.running else dg.DefaultSensorStatus.STOPPED

    @dg.sensor(
        name="drop_folder",
        job_name=READ_CATALOG,
        minimum_interval_seconds=30,
        default_status=running,
        description=f"A daily refresh when files in {folder} have changed, and then stayed as they are.",
    )
    def drop_folder(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if not folder.is_dir():
            return dg.SkipReason(f"automation.drop_folder {str(folder)!r} is no folder")
        cursor = json.loads(context.cursor) if context.cursor else {"seen": None, "done": None}
        now = folder_listing(folder)["digest"]
        if now == cursor["done"]:
            return dg.SkipReason("nothing new")
        if now != cursor["seen"]:  # files may still be being copied
            context.update_cursor(json.dumps({**cursor, "seen": now}))
            return dg.SkipReason("files have changed; waiting until they stay as they are")
        if is_under_way(context.instance):
            return dg.SkipReason(UNDER_WAY)
        return dg.SensorResult([refresh_request(DAILY, now)], cursor=json.dumps({"seen": now, "done": now}))

    return drop_folder


def _failure_sensor(settings: AutomationSettings) -> dg.SensorDefinition:
    @dg.run_failure_sensor(
        name="tell_of_failures",
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Logs what failed, and sends it to the preset's webhook.",
    )
    def tell_of_failures(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        partition = f" ({run.tags['dagster/partition']})" if "dagster/partition" in run.tags else ""
        text = f"{run.job_name}{partition} failed: {_failure_message(context)}"
        context.log.error(text)
        if settings.webhook is not None:
            message = {"text": text, "job": run.job_name, "run_id": run.run_id}
            try:
                _post(settings.webhook, message)
            except (OSError, ValueError) as error:
                context.log.error(f"automation.webhook {settings.webhook} was not told: {error}")

    return tell_of_failures


def _failure_message(context: dg.RunFailureSensorContext) -> str:
    """The first line of the first failed step's message, or the run's message if no step failed."""
    for event in context.get_step_failure_events():
        failure = event.step_failure_data
        if failure.user_failure_data is not None and failure.user_failure_data.description:
            return f"{event.step_key}: {failure.user_failure_data.description}"
        if failure.error is not None:
            return f"{event.step_key}: {failure.error.message.strip().splitlines()[0]}"
    return context.failure_event.message or "see its log"


def _post(address: str, message: dict[str, str]) -> None:
    request = urllib.request.Request(
        address, json.dumps(message).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_WEBHOOK_SECONDS):
        pass
