"""Materializes the graph stage by stage through Dagster, with plain progress lines.

Runs and events land in the instance that `dagster dev` shows. A failed check that blocks stops the run. On an
instance on disk, and where the preset's executor is `multiprocess`, shards and trainings that need not wait
for each other are processes of their own, `compute.max_concurrent` at once; all else runs in this process.
"""

import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from skufp_pipeline.automation import (
    DAILY,
    READ_CATALOG,
    REFRESH_SHARDS,
    REFRESH_TABLES,
    Stage,
    refreshed,
    stages,
)
from skufp_pipeline.datasets.difference import CHANGED, NEW, REMOVED
from skufp_pipeline.definitions import build_defs, graph_steps
from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import Preset
from skufp_pipeline.staleness import next_work, stale
from skufp_pipeline.store import ArtifactStore

INSTANCE_SETTINGS = Path(__file__).parent / "resources" / "dagster.yaml"
Result = dg.ExecuteInProcessResult | dg.JobExecutionResult
_USER_ERROR = f"{UserError.__module__}.{UserError.__name__}: "  # how Dagster begins its message


@dataclass(frozen=True)
class Told:
    """What is left of a run: its checks that did not pass, its results, and how many were there already."""

    failed_checks: list[str]
    results: int
    unchanged: int


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
    apart = not instance.is_ephemeral and preset.compute.executor == "multiprocess"
    width = preset.compute.max_concurrent if apart else 1
    with _shard_runner(preset, instance, definitions, width) as run_shards:
        for number, stage in enumerate(plan, start=1):
            started = time.perf_counter()
            keys = _partition_keys(stage, preset)
            say(f"[{number}/{len(plan)}] {stage.name}: {', '.join(stage.assets)}" + _runs(keys))
            if stage.sharded:
                told = run_shards(stage.name, keys)
            elif stage.together and width > 1:
                told = [_told(_run_together(preset, stage.name, instance))]
            else:
                told = [_told(_run_job(definitions, stage.name, None, instance))]
            failed += [name for run in told for name in run.failed_checks]
            seconds[stage.name] = time.perf_counter() - started
            say(f"[{number}/{len(plan)}] {stage.name} took {seconds[stage.name]:.1f} s" + _skipped(told))
    return Outcome(seconds, failed)


@contextmanager
def _shard_runner(
    preset: Preset, instance: dg.DagsterInstance, definitions: dg.Definitions, width: int
) -> Iterator[Callable[[str, list[str | None]], list[Told]]]:
    """A function that runs a job once a shard: one after the other, or in `width` processes."""
    if width == 1:
        yield lambda name, keys: [_told(_run_job(definitions, name, key, instance)) for key in keys]
        return
    workers = ProcessPoolExecutor(
        width,
        multiprocessing.get_context("spawn"),
        _begin_worker,
        (preset.model_dump_json(), instance.get_ref()),
    )
    try:
        yield lambda name, keys: list(workers.map(_run_in_worker, [name] * len(keys), keys))
    finally:
        workers.shutdown(cancel_futures=True)


_worker: tuple[dg.Definitions, dg.DagsterInstance] | None = None


def _begin_worker(preset: str, instance: Any) -> None:
    global _worker
    definitions = build_defs(Preset.model_validate_json(preset))
    _worker = definitions, dg.DagsterInstance.from_ref(instance)


def _run_in_worker(name: str, partition_key: str | None) -> Told:
    assert _worker is not None
    definitions, instance = _worker
    return _told(_run_job(definitions, name, partition_key, instance))


def refresh_graph(
    preset: Preset, instance: dg.DagsterInstance, say: Callable[[str], None], kind: str = DAILY
) -> Outcome:
    """Reads the catalogue and makes again what is stale: what the schedules do, without a daemon.

    Args:
        kind: `daily` trains nothing; `weekly` makes everything again that the catalogue has outdated.

    Raises:
        UserError: an asset failed.
    """
    definitions, steps = build_defs(preset), graph_steps(preset)
    store, among = ArtifactStore(preset.data_root), refreshed(steps, kind)
    started = time.perf_counter()
    results = [_run_job(definitions, READ_CATALOG, None, instance)]
    say(_told_changes(results[0]))
    made: set[str] = set()
    while work := next_work(steps, stale(steps, store, among)):
        for part in work:
            if str(part) in made:
                raise UserError(f"{part}: made, and still not of what is there now ({part.reasons})")
            made.add(str(part))
            say(f"{part} ({next(iter(part.reasons.values()))})")
            job = REFRESH_TABLES if part.shard is None else REFRESH_SHARDS
            results.append(_run_job(definitions, job, part.partition_key, instance, part.assets))
    failed = [name for result in results for name in _failed_checks(result)]
    return Outcome({f"{kind} refresh": time.perf_counter() - started}, failed)


def _told_changes(result: dg.ExecuteInProcessResult) -> str:
    for event in result.get_asset_materialization_events():
        told = {name: entry.value for name, entry in event.materialization.metadata.items()}
        if "shards_unchanged" in told:
            counts = ", ".join(f"{told[f'skus_{change}']} {change}" for change in (NEW, CHANGED, REMOVED))
            return (
                f"SKUs: {counts}; shards: {told['shards_changed']} changed, "
                f"{told['shards_unchanged']} unchanged"
            )
    return "the catalogue was read"


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


def _told(result: Result) -> Told:
    events = result.get_asset_materialization_events()
    unchanged = sum(event.materialization.metadata["skipped_as_unchanged"].value == 1 for event in events)
    return Told(_failed_checks(result), len(events), unchanged)


def _skipped(runs: Sequence[Told]) -> str:
    """How many results were there already; nothing where all were computed."""
    unchanged, results = sum(run.unchanged for run in runs), sum(run.results for run in runs)
    return f", skipped {unchanged} of {results} results as unchanged" if unchanged else ""


def _run_job(
    definitions: dg.Definitions,
    name: str,
    partition_key: str | None,
    instance: dg.DagsterInstance,
    assets: Sequence[str] | None = None,
) -> dg.ExecuteInProcessResult:
    """Runs a job, or some of its assets with their checks."""
    result = definitions.resolve_job_def(name).execute_in_process(
        instance=instance,
        partition_key=partition_key,
        asset_selection=None if assets is None else [dg.AssetKey(asset) for asset in assets],
        raise_on_error=False,
        run_config={"loggers": {"plain": {}}},
    )
    if not result.success:
        raise UserError(_first_failure(result))
    return result


def _run_together(preset: Preset, name: str, instance: dg.DagsterInstance) -> Result:
    """Runs the steps of a job in processes of their own, `compute.max_concurrent` at once."""
    of = {"preset": preset.model_dump_json(), "name": name}
    job = dg.build_reconstructable_job(__name__, job_of.__name__, reconstructable_kwargs=of)
    with dg.execute_job(job, instance, run_config={"loggers": {"plain": {}}}) as result:
        if not result.success:
            raise UserError(_first_failure(result))
        return result


def job_of(preset: str, name: str) -> dg.JobDefinition:
    """A job of a preset (JSON), in the process of a step."""
    return build_defs(Preset.model_validate_json(preset)).resolve_job_def(name)


def _failed_checks(result: Result) -> list[str]:
    return [_check_name(check) for check in result.get_asset_check_evaluations() if not check.passed]


def _check_name(check: dg.AssetCheckEvaluation) -> str:
    return f"{check.asset_key.to_user_string()}:{check.check_name}"


def _first_failure(result: Result) -> str:
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
