"""Runs start by their way to the end of the graph; the time left is told from what they took."""

import json
from pathlib import Path

import dagster as dg
import pytest

from skufp_pipeline.definitions import graph_steps
from skufp_pipeline.orchestration import materialize
from skufp_pipeline.orchestration.estimates import SHIPPED, Estimates, Task, in_words, leading_to, run_seconds
from skufp_pipeline.orchestration.schedules import stages
from skufp_pipeline.presets import load_preset


def task(stage: int, asset: str, *needs: str, shard: str | None = None, priority: int = 0) -> Task:
    return Task(stage, f"stage {stage}", shard, (asset,), frozenset(needs), priority, last_shard=False)


READ, SHORT, LONG = task(0, "read"), task(1, "short", "read"), task(1, "long", "read")
SHARDS = [task(2, "embed", "long", shard=name) for name in ("shard_0000", "shard_0001", "shard_0002")]
REPORT = task(3, "report", "embed", "short")
PLAN = [READ, SHORT, LONG, *SHARDS, REPORT]
SECONDS = {"read": 10.0, "short": 20.0, "long": 20.0, "embed": 5.0, "report": 30.0}


def test_of_two_ready_runs_the_one_with_the_longer_way_to_the_end_is_more_urgent() -> None:
    found = Estimates(PLAN, SECONDS, width=2)
    # Three shards take two rounds of two workers: 20 + 2 * 5 + 30 against 20 + 30.
    assert [found.urgency(each)[1] for each in (LONG, SHORT, REPORT)] == [60, 50, 30]
    assert found.urgency(SHARDS[0]) == found.urgency(SHARDS[2]) == (0, 40)


def test_a_priority_comes_before_any_length() -> None:
    urgent = task(1, "short", "read", priority=1)
    found = Estimates([READ, urgent, LONG, *SHARDS, REPORT], SECONDS, width=2)
    assert max((urgent, LONG), key=found.urgency) is urgent


def test_without_known_seconds_runs_are_ordered_by_how_many_follow_and_nothing_is_told() -> None:
    found = Estimates(PLAN, None, width=2)
    assert found.urgency(LONG) > found.urgency(SHORT)
    found.finished(READ, 10.0)
    assert found.seconds_left(PLAN[1:], {}) is None


def test_what_is_left_is_the_longest_way_or_the_work_on_all_workers() -> None:
    found = Estimates(PLAN, SECONDS, width=2)
    assert found.seconds_left(PLAN, {}) is None  # nothing has been computed: all may be unchanged
    found.finished(READ, 10.0)
    assert found.seconds_left(PLAN[1:], {}) == 60
    assert found.seconds_left(PLAN[1:], {LONG: 15.0}) == 50  # the other way is now longer
    more = [task(4, f"more {n}") for n in range(6)]
    busy = Estimates([*PLAN, *more], SECONDS | {each.assets[0]: 20.0 for each in more}, width=2)
    busy.finished(READ, 10.0)
    assert busy.seconds_left([*PLAN[1:], *more], {}) == (20 + 20 + 15 + 30 + 120) / 2


def test_a_slower_machine_is_told_by_the_runs_that_it_has_finished() -> None:
    found = Estimates(PLAN, SECONDS, width=2)
    found.finished(READ, 25.0)
    assert found.seconds_left([REPORT], {REPORT: 25.0}) == pytest.approx(2.5 * 30 - 25)


def test_only_what_an_asset_needs_leads_to_it() -> None:
    assert leading_to("embed", PLAN) == [READ, LONG, *SHARDS]
    assert leading_to("nothing", PLAN) == []


@pytest.mark.parametrize(("seconds", "words"), [(4, "about 0 s"), (47, "about 50 s"), (200, "about 3 min")])
def test_a_duration_is_told_roundly(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_the_shipped_seconds_are_of_the_demos_assets() -> None:
    preset = load_preset("demo")
    steps = graph_steps(preset)
    assert set(json.loads(SHIPPED.read_text())) == set(steps)
    with dg.DagsterInstance.ephemeral() as instance:
        assert run_seconds(preset, instance, steps) == json.loads(SHIPPED.read_text())
        assert run_seconds(load_preset("ci"), instance, graph_steps(load_preset("ci"))) is None


def test_recorded_seconds_come_first_and_unchanged_results_tell_none(tmp_path: Path) -> None:
    preset = load_preset("demo")
    steps = {name: graph_steps(preset)[name] for name in ("annotations", "clip_embeddings")}

    def record(asset: str, seconds: float, unchanged: int, shard: str | None = None) -> None:
        told = {"step_seconds": seconds, "skipped_as_unchanged": unchanged}
        instance.report_runless_asset_event(dg.AssetMaterialization(asset, metadata=told, partition=shard))

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        record("annotations", 8.0, 0)
        record("annotations", 0.1, 1)
        for shard, seconds in (("shard_0000", 4.0), ("shard_0001", 6.0)):
            record("clip_embeddings", seconds, 0, shard)
        assert run_seconds(preset, instance, steps) == {"annotations": 8.0, "clip_embeddings": 5.0}


@pytest.mark.parametrize("name", ["ci", "demo", "df2"])
def test_every_run_becomes_ready_and_the_last_shard_of_a_group_comes_last(name: str) -> None:
    steps = graph_steps(load_preset(name))
    plan = stages(steps)
    tasks = materialize._tasks(plan, steps, load_preset(name))
    lines: list[str] = []
    progress = materialize._Progress(plan, tasks, Estimates(tasks, None, 2), lines.append)
    waiting, made = list(tasks), []
    while waiting:
        first = progress.ready(waiting)[0]
        waiting.remove(first)
        progress.begin(first)
        progress.end(first, materialize._RunSummary([], 1, 0))
        made.append(first)
    assert sum(" took " in line for line in lines) == len(plan)
    for last in (task for task in made if task.last_shard):
        siblings = [task for task in made if (task.stage, task.assets) == (last.stage, last.assets)]
        assert siblings[-1] is last
