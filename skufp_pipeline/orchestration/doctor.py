"""Whether every result of the graph is there, and whole."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from skufp_pipeline.orchestration.staleness import in_order, places
from skufp_pipeline.search.versions import KEPT_ENCODERS
from skufp_pipeline.steps import Step
from skufp_pipeline.store import Artifact, ArtifactStore


@dataclass(frozen=True)
class Finding:
    """What was found of one asset.

    Attributes:
        state: `ok`, `DAMAGED`, or how much of it is there.
        damaged: files that are missing or have another checksum.
    """

    name: str
    state: str
    damaged: list[str]

    def __str__(self) -> str:
        return f"{self.name}: {self.state}"


def examine(steps: Mapping[str, Step], store: ArtifactStore, every_shard: bool) -> Iterator[Finding]:
    """Each asset of the graph in its order, then the encoders that the index in use refers to.

    Args:
        every_shard: verifies the files of shards too; else they are counted.
    """
    for name in in_order(steps):
        stored, found = steps[name].stored, places(steps[name])
        keys = [stored.find_key(store, place.shard) for place in found]
        there = len(store.manifests([key for key in keys if key is not None]))
        if there < len(found):
            yield Finding(
                name, f"{there} of {len(found)} shards are there" if stored.sharded else "not there", []
            )
        elif stored.sharded and not every_shard:
            yield Finding(name, f"{there} shards are there", [])
        else:
            yield _verified(name, [stored.read(store, place.shard).artifact for place in found])
    for key in store.newest_keys(KEPT_ENCODERS):
        yield _verified(f"{KEPT_ENCODERS}/{key}", [store.read(f"{KEPT_ENCODERS}/{key}")])


def _verified(name: str, artifacts: list[Artifact]) -> Finding:
    damaged = [f"{found.manifest.artifact}/{file}" for found in artifacts for file in found.damaged_files()]
    files = sum(found.manifest.num_files for found in artifacts)
    return Finding(name, "DAMAGED" if damaged else f"ok ({files} files)", damaged)
