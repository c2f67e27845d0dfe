"""Reads a step's inputs from the store, records their digests for its recipe and checks their consistency."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skufp_pipeline.artifacts.places import SKU_CROPS, crop_file
from skufp_pipeline.artifacts.stored import R, Reader, Stored
from skufp_pipeline.store import Artifact, ArtifactStore


@dataclass(frozen=True)
class _ReadResult:
    """A result that was read: its declaration and its reader."""

    stored: Stored[Any]
    reader: Reader

    def require(self, others: Mapping[str, "_ReadResult"]) -> None:
        """Raises `UserError` if this result was made from another version of one of the others.

        A trained result may be older than the tables it was trained on, but not than other trained results.
        """
        for name in self.reader.artifact.manifest.recipe.inputs:
            other = others.get(name) or others.get(f"{name}/{self.reader.shard}")
            if other is not None and (other.stored.trained or not self.stored.trained):
                self.reader.artifact.require_input(name, other.reader.digest_for(self.reader.shard))


class Inputs:
    """Reads results of the graph for one run of a step, on one SKU shard or (None) on the whole catalogue."""

    def __init__(self, store: ArtifactStore, num_shards: int, shard: int | None = None) -> None:
        self.store, self.num_shards, self.shard = store, num_shards, shard
        self._digests: dict[str, str] = {}
        self._results: dict[str, _ReadResult] = {}
        self._is_complete = False

    def read(self, stored: Stored[R]) -> R:
        """Reads a result, or this run's shard of a sharded one; raises `UserError` if it is not complete."""
        reader = stored.read(self.store, self.shard if stored.sharded else None)
        self._record(stored.name, stored, reader)
        return reader

    def read_all(self, stored: Stored[R]) -> list[R]:
        """Reads every shard. Raises as `read` does."""
        readers = stored.read_all(self.store, self.num_shards)
        for reader in readers:
            self._record(reader.artifact.manifest.artifact, stored, reader)
        return readers

    def crop_files(self) -> Callable[[Mapping[str, Any]], Path]:
        """Returns a function that finds the crop of an item (`sku_id`, `image_path`) on this machine,
        fetching only that file. Raises `UserError` if a shard of crops is missing."""
        for shard in range(self.num_shards):
            key = SKU_CROPS.key_in(self.store, shard)
            unopened = Artifact(Path(), self.store.read_manifest(key))  # no file is fetched
            self._record(key, SKU_CROPS, SKU_CROPS.open(unopened, shard))
        return lambda row: crop_file(self.store, row, self.num_shards)

    def add(self, digests: Mapping[str, str]) -> None:
        """Records the digests of what was read outside the store, such as a model's file."""
        self._require_open("outside the store")
        self._digests |= digests

    def digests(self) -> dict[str, str]:
        """Returns the digests of all that was read, by name; nothing more can be read afterwards. Raises
        `UserError` if a result was made from another version of one that was read, too."""
        self._is_complete = True
        for result in self._results.values():
            result.require(self._results)
        return dict(self._digests)

    def _record(self, name: str, stored: Stored[Any], reader: Reader) -> None:
        self._require_open(name)
        self._digests[name] = reader.digest_for(self.shard)
        result = _ReadResult(stored, reader)
        for alias in (name, reader.artifact.manifest.artifact, f"{stored.name}/{reader.shard}"):
            self._results[alias] = result

    def _require_open(self, name: str) -> None:
        if self._is_complete:
            raise ValueError(f"{name} was read after the recipe was made from what had been read")
