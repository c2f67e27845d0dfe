"""How long the runs of a materialization take, which of them should start first, and how long is left.

Seconds are those that an earlier materialization recorded; where there is none, the demo has shipped ones.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from skufp_pipeline.presets import Preset
from skufp_pipeline.steps import Step

SHIPPED = Path(__file__).with_name("demo_seconds.json")  # by asset: of a run on one core
_LEAST_KNOWN = 10.0  # seconds of computed runs, before this machine's speed is judged by them


@dataclass(frozen=True)
class Task:
    """A run of some assets of a job, for one shard or none; all shards of `needs` must be complete first."""

    stage: int
    job: str
    partition_key: str | None
    assets: tuple[str, ...]
    needs: frozenset[str]
    priority: int
    last_shard: bool


def run_seconds(
    preset: Preset, instance: dg.DagsterInstance, steps: Mapping[str, Step]
) -> dict[str, float] | None:
    """The seconds of a run by asset, of one shard where it is sharded; None if an asset's are not known."""
    shipped = json.loads(SHIPPED.read_text()) if preset.name == "demo" else {}
    found = {name: _recorded(instance, step) or shipped.get(name) for name, step in steps.items()}
    known = {name: seconds for name, seconds in found.items() if seconds is not None}
    return known if len(known) == len(found) else None


def _recorded(instance: dg.DagsterInstance, step: Step) -> float | None:
    """The mean seconds of the latest runs that computed an asset; None if there are none."""
    count = step.shards or 1
    events = instance.fetch_materializations(dg.AssetKey(step.name), limit=4 * count).records
    metadata = [event.asset_materialization.metadata for event in events if event.asset_materialization]
    computed = [
        float(str(values["step_seconds"].value))
        for values in metadata
        if "step_seconds" in values and values["skipped_as_unchanged"].value == 0
    ]
    return sum(computed[:count]) / len(computed[:count]) if computed else None


class Estimates:
    """What is known of the duration of the runs of one materialization.

    Args:
        tasks: all runs, each after those it depends on.
        seconds: of a run by asset; None if they are not known.
        width: how many runs execute at once.
    """

    def __init__(self, tasks: Sequence[Task], seconds: Mapping[str, float] | None, width: int) -> None:
        self.known, self.width = seconds is not None, width
        self._seconds = {
            task: sum(1.0 if seconds is None else seconds[asset] for asset in task.assets) for task in tasks
        }
        self._until_end = self._paths_of(tasks)
        self._measured = self._expected = 0.0

    def urgency(self, task: Task) -> tuple[int, float]:
        """What runs that are ready are started by: the priority, then the length of the way to the end of the
        graph (Topcuoglu et al., 2002)."""
        return task.priority, self._until_end[task]

    @property
    def computed(self) -> bool:
        """Whether a run has computed anything."""
        return self._expected > 0

    def finished(self, task: Task, seconds: float) -> None:
        """Notes how long a run took that was not skipped as unchanged."""
        self._measured, self._expected = self._measured + seconds, self._expected + self._seconds[task]

    def seconds_left(self, unfinished: Iterable[Task], elapsed: Mapping[Task, float]) -> float | None:
        """Seconds until the end: no less than the longest way, and no less than all work on all workers.

        Args:
            elapsed: seconds since the start of each run that is under way.

        Returns:
            None where the seconds of runs are not known, or nothing has been computed yet.
        """
        tasks = list(unfinished)  # in the order of the plan
        if not self.known or not self.computed:
            return None
        slowness = self._measured / self._expected if self._expected >= _LEAST_KNOWN else 1.0
        gone = {task: min(elapsed.get(task, 0.0) / slowness, self._seconds[task]) for task in tasks}
        work = sum(self._seconds[task] - gone[task] for task in tasks) / self.width
        paths = self._paths_of(tasks)
        longest = max((paths[task] - gone[task] for task in tasks), default=0.0)
        return slowness * max(work, longest)

    def _paths_of(self, tasks: Sequence[Task]) -> dict[Task, float]:
        """Seconds from the start of each run to the end of the graph, if nothing had to wait for a worker."""
        shards: dict[tuple[int, tuple[str, ...]], int] = {}
        for task in tasks:
            shards[task.stage, task.assets] = shards.get((task.stage, task.assets), 0) + 1
        after: dict[str, float] = {}
        paths = {}
        for task in reversed(tasks):
            rounds = -(-shards[task.stage, task.assets] // self.width)  # a shard waits for its siblings
            following = max((after.get(asset, 0.0) for asset in task.assets), default=0.0)
            paths[task] = rounds * self._seconds[task] + following
            for need in task.needs:
                after[need] = max(after.get(need, 0.0), paths[task])
        return paths


def leading_to(asset: str, tasks: Sequence[Task]) -> list[Task]:
    """The tasks that make an asset and what it needs; none if no task makes it."""
    wanted, found = {asset}, []
    for task in reversed(tasks):
        if not wanted.isdisjoint(task.assets):
            wanted |= task.needs
            found.append(task)
    return found[::-1]


def in_words(seconds: float) -> str:
    """A duration as it is told, such as `about 3 min`."""
    rounded = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{10 * round(seconds / 10)} s"
    return f"about {rounded}"
