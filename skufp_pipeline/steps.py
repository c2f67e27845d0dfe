"""What an asset is, said once: its Dagster declaration, its store recipe and its key come from here."""

import ast
import hashlib
import importlib.util
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache, wraps
from pathlib import Path
from typing import Any

import dagster as dg

from skufp_pipeline.compute import Needs, declare, peak_memory_mib
from skufp_pipeline.errors import UserError
from skufp_pipeline.store import Recipe, shard_key

OWNERS = ["team:skufp"]
RETRY = dg.RetryPolicy(max_retries=1, delay=5, backoff=dg.Backoff.EXPONENTIAL)


@dataclass(frozen=True)
class Step:
    """One asset of the graph.

    Attributes:
        name: the asset key.
        key: where the store keeps it; sharded assets add the shard.
        modules: the science modules whose code decides the result.
        config: the part of the preset that decides the result, JSON-able.
        shards: number of SKU shards, None for an unpartitioned asset.
        trained: learnt from the whole catalogue: made again by the weekly job, not for each new product.
        priority: of steps that are ready at once, the highest start first.
    """

    name: str
    key: str
    group: str
    kinds: set[str]
    description: str
    modules: tuple[str, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    needs: Needs = field(default_factory=Needs)
    deps: tuple[str, ...] = ()
    shards: int | None = None
    trained: bool = False
    priority: int = 0

    @property
    def code_digest(self) -> str:
        return code_digest(self.modules)

    @property
    def code_version(self) -> str:
        """Of code and configuration together, as Dagster shows it."""
        text = json.dumps(dict(self.config), sort_keys=True) + self.code_digest + str(self.shards)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def recipe(self, inputs: Mapping[str, str]) -> Recipe:
        """The store's recipe for a result made from `inputs` (name to digest)."""
        return Recipe(code_version=self.code_digest, config=dict(self.config), inputs=dict(inputs))

    def shard_key(self, shard: int) -> str:
        return shard_key(self.key, shard)

    def asset_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `dg.asset`."""
        return {
            "name": self.name,
            "group_name": self.group,
            "kinds": self.kinds,
            "owners": OWNERS,
            "description": self.description,
            "code_version": self.code_version,
            "deps": list(self.deps),
            "partitions_def": None if self.shards is None else shard_partitions(self.shards),
            "retry_policy": RETRY,
            "metadata": {"preset": dg.MetadataValue.json(dict(self.config))},
            **declare(self.needs, self.priority),
        }


def asset(step: Step, check_specs: Sequence[dg.AssetCheckSpec] = ()) -> Callable[[Callable[..., Any]], Any]:
    """`dg.asset` for a step; a user's mistake fails it with its message alone, and is not retried."""

    def decorate(function: Callable[..., Any]) -> Any:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                with _threads_of(step):
                    made = function(*args, **kwargs)
            except UserError as error:
                raise dg.Failure(str(error), allow_retries=False) from error
            return _with_cost(made, time.perf_counter() - started)

        return dg.asset(**step.asset_arguments(), check_specs=list(check_specs))(run)

    return decorate


def _with_cost(made: Any, seconds: float) -> Any:
    """A result with what it took: seconds, and the most memory its process held."""
    if not isinstance(made, dg.MaterializeResult):
        return made
    cost = {"step_seconds": round(seconds, 2), "process_peak_mib": peak_memory_mib()}
    return made._replace(metadata={**(made.metadata or {}), **cost})


def _threads_of(step: Step) -> AbstractContextManager[None]:
    if step.needs.threads is None:
        return nullcontext()
    from skufp_pipeline.training.device import limited_threads  # torch: where it is used alone

    return limited_threads(step.needs.threads)


@cache
def shard_partitions(shards: int) -> dg.StaticPartitionsDefinition:
    """One partition a SKU shard: `shard_0000`, `shard_0001`, ..."""
    return dg.StaticPartitionsDefinition([f"shard_{shard:04d}" for shard in range(shards)])


def shard_number(partition_key: str) -> int:
    """3 of `shard_0003`."""
    return int(partition_key.removeprefix("shard_"))


@cache
def code_digest(modules: tuple[str, ...]) -> str:
    """Hash of the modules' code without comments and docstrings; nothing is imported but packages."""
    digest = hashlib.sha256()
    for module in modules:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ValueError(f"no module {module}")
        tree = ast.parse(Path(spec.origin).read_text())
        digest.update(ast.dump(_without_docstrings(tree)).encode())
    return digest.hexdigest()[:16]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:]
    return tree
