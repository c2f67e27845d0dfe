"""Steps: the single definition from which an asset's Dagster declaration, store recipe and stage follow."""

import hashlib
import inspect
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import dagster as dg

from skufp_pipeline.artifacts.inputs import Inputs
from skufp_pipeline.artifacts.stored import OFF, R, Stored, StoredVersions
from skufp_pipeline.compute import Needs, declare, freed_memory_kept, peak_memory_mib
from skufp_pipeline.errors import TooLittleError, UserError
from skufp_pipeline.orchestration.interruption import interruptible_step
from skufp_pipeline.orchestration.ownership import claim_instance
from skufp_pipeline.presets import Preset
from skufp_pipeline.progress import Progress
from skufp_pipeline.provenance import code_digest, library_versions
from skufp_pipeline.resources.models import ModelProvider
from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.show import artifact_metadata, progress
from skufp_pipeline.store import ArtifactStore, Recipe, shard_name

OWNERS = ["team:skufp"]
READ_CATALOG = "read_catalog"  # the stage that reads the catalogue from its source
RETRY = dg.RetryPolicy(max_retries=1, delay=5, backoff=dg.Backoff.EXPONENTIAL)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One asset of the graph.

    Attributes:
        stored: the type of the result and its place in the store.
        make: computes the result; its docstring is the asset's description.
        code: the science modules that it calls; their imports are part of the recipe too.
        config: the part of the preset that affects the result, JSON-able.
        deps: the stored inputs.
        stage: name of its stage; a stage has only sharded or only unsharded steps.
        apart: slow; `skufp materialize` gives it a run of its own within its stage.
        weekly: only the weekly refresh rebuilds it (as all trained steps), as new products do not need it.
        priority: of steps that are ready at once, those with the highest priority start first.
        fresh_hours: hours until the result is overdue; None: never.
        num_shards: SKU shards of the graph.
    """

    stored: Stored[Any]
    make: Callable[["Run"], dg.MaterializeResult]
    kinds: set[str]
    code: tuple[str, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    needs: Needs = field(default_factory=Needs)
    deps: tuple[Stored[Any], ...] = ()
    check_specs: tuple[dg.AssetCheckSpec, ...] = ()
    stage: str
    apart: bool = False
    weekly: bool = False
    priority: int = 0
    fresh_hours: float | None = None
    group: str = ""
    num_shards: int = 1

    @property
    def name(self) -> str:
        return self.stored.name

    @property
    def trained(self) -> bool:
        """Whether the result is trained on the whole catalogue."""
        return self.stored.trained

    @property
    def shards(self) -> int | None:
        """Number of shards; None if the step is not sharded."""
        return self.num_shards if self.stored.sharded else None

    @property
    def upstream(self) -> tuple[str, ...]:
        """Names of the upstream assets."""
        return tuple(dep.name for dep in self.deps)

    @property
    def is_daily(self) -> bool:
        """Whether the daily refresh rebuilds it."""
        return not (self.weekly or self.trained)

    @property
    def code_digest(self) -> str:
        return code_digest(self.code)

    @property
    def libraries(self) -> dict[str, str]:
        """Versions of the `LIBRARIES` that its code uses."""
        return library_versions(self.code)

    @property
    def code_version(self) -> str:
        """Hash of code, libraries, configuration and number of shards, shown by Dagster."""
        text = json.dumps([dict(self.config), self.libraries, self.shards], sort_keys=True)
        return hashlib.sha256((text + self.code_digest).encode()).hexdigest()[:12]

    def recipe(self, inputs: Mapping[str, str]) -> Recipe:
        """The recipe for a result made from `inputs` (name to digest)."""
        return Recipe(
            code_version=self.code_digest,
            libraries=self.libraries,
            config=dict(self.config),
            inputs=dict(inputs),
        )


@dataclass(frozen=True)
class Group:
    """Steps, assets and checks of one part of the graph; stages, jobs and refreshes follow from the steps."""

    steps: tuple[Step, ...]
    assets: tuple[dg.AssetsDefinition, ...]
    checks: tuple[dg.AssetChecksDefinition, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        preset: Preset,
        steps: Sequence[Step],
        checks: Callable[[Sequence[Step]], Sequence[dg.AssetChecksDefinition]] = lambda steps: (),
    ) -> "Group":
        """Builds the group of these steps; `checks` returns the checks of whole results."""
        mine = tuple(replace(step, group=name, num_shards=preset.shards) for step in steps)
        return cls(mine, tuple(asset(step, preset) for step in mine), tuple(checks(mine)))


class Run:
    """One execution of a step; the inputs that it reads become part of the result's recipe.

    `shard` is the current SKU shard, or None if the step is not sharded.
    """

    def __init__(
        self,
        step: Step,
        preset: Preset,
        context: dg.AssetExecutionContext,
        store: ArtifactStore,
        models: ModelProvider,
    ) -> None:
        self.step, self.preset, self.context, self.store, self.models = step, preset, context, store, models
        self.shard = None if step.shards is None else shard_number(context.partition_key)
        self.inputs = Inputs(store, preset.shards, self.shard)
        self.read, self.read_all = self.inputs.read, self.inputs.read_all

    @property
    def log(self) -> Callable[[str], None]:
        return self.context.log.info

    def warn(self, warnings: Sequence[str]) -> dict[str, Any]:
        """Logs each sentence as a warning; returns them as metadata, empty if there are none."""
        for line in warnings:
            self.context.log.warning(line)
        return (
            {"warnings": dg.MetadataValue.md("\n".join(f"- {line}" for line in warnings))} if warnings else {}
        )

    @property
    def scratch(self) -> Path:
        """A folder that survives a killed run of the same recipe."""
        return self.store.scratch(self.key, self.recipe)

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe with the inputs read so far; no input can be read afterwards."""
        return self.step.recipe(self.inputs.digests())

    @property
    def key(self) -> str:
        stored = self.step.stored
        if isinstance(stored, StoredVersions):
            return stored.version_key(self.recipe.digest)
        return stored.key_in(self.store, self.shard)

    def progress(self, what: str) -> Progress:
        """A callback that reports the progress (done, total) of this step and shard."""
        return progress(self.context.log.info, what if self.shard is None else f"{what}, shard {self.shard}")

    def produce(self, stored: Stored[R], build: Callable[[Path], Mapping[str, Any]]) -> R:
        """The step's result: the stored one if its recipe is the same, else what `build` writes to a folder.

        Raises UserError if the inputs do not belong together or the result can't be written.
        """
        if stored is not self.step.stored:
            raise ValueError(f"{self.step.name} makes {self.step.name}, not {stored.name}")
        return stored.open(self.store.produce(self.key, self.recipe, build, stored.parts), self.shard)

    def produce_or_off(
        self,
        stored: Stored[R],
        build: Callable[[Path], Mapping[str, Any]],
        empty: Callable[[Path], object] = lambda directory: None,
    ) -> R:
        """The same for an optional stage: where `build` raises `TooLittleError`, the stage is switched off.

        `empty` then writes what readers of the result expect, and the summary says why (`Reader.off`).
        """

        def build_or_off(directory: Path) -> Mapping[str, Any]:
            try:
                return build(directory)
            except TooLittleError as reason:
                for path in directory.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                empty(directory)
                self.log(f"{self.step.name} is switched off: {reason}")
                return {OFF: str(reason)}

        return self.produce(stored, build_or_off)

    def done(
        self, made: Any, metadata: Mapping[str, Any], *checks: dg.AssetCheckResult
    ) -> dg.MaterializeResult:
        """The result for Dagster: its data version is the content digest, `metadata` is shown in the UI."""
        return dg.MaterializeResult(
            metadata={**artifact_metadata(made.artifact), **metadata},
            data_version=dg.DataVersion(made.digest),
            check_results=list(checks) or None,
        )


def asset(step: Step, preset: Preset) -> dg.AssetsDefinition:
    """The asset of a step; neither a UserError, which becomes a Failure, nor an interrupt is retried."""

    def execute(
        context: dg.AssetExecutionContext, artifacts: ArtifactStoreResource, models: ModelProvider
    ) -> dg.MaterializeResult:
        started, worked = time.perf_counter(), _processor_seconds()
        try:
            claim_instance(context.instance, preset)
            with interruptible_step(context.run, context.instance), _threads_of(step), freed_memory_kept():
                made = step.make(Run(step, preset, context, artifacts.get(), models))
        except UserError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        cost = {
            "step_seconds": round(time.perf_counter() - started, 2),
            "processor_seconds": round(_processor_seconds() - worked, 2),
            "process_peak_mib": peak_memory_mib(),
        }
        return made._replace(metadata={**(made.metadata or {}), **cost})

    return dg.asset(**asset_arguments(step))(execute)


def asset_arguments(step: Step) -> dict[str, Any]:
    """Keyword arguments of `dg.asset`."""
    hours = step.fresh_hours
    return {
        "name": step.name,
        "group_name": step.group,
        "kinds": step.kinds,
        "owners": OWNERS,
        "description": inspect.getdoc(step.make),
        "code_version": step.code_version,
        "deps": list(step.upstream),
        "partitions_def": None if step.shards is None else shard_partitions(step.shards),
        "retry_policy": RETRY,
        "metadata": {"preset": dg.MetadataValue.json(dict(step.config)), **_source_of(step.make)},
        "check_specs": list(step.check_specs),
        "freshness_policy": None if hours is None else dg.FreshnessPolicy.time_window(timedelta(hours=hours)),
        **declare(step.needs, step.priority),
    }


def _source_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Code reference of a function for the Dagster UI."""
    code = inspect.unwrap(function).__code__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # code references are in beta
        place = dg.LocalFileCodeReference(file_path=code.co_filename, line_number=code.co_firstlineno)
        return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[place])}


def _processor_seconds() -> float:
    """Processor time of this process so far, and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _threads_of(step: Step) -> AbstractContextManager[None]:
    if step.needs.threads is None:
        return nullcontext()
    from skufp_pipeline.training.device import limited_threads  # imports torch

    return limited_threads(step.needs.threads)


@cache
def shard_partitions(shards: int) -> dg.StaticPartitionsDefinition:
    """One partition per SKU shard: `shard_0000`, `shard_0001`, ..."""
    return dg.StaticPartitionsDefinition([shard_name(shard) for shard in range(shards)])


def shard_number(partition_key: str) -> int:
    """The number of a partition key: 3 for `shard_0003`."""
    return int(partition_key.removeprefix("shard_"))
