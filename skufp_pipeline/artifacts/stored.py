"""Typed access to the store: a `Stored` declares where a result is kept, its `Reader` the files in it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import polars as pl

from skufp_pipeline.errors import TooLittleError, UserError
from skufp_pipeline.store import Artifact, ArtifactStore, Manifest, shard_key

OFF = "off"  # key in a summary: why the stage was switched off
LEFT_OUT = "left_out"  # key in a summary: the parts of the stage that were, and why
CURRENT = "CURRENT"  # pointer file beside the versions of an index, names the one in use


@dataclass(frozen=True)
class Reader:
    """A complete artifact and the files in it."""

    artifact: Artifact
    shard: int | None = None  # None if it covers the whole catalogue

    @property
    def path(self) -> Path:
        return self.artifact.path

    @property
    def digest(self) -> str:
        return self.artifact.digest

    @property
    def summary(self) -> dict[str, Any]:
        return self.artifact.summary

    @property
    def off(self) -> str | None:
        """Why the stage was switched off, which leaves no model or figures here; None where it ran."""
        return self.summary.get(OFF)

    @property
    def left_out(self) -> str | None:
        """What could not be done with the data at hand, as a sentence; None where all was."""
        return self.off or self.summary.get(LEFT_OUT)

    def needed(self) -> Self:
        """Returns itself; raises `TooLittleError`, with the reason, if the stage was switched off."""
        if self.off is not None:
            raise TooLittleError(self.off)
        return self

    @classmethod
    def part_for(cls, shard: int | None) -> str | None:
        """Returns the only file that work on this shard uses; None if it uses all."""
        return None

    @classmethod
    def digest_in(cls, manifest: Manifest, shard: int | None) -> str:
        """Returns the digest of what work on this shard uses of a manifest's artifact."""
        part = cls.part_for(shard)
        return manifest.digest if part is None else manifest.parts[part]

    def digest_for(self, shard: int | None) -> str:
        """Returns the digest of what work on this shard uses."""
        return self.digest_in(self.artifact.manifest, shard)

    def frame(self, name: str) -> pl.DataFrame:
        """Reads the table in `NAME.parquet`."""
        return pl.read_parquet(self.path / f"{name}.parquet")

    def json(self, name: str) -> Any:
        """Reads the content of `NAME.json`."""
        return json.loads((self.path / f"{name}.json").read_text())


R = TypeVar("R", bound=Reader)


@dataclass(frozen=True)
class Stored(Generic[R]):
    """The declaration of a result of the graph."""

    name: str  # of the asset that makes it
    key: str  # in the store; each shard has a folder below
    reader: type[R]
    sharded: bool = False
    trained: bool = False  # on the whole catalogue: may be older than the tables it was trained on
    parts: str = ""  # pattern of the files that have readers of their own

    def key_in(self, store: ArtifactStore, shard: int | None = None) -> str:
        """Returns its key, or that of one shard."""
        return shard_key(self.key, shard) if self.sharded and shard is not None else self.key

    def read(self, store: ArtifactStore, shard: int | None = None) -> R:
        """Reads the result, or one shard of it; raises `UserError` if it is not complete."""
        return self.open(store.read(self.key_in(store, shard)), shard)

    def read_all(self, store: ArtifactStore, num_shards: int) -> list[R]:
        """Reads every shard, in order. Raises as `read` does."""
        return [self.read(store, shard) for shard in range(num_shards)]

    def find(self, store: ArtifactStore) -> R | None:
        """Returns the result; None if it is not complete."""
        found = store.find(self.key_in(store))
        return None if found is None else self.open(found)

    def find_key(self, store: ArtifactStore, shard: int | None = None) -> str | None:
        """Returns its key; None if there is none yet."""
        return self.key_in(store, shard)

    def open(self, artifact: Artifact, shard: int | None = None) -> R:
        """Returns the typed form of an artifact of this kind."""
        return self.reader(artifact, shard if self.sharded else None)


@dataclass(frozen=True)
class StoredVersions(Stored[R]):
    """A result that is kept in versions, one of which is in use; `read` opens that one."""

    def key_in(self, store: ArtifactStore, shard: int | None = None) -> str:
        version = self._in_use(store)
        if version is None:
            raise no_index(store)
        return self.version_key(version)

    def version_key(self, version: str) -> str:
        return f"{self.key}/{version}"

    def find(self, store: ArtifactStore) -> R | None:
        return self.read(store) if self._in_use(store) else None

    def find_key(self, store: ArtifactStore, shard: int | None = None) -> str | None:
        return self.key_in(store) if self._in_use(store) else None

    def _in_use(self, store: ArtifactStore) -> str | None:
        return store.read_pointer(f"{self.key}/{CURRENT}")


def no_index(store: ArtifactStore) -> UserError:
    """Returns the error for a store that has no index version in use."""
    return UserError(f"{store.root} has no search index; materialize the graph first (`skufp demo`)")


def left_out(*sentences: str | None) -> dict[str, str]:
    """Returns the entry of a summary that says what was left out; empty where nothing was."""
    said = "; ".join(sentence for sentence in sentences if sentence)
    return {LEFT_OUT: said} if said else {}


def write_frames(directory: Path, **frames: pl.DataFrame) -> None:
    """Writes each table to `NAME.parquet`."""
    for name, frame in frames.items():
        frame.write_parquet(directory / f"{name}.parquet", compression="zstd")


def write_json(directory: Path, name: str, content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Writes `NAME.json`."""
    (directory / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
