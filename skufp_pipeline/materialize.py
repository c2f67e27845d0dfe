"""Materializes the graph stage by stage through Dagster, in this process, with plain progress lines.

Runs and events land in the instance that `dagster dev` shows. A failed check that blocks stops the run.
"""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from skufp_pipeline.automation import Stage, stages
from skufp_pipeline.definitions import build_defs, graph_steps
from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import Preset

INSTANCE_SETTINGS = Path(__file__).parent / "resources" / "dagster.yaml"
_USER_ERROR = f"{UserError.__module__}.{UserError.__name__}: "  # how Dagster begins its message


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
        results = [_run(definitions, stage, key, instance) for key in keys]
        failed += [name for result in results for name in _failed_checks(result)]
        seconds[stage.name] = time.perf_counter() - started
        say(f"[{number}/{len(plan)}] {stage.name} took {seconds[stage.name]:.1f} s" + _skipped(results))
    return Outcome(seconds, failed)


def instance_home() -> Path:
    """`$DAGSTER_HOME`, or `.dagster_home` here; one without settings gets those of a single machine.

    Raises:
        UserError: it can't be made.
    """
    home = Path(os.environ.get("DAGSTER_HOME") or ".dagster_home").expanduser().resolve()
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not (home / "dagster.yaml").exists():
            shutil.copyfile(INSTANCE_SETTINGS, home / "dagster.yaml")
    except OSError as error:
        raise UserError(f"DAGSTER_HOME {home} can't be used: {error}; set it to a folder of yours") from error
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def _partition_keys(stage: Stage, preset: Preset) -> list[str | None]:
    return [f"shard_{shard:04d}" for shard in range(preset.shards)] if stage.sharded else [None]


def _runs(keys: list[str | None]) -> str:
    return f" ({len(keys)} shards)" if len(keys) > 1 else ""


def _skipped(results: list[dg.ExecuteInProcessResult]) -> str:
    """How many results were there already; nothing where all were computed."""
    events = [event for result in results for event in result.get_asset_materialization_events()]
    unchanged = sum(event.materialization.metadata["skipped_as_unchanged"].value == 1 for event in events)
    return f", skipped {unchanged} of {len(events)} results as unchanged" if unchanged else ""


def _run(
    definitions: dg.Definitions, stage: Stage, partition_key: str | None, instance: dg.DagsterInstance
) -> dg.ExecuteInProcessResult:
    job = definitions.resolve_job_def(stage.name)
    result = job.execute_in_process(
        instance=instance,
        partition_key=partition_key,
        raise_on_error=False,
        run_config={"loggers": {"plain": {}}},
    )
    if not result.success:
        raise UserError(_first_failure(result))
    return result


def _failed_checks(result: dg.ExecuteInProcessResult) -> list[str]:
    return [_check_name(check) for check in result.get_asset_check_evaluations() if not check.passed]


def _check_name(check: dg.AssetCheckEvaluation) -> str:
    return f"{check.asset_key.to_user_string()}:{check.check_name}"


def _first_failure(result: dg.ExecuteInProcessResult) -> str:
    """What the first failed step or blocking check says, in one line."""
    for check in result.get_asset_check_evaluations():
        if check.blocking and not check.passed:
            found = ", ".join(f"{name} {entry.value}" for name, entry in check.metadata.items())
            return f"the check {_check_name(check)} did not pass: {found}"
    for event in result.filter_events(lambda event: event.is_step_failure):
        failure = event.step_failure_data
        if failure.user_failure_data is not None and failure.user_failure_data.description:
            return f"{event.step_key} failed: {failure.user_failure_data.description}"
        if failure.error is not None:
            error = failure.error
            while error.cause is not None and error.cls_name != UserError.__name__:
                error = error.cause
            first = error.message.strip().splitlines()[0]
            return f"{event.step_key} failed: {first.removeprefix(_USER_ERROR)}"
    return "the run failed; see its log in the Dagster UI"
