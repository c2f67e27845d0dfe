"""Index versions: publishing, rolling back and pruning.

A data root holds any number of named indexes. `index/<name>/<version>/` is a bundle, `index/<name>/CURRENT`
names the version in use, and `index/<name>/releases.json` records the publication order and the rolled back
versions, which later runs do not publish again. The encoders of all kept versions are stored in one shared
place, so that an older version can still be searched after its encoder was retrained.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from skufp_pipeline.artifacts.stored import CURRENT, no_index
from skufp_pipeline.errors import UserError
from skufp_pipeline.settings import Settings
from skufp_pipeline.store import Artifact, ArtifactStore

INDEX, RELEASES = "index", "releases.json"
FINGERPRINTS = "fingerprints"  # the index that every graph builds: one row per SKU
KEPT_ENCODERS = "checkpoints/published"  # by digest, kept while a version of any index refers to them
State = Literal["in use", "published", "withdrawn", "candidate"]
FIRST = "first"  # key in the summary of an index made before any training, whose encoder has no export


class Releases(Settings):
    """Published versions in order, and the withdrawn (rolled back) ones."""

    published: list[str] = []
    withdrawn: list[str] = []


@dataclass(frozen=True)
class Versions:
    """The versions of the index `name` in a store."""

    store: ArtifactStore
    name: str = FINGERPRINTS

    def key(self, file: str) -> str:
        """Store key of a version or of a file next to the versions."""
        return f"{INDEX}/{self.name}/{file}"

    @property
    def in_use(self) -> str | None:
        """The version in use; None before the first is published."""
        return self.store.read_pointer(self.key(CURRENT))

    def find(self) -> Artifact | None:
        """The artifact in use, or None; raises UserError if it is incomplete."""
        version = self.in_use
        return None if version is None else self.store.read(self.key(version))

    def read(self) -> Artifact:
        """The artifact in use; raises UserError if there is none or it is incomplete."""
        found = self.find()
        if found is None:
            raise self._missing_error()
        return found

    def listed(self) -> list[str]:
        """All stored versions including candidates, newest first."""
        return self.store.newest_keys(f"{INDEX}/{self.name}")

    def by_publication(self) -> list[str]:
        """All stored versions, the last published first, then candidates."""
        order = {version: number for number, version in enumerate(self.releases().published, start=1)}
        return sorted(self.listed(), key=lambda version: -order.get(version, 0))

    def state(self, version: str) -> State:
        """What became of a stored version; `candidate` was never published."""
        if version == self.in_use:
            return "in use"
        releases = self.releases()
        if version in releases.withdrawn:
            return "withdrawn"
        return "published" if version in releases.published else "candidate"

    def releases(self) -> Releases:
        """Reads the publication record; raises UserError if the file has another format."""
        text = self.store.read_pointer(self.key(RELEASES))
        try:
            return Releases() if text is None else Releases.model_validate_json(text)
        except ValidationError as error:
            file = f"{self.store.root}/{self.key(RELEASES)}"
            raise UserError(f"{file} can't be read: {error}; delete it") from error

    def publish(self, version: str, kept: int) -> int:
        """Puts a version in use, deletes older ones and returns the number deleted.

        Args:
            kept: number of published versions to keep, including this one.

        Raises:
            UserError: there is no such version, or it is incomplete.
        """
        self.store.read_manifest(self.key(version))
        if self.in_use != version:
            self.store.write_pointer(self.key(CURRENT), version)
        known = self.releases()
        published = [*(other for other in known.published if other != version), version]
        withdrawn = [other for other in known.withdrawn if other != version]
        self._record(known, Releases(published=published, withdrawn=withdrawn))
        return self.prune(kept)

    def roll_back(self, version: str | None = None) -> str:
        """Puts an earlier version back in use, by default the previous one; returns it.

        The version that was in use is withdrawn: runs that rebuild it do not publish it.

        Raises:
            UserError: no version is in use, or there is no earlier or no such version.
        """
        current, known, listed = self.in_use, self.releases(), self.listed()
        if current is None:
            raise self._missing_error()
        stored = [other for other in known.published if other in listed]
        candidates = [other for other in stored if other != current and other not in known.withdrawn]
        if version is None and not candidates:
            raise UserError(f"{self.store.root} has no published index version to roll back to but {current}")
        target = version or candidates[-1]
        if target not in stored:
            raise UserError(
                f"no published index version {target!r}: expected one of {', '.join(stored) or 'none'}"
            )
        withdrawn = {*known.withdrawn, current} - {target}
        # Record the withdrawal before switching: a concurrent run must not publish the withdrawn version.
        self._record(known, Releases(published=known.published, withdrawn=sorted(withdrawn)))
        self.store.write_pointer(self.key(CURRENT), target)
        return target

    def prune(self, kept: int) -> int:
        """Deletes all but the `kept` last published versions; returns the number deleted.

        The version in use always stays. Unpublished candidates and unreferenced encoders are deleted too.
        """
        current, stored = self.in_use, self.listed()
        older = [other for other in self.releases().published if other in stored and other != current]
        keep = {current, *older[::-1][: max(kept - 1, 0)]}
        deleted = [version for version in stored if version not in keep]
        for version in deleted:
            self.store.delete(self.key(version))
        _prune_encoders(self.store)
        return len(deleted)

    def _record(self, known: Releases, changed: Releases) -> None:
        if changed != known:
            self.store.write_pointer(self.key(RELEASES), changed.model_dump_json())

    def _missing_error(self) -> UserError:
        """The error to raise when no version is in use."""
        if self.store.read_pointer(f"{INDEX}/{CURRENT}") is not None:
            folder = f"{self.store.root}/{INDEX}"
            return UserError(f"{folder} is of an earlier layout; delete it and materialize the graph again")
        others = [name for name in self.store.names(INDEX) if Versions(self.store, name).in_use]
        if others:
            return UserError(f"{self.store.root} has no index {self.name!r}; it has {', '.join(others)}")
        return no_index(self.store)


def keep_encoders(store: ArtifactStore, encoders: Iterable[Artifact]) -> None:
    """Links (or copies) the encoders of a version to `KEPT_ENCODERS`, so that they survive retraining."""
    for encoder in encoders:

        def build(directory: Path, source: Artifact = encoder) -> Mapping[str, Any]:
            for name in source.files():
                _link(source.path / name, directory / name)
            return source.summary

        store.produce(f"{KEPT_ENCODERS}/{encoder.digest}", encoder.manifest.recipe, build)


def publish_first(
    store: ArtifactStore, versions: Versions, index: Artifact, encoder: Artifact, name: str
) -> bool:
    """Puts `index` in use if no version is, and keeps its encoder; returns whether it did.

    The version's recipe lists `encoder` as `name`, where a search looks for it (`encoder_of`).
    """
    if versions.in_use is not None:
        return False
    recipe = index.manifest.recipe
    recipe = recipe.model_copy(update={"inputs": {**recipe.inputs, name: encoder.digest}})

    def build(directory: Path) -> Mapping[str, Any]:
        for file in index.files():
            _link(index.path / file, directory / file)
        return index.summary

    store.produce(versions.key(recipe.digest), recipe, build)
    keep_encoders(store, [encoder])
    versions.publish(recipe.digest, kept=1)
    return True


def encoder_of(store: ArtifactStore, index: Artifact, name: str, key: str) -> Artifact:
    """The encoder of an index version: the one at `key` if its digest matches, else the kept copy.

    Without a kept copy it returns the artifact at `key`, whatever its digest; raises UserError if neither
    exists. `name` is the encoder's name among the version's inputs.
    """
    wanted, latest = index.manifest.recipe.inputs.get(name), store.find(key)
    if latest is not None and latest.digest == wanted:
        return latest
    return store.find(f"{KEPT_ENCODERS}/{wanted}") or store.read(key)


def _prune_encoders(store: ArtifactStore) -> None:
    kept = store.newest_keys(KEPT_ENCODERS)  # listed first, so that encoders added meanwhile are not deleted
    indexes = [Versions(store, name) for name in store.names(INDEX)]
    manifests = [store.manifest(index.key(version)) for index in indexes for version in index.listed()]
    used = {digest for found in manifests if found for digest in found.recipe.inputs.values()}
    for digest in set(kept) - used:
        store.delete(f"{KEPT_ENCODERS}/{digest}")


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
