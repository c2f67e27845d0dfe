"""Materializes the graph through Dagster, run by run, with plain progress lines.

Runs and events are stored in the instance that `dagster dev` shows. A failed blocking check stops the rest.
Independent runs execute in parallel in persistent worker processes if `ComputeSettings.side_by_side` is true
and the instance is not ephemeral; otherwise all runs execute one after the other in this process.
"""

import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from skufp_pipeline.artifacts.places import FIRST_INDEX
from skufp_pipeline.compute import exit_with_parent
from skufp_pipeline.datasets.difference import CHANGED, NEW, REMOVED
from skufp_pipeline.definitions import build_defs, graph_steps
from skufp_pipeline.errors import UserError
from skufp_pipeline.orchestration.estimates import Estimates, Task, in_words, leading_to, run_seconds
from skufp_pipeline.orchestration.interruption import COMMAND_TAG, command_id, end_process, watched
from skufp_pipeline.orchestration.schedules import (
    DAILY,
    REFRESH_SHARDS,
    REFRESH_TABLES,
    Stage,
    refreshed,
    stages,
)
from skufp_pipeline.orchestration.staleness import next_work, stale
from skufp_pipeline.presets import Preset
from skufp_pipeline.steps import READ_CATALOG, Step
from skufp_pipeline.store import ArtifactStore, shard_name

INSTANCE_SETTINGS = Path(__file__).parent.parent / "resources" / "dagster.yaml"
_SAY_EVERY = 60.0  # seconds between two lines on the time left, while nothing begins or ends
_USER_ERROR = f"{UserError.__module__}.{UserError.__name__}: "  # Dagster's prefix of the message


@dataclass(frozen=True)
class Outcome:
    """Result of a materialization or refresh.

    Attributes:
        seconds: wall time by stage, from the start of its first run to the end of its last; may overlap.
        total: total wall time in seconds.
        failed_checks: `asset:check` of the checks that did not pass.
    """

    seconds: dict[str, float]
    total: float
    failed_checks: list[str]


@dataclass(frozen=True)
class _RunSummary:
    """Summary of a run: its failed checks, its number of results, and how many of them were unchanged."""

    failed_checks: list[str]
    results: int
    unchanged: int


def materialize_graph(preset: Preset, instance: dg.DagsterInstance, say: Callable[[str], None]) -> Outcome:
    """Runs every stage; sharded stages take one run per shard, as in a backfill.

    Raises UserError if an asset or a blocking check fails, with the message of the first failure.
    """
    steps = graph_steps(preset)
    plan = stages(steps)
    tasks = _tasks(plan, steps, preset)
    side_by_side = preset.compute.side_by_side and not instance.is_ephemeral
    width = preset.compute.max_concurrent if side_by_side else 1
    progress = _Progress(plan, tasks, Estimates(tasks, run_seconds(preset, instance, steps), width), say)
    if side_by_side:
        _run_side_by_side(preset, instance, tasks, progress)
    else:
        definitions = build_defs(preset)
        for task in tasks:
            progress.begin(task)
            progress.end(task, _run_task(definitions, instance, task))
    return progress.outcome()


def _tasks(plan: Sequence[Stage], steps: dict[str, Step], preset: Preset) -> list[Task]:
    """The runs of all stages, each after those it depends on."""
    tasks = []
    for number, stage in enumerate(plan):
        keys = _partition_keys(stage, preset)
        for key in keys:
            for assets in stage.runs:
                needs = frozenset(dep for asset in assets for dep in steps[asset].upstream) - {*assets}
                priority = max(steps[asset].priority for asset in assets)
                last = stage.sharded and key == keys[-1]
                tasks.append(Task(number, stage.name, key, assets, needs, priority, last))
    return tasks


class _Progress:
    """Tracks finished and unfinished runs and prints progress by stage."""

    def __init__(
        self, plan: Sequence[Stage], tasks: Sequence[Task], estimates: Estimates, say: Callable[[str], None]
    ) -> None:
        self.say = say
        self.plan = plan
        self.estimates = estimates
        self.began = time.perf_counter()
        self._unfinished = list(tasks)
        self._starts: dict[int, float] = {}
        self._running: dict[Task, float] = {}
        self._seconds: dict[int, float] = {}
        self._summaries: list[list[_RunSummary]] = [[] for _ in plan]

    def ready(self, waiting: Sequence[Task]) -> list[Task]:
        """The waiting tasks whose needs are complete, the most urgent first.

        A stage's last shard also waits for all its other shards, so that the last check evaluation belongs to
        the last materialization and the UI shows it.
        """
        missing = {asset for task in self._unfinished for asset in task.assets}
        left = Counter((task.stage, task.assets) for task in self._unfinished)
        ready = [
            task
            for task in waiting
            if task.needs.isdisjoint(missing) and not (task.last_shard and left[task.stage, task.assets] > 1)
        ]
        return sorted(ready, key=self.estimates.urgency, reverse=True)

    def begin(self, task: Task) -> None:
        self._running[task] = time.perf_counter()
        if task.stage not in self._starts:
            self._starts[task.stage] = time.perf_counter()
            stage, runs = self.plan[task.stage], self._left(task.stage)
            shards = f" ({runs} shards)" if stage.sharded and runs > 1 else ""
            self.say(f"{self._name(task.stage)}: {', '.join(stage.assets)}{shards}{self.left()}")

    def end(self, task: Task, summary: _RunSummary) -> None:
        self._summaries[task.stage].append(summary)
        self._unfinished.remove(task)
        took = time.perf_counter() - self._running.pop(task)
        if summary.unchanged < summary.results:
            self.estimates.finished(task, took)
        if self._left(task.stage) == 0:
            seconds = self._seconds[task.stage] = time.perf_counter() - self._starts[task.stage]
            skipped = _skipped(self._summaries[task.stage])
            self.say(f"{self._name(task.stage)} took {seconds:.1f} s{skipped}{self.left()}")

    def left(self) -> str:
        """Text with the time until the end, and until a first index answers; empty if nothing is known of it,
        or nothing is left."""
        now = time.perf_counter()
        elapsed = {task: now - began for task, began in self._running.items()}
        seconds = self.estimates.seconds_left(self._unfinished, elapsed)
        if not self._unfinished or seconds is None:
            return ""
        first = leading_to(FIRST_INDEX.name, self._unfinished)
        until = self.estimates.seconds_left(first, elapsed) if first else None
        answers = "" if until is None else f", a first index answers in {in_words(until)}"
        return f"; {in_words(seconds)} left{answers}"

    def outcome(self) -> Outcome:
        failed = [name for stage in self._summaries for run in stage for name in run.failed_checks]
        seconds = {self.plan[number].name: self._seconds[number] for number in sorted(self._seconds)}
        return Outcome(seconds, time.perf_counter() - self.began, failed)

    def _left(self, stage: int) -> int:
        return sum(task.stage == stage for task in self._unfinished)

    def _name(self, stage: int) -> str:
        return f"[{stage + 1}/{len(self.plan)}] {self.plan[stage].name}"


def _run_side_by_side(
    preset: Preset, instance: dg.DagsterInstance, tasks: Sequence[Task], progress: _Progress
) -> None:
    width, waiting = preset.compute.max_concurrent, list(tasks)
    running: dict[Future[_RunSummary], Task] = {}
    context = multiprocessing.get_context("spawn")
    worker_arguments = (preset.model_dump_json(), instance.get_ref())
    compiler = context.Process(target=_compile_kernels, daemon=True)
    with ProcessPoolExecutor(width, context, _start_worker, worker_arguments) as workers:
        while waiting or running:
            for task in progress.ready(waiting)[: width - len(running)]:
                waiting.remove(task)
                progress.begin(task)
                running[workers.submit(_run_in_worker, task)] = task
            done = wait(running, _SAY_EVERY, return_when=FIRST_COMPLETED).done
            if not done and (left := progress.left()):
                progress.say(left.removeprefix("; "))
            for future in done:
                try:
                    progress.end(running.pop(future), future.result())
                    if progress.estimates.computed and compiler.pid is None:
                        compiler.start()
                except BrokenProcessPool as error:
                    raise UserError(
                        "a worker was killed (is there enough memory?); run it again: it goes on from here"
                    ) from error
                except UserError as error:
                    if running:
                        progress.say(f"{error}; waiting for the runs that are under way")
                    raise


_worker: tuple[dg.Definitions, dg.DagsterInstance] | None = None
_lifetime = ExitStack()


def _start_worker(preset: str, instance: Any) -> None:
    global _worker
    exit_with_parent()
    _lifetime.enter_context(watched(end_process))
    definitions = build_defs(Preset.model_validate_json(preset))
    _worker = definitions, dg.DagsterInstance.from_ref(instance)


def _run_in_worker(task: Task) -> _RunSummary:
    assert _worker is not None
    return _run_task(*_worker, task)


def _compile_kernels() -> None:
    """Compiles the search's kernels, or finds them compiled, before a step needs them, beside the workers."""
    from skufp_pipeline.search.warm import compile_kernels

    exit_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command that it belongs to tells of an interrupt
    if hasattr(os, "nice"):
        os.nice(10)
    compile_kernels()


def _run_task(definitions: dg.Definitions, instance: dg.DagsterInstance, task: Task) -> _RunSummary:
    return _summarize(_run_job(definitions, task.job, task.partition_key, instance, task.assets))


def refresh_graph(
    preset: Preset, instance: dg.DagsterInstance, say: Callable[[str], None], kind: str = DAILY
) -> Outcome:
    """Reads the catalogue and rebuilds what is stale, like the schedules but without a daemon.

    `daily` trains nothing; `weekly` rebuilds everything that is stale. Raises UserError if a run fails.
    """
    definitions, steps = build_defs(preset), graph_steps(preset)
    store, among = ArtifactStore(preset.data_root), refreshed(steps, kind)
    started = time.perf_counter()
    results = [_run_job(definitions, READ_CATALOG, None, instance)]
    say(_describe_changes(results[0]))
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
    seconds = time.perf_counter() - started
    return Outcome({f"{kind} refresh": seconds}, seconds, failed)


def _describe_changes(result: dg.ExecuteInProcessResult) -> str:
    for event in result.get_asset_materialization_events():
        values = {name: entry.value for name, entry in event.materialization.metadata.items()}
        if "shards_unchanged" in values:
            counts = ", ".join(f"{values[f'skus_{change}']} {change}" for change in (NEW, CHANGED, REMOVED))
            return (
                f"SKUs: {counts}; shards: {values['shards_changed']} changed, "
                f"{values['shards_unchanged']} unchanged"
            )
    return "the catalogue was read"


def instance_home(preset: Preset) -> Path:
    """Creates `$DAGSTER_HOME`, with single-machine settings if it has none.

    By default each preset has its own, `./.dagster_home/NAME`: an instance belongs to one data root.

    Raises UserError if that fails.
    """
    home = Path(os.environ.get("DAGSTER_HOME") or f".dagster_home/{preset.name}").expanduser().resolve()
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not (home / "dagster.yaml").exists():
            shutil.copyfile(INSTANCE_SETTINGS, home / "dagster.yaml")
    except OSError as error:
        raise UserError(f"DAGSTER_HOME {home} can't be used: {error}; set it to a folder of yours") from error
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def _partition_keys(stage: Stage, preset: Preset) -> list[str | None]:
    return [shard_name(shard) for shard in range(preset.shards)] if stage.sharded else [None]


def _summarize(result: dg.ExecuteInProcessResult) -> _RunSummary:
    events = result.get_asset_materialization_events()
    unchanged = sum(event.materialization.metadata["skipped_as_unchanged"].value == 1 for event in events)
    return _RunSummary(_failed_checks(result), len(events), unchanged)


def _skipped(runs: Sequence[_RunSummary]) -> str:
    """Text with the number of unchanged results; empty if all were computed."""
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
        tags={COMMAND_TAG: command_id()},
    )
    if not result.success:
        raise UserError(_first_failure(result))
    return result


def _failed_checks(result: dg.ExecuteInProcessResult) -> list[str]:
    return [_check_name(check) for check in result.get_asset_check_evaluations() if not check.passed]


def _check_name(check: dg.AssetCheckEvaluation) -> str:
    return f"{check.asset_key.to_user_string()}:{check.check_name}"


def _first_failure(result: dg.ExecuteInProcessResult) -> str:
    """The message of the first failed blocking check or else step, in one line."""
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
