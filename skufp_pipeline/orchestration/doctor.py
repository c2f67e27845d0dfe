"""Verifies that every result of the graph is present and undamaged."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from skufp_pipeline.artifacts.stored import StoredVersions
from skufp_pipeline.orchestration.staleness import in_order, places
from skufp_pipeline.search.versions import KEPT_ENCODERS
from skufp_pipeline.steps import Step
from skufp_pipeline.store import Artifact, ArtifactStore


@dataclass(frozen=True)
class Finding:
    """The state of one key, or of all shards of a key.

    `state` is `ok`, `DAMAGED` or how much is present; `damaged` lists files that are missing or have another
    checksum.
    """

    key: str
    state: str
    damaged: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.key}: {self.state}"


def examine(steps: Mapping[str, Step], store: ArtifactStore, every_shard: bool) -> Iterator[Finding]:
    """Examines each result in graph order, then the encoders kept for index versions.

    Shards are only counted unless `every_shard` is set. Raises UserError if there is no search index, because
    then the graph was never materialized.
    """
    indexes = [step.stored for step in steps.values() if isinstance(step.stored, StoredVersions)]
    indexes[0].read(store)
    for name in in_order(steps):
        stored, found = steps[name].stored, places(steps[name])
        keys = [stored.find_key(store, place.shard) for place in found]
        there = store.manifests([key for key in keys if key is not None])
        if len(there) < len(found):
            missing = f"{len(there)} of {len(found)} shards are there" if stored.sharded else "not there"
            yield Finding(stored.key, missing)
        elif stored.sharded and not every_shard:
            yield Finding(stored.key, f"{len(there)} shards are there")
        else:
            yield from (_verified(store.read(key)) for key in there)
    for digest in store.newest_keys(KEPT_ENCODERS):
        yield _verified(store.read(f"{KEPT_ENCODERS}/{digest}"))


def _verified(artifact: Artifact) -> Finding:
    key = artifact.manifest.artifact
    damaged = tuple(f"{key}/{file}" for file in artifact.damaged_files())
    return Finding(key, "DAMAGED" if damaged else f"ok ({artifact.manifest.num_files} files)", damaged)
