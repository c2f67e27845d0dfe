"""Materializes the graph stage by stage through Dagster, in this process, with plain progress lines.

Runs and events land in the instance that `dagster dev` shows. A failed check that blocks stops the run.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import dagster as dg

from skufp_pipeline.automation import Stage, stages
from skufp_pipeline.definitions import build_defs, graph_steps
from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import Preset


@dataclass(frozen=True)
class Outcome:
    """What a materialization of the whole graph did.

    Attributes:
        seconds: wall time by stage.
        failed_checks: `asset:check` of checks that ran and did not pass.
    """

    seconds: dict[str, float]
    failed_checks: list[str]


def materialize_graph(preset: Preset, instance: dg.DagsterInstance, say: Callable[[str], None]) -> Outcome:
    """Runs every stage: sharded ones one shard a run, as a backfill would.

    Raises:
        UserError: an asset failed; the message is its own, where it was a user's mistake.
    """
    definitions = build_defs(preset)
    seconds: dict[str, float] = {}
    failed: list[str] = []
    plan = stages(graph_steps(preset))
    for number, stage in enumerate(plan, start=1):
        started = time.perf_counter()
        keys = _partition_keys(stage, preset)
        say(f"[{number}/{len(plan)}] {stage.name}: {', '.join(stage.assets)}" + _runs(keys))
        for key in keys:
            failed += _run(definitions, stage, key, instance)
        seconds[stage.name] = time.perf_counter() - started
        say(f"[{number}/{len(plan)}] {stage.name} took {seconds[stage.name]:.1f} s")
    return Outcome(seconds, failed)


def _partition_keys(stage: Stage, preset: Preset) -> list[str | None]:
    return [f"shard_{shard:04d}" for shard in range(preset.shards)] if stage.sharded else [None]


def _runs(keys: list[str | None]) -> str:
    return f" ({len(keys)} shards)" if len(keys) > 1 else ""


def _run(
    definitions: dg.Definitions, stage: Stage, partition_key: str | None, instance: dg.DagsterInstance
) -> list[str]:
    job = definitions.resolve_job_def(stage.name)
    result = job.execute_in_process(
        instance=instance,
        partition_key=partition_key,
        raise_on_error=False,
        run_config={"loggers": {"plain": {}}},
    )
    if not result.success:
        raise UserError(_first_failure(result))
    evaluations = result.get_asset_check_evaluations()
    return [f"{e.asset_key.to_user_string()}:{e.check_name}" for e in evaluations if not e.passed]


def _first_failure(result: dg.ExecuteInProcessResult) -> str:
    """The innermost message of the first failed step."""
    for event in result.filter_events(lambda event: event.is_step_failure):
        error = event.step_failure_data.error
        while error is not None and error.cause is not None:
            error = error.cause
        if error is not None:
            message = error.message.strip().removeprefix("skufp_pipeline.errors.UserError: ")
            return f"{event.step_key} failed: {message}"
    return "the run failed; see its log in the Dagster UI"
