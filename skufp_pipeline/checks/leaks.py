"""The check that no evaluation query was used, for every result that lists the queries it used."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.kinds import UsesQueries
from skufp_pipeline.artifacts.places import IMAGE_TEXT
from skufp_pipeline.artifacts.stored import Stored
from skufp_pipeline.compute import Needs, declare
from skufp_pipeline.datasets.table import EVALUATION, is_synthetic, item_id
from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.steps import Step
from skufp_pipeline.store import ArtifactStore


def no_leaks(steps: Sequence[Step]) -> list[dg.AssetChecksDefinition]:
    """Returns one check for each step whose result lists the queries it used."""
    listing = [step for step in steps if issubclass(step.stored.reader, UsesQueries)]
    return [_no_leak(step.stored, step.num_shards) for step in listing]


def _no_leak(stored: Stored[UsesQueries], num_shards: int) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=stored.name,
        name="no_evaluation_query_used",
        blocking=True,
        description="No evaluation query is among the ids that this result recorded as used.",
        **declare(Needs()),
    )
    def check(artifacts: ArtifactStoreResource) -> dg.AssetCheckResult:
        store = artifacts.get()
        held = _evaluation_ids(store, num_shards)
        result = stored.read(store)
        used = result.used_queries()
        synthetic = used.filter(is_synthetic("query_id", EVALUATION))["query_id"]
        leaked = sorted({*(held & set(used["query_id"])), *synthetic})
        # A result that could have used queries and lists none has lost its list.
        is_listed = used.height > 0 or result.left_out is not None
        counts: dict[str, Any] = {"used": used.height, "evaluation": len(held), "leaked": leaked[:20]}
        note = {} if used.height else {"not_measured": result.left_out or "the list of queries is empty"}
        return dg.AssetCheckResult(passed=not leaked and is_listed, metadata={**counts, **note})

    return check


def _evaluation_ids(store: ArtifactStore, num_shards: int) -> set[str]:
    """Returns ids of all evaluation queries, images and texts, from the tables that assign the roles."""
    ids: set[str] = set()
    for shard in IMAGE_TEXT.read_all(store, num_shards):
        images = shard.images().filter(pl.col("role") == EVALUATION)
        texts = shard.text_queries().filter(pl.col("role") == EVALUATION)
        ids.update(images.select(item_id())["item_id"], texts["text_id"])
    return ids
