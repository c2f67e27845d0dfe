"""Which version of the index is in use: published, rolled back, and how long old ones are kept.

`index/CURRENT` names the version in use; `index/releases.json` holds the order of publication and the
versions that were rolled back, which no later run publishes again. Each version's encoders are kept
beside it, so that an older version can be asked after the encoder was trained again.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from skufp_pipeline.errors import UserError
from skufp_pipeline.search.bundle import CURRENT, INDEX, KEPT_ENCODERS, current_version
from skufp_pipeline.settings import Settings
from skufp_pipeline.store import Artifact, ArtifactStore

RELEASES = "index/releases.json"


class Releases(Settings):
    """Versions in the order of their publication, and those that were rolled back."""

    published: list[str] = []
    withdrawn: list[str] = []


def read_releases(store: ArtifactStore) -> Releases:
    """What was published so far.

    Raises:
        UserError: the file is not of this version.
    """
    text = store.read_pointer(RELEASES)
    if text is None:
        return Releases()
    try:
        return Releases.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{store.root}/{RELEASES} can't be read: {error}; delete it") from error


def publish(store: ArtifactStore, version: str, kept: int) -> int:
    """Makes a version the one in use, and deletes older ones; returns how many.

    Args:
        kept: published versions that stay, this one among them.

    Raises:
        UserError: there is no such version, or it is incomplete.
    """
    store.read(f"{INDEX}/{version}")
    if store.read_pointer(CURRENT) != version:
        store.write_pointer(CURRENT, version)
    known = read_releases(store)
    published = [*(other for other in known.published if other != version), version]
    withdrawn = [other for other in known.withdrawn if other != version]
    _write(store, known, Releases(published=published, withdrawn=withdrawn))
    return prune(store, kept)


def roll_back(store: ArtifactStore, version: str | None = None) -> str:
    """Puts an earlier version back in use, by default the one before; returns it.

    The version that was in use is withdrawn: runs that would make it again do not publish it.

    Raises:
        UserError: there is no earlier version, or not the one asked for.
    """
    current = store.read_pointer(CURRENT)
    known = read_releases(store)
    there = [other for other in known.published if store.find(f"{INDEX}/{other}") is not None]
    left = [other for other in there if other != current and other not in known.withdrawn]
    if version is None and not left:
        raise UserError(f"{store.root} has no published index version to roll back to but {current}")
    target = version or left[-1]
    if target not in there:
        raise UserError(
            f"no published index version {target!r}: expected one of {', '.join(there) or 'none'}"
        )
    gone = {*known.withdrawn, *([current] if current is not None else [])} - {target}
    # First the ban, then the swap: a run in between must not publish the version that is left.
    _write(store, known, Releases(published=known.published, withdrawn=sorted(gone)))
    store.write_pointer(CURRENT, target)
    return target


def prune(store: ArtifactStore, kept: int) -> int:
    """Deletes all but the `kept` last published versions, never the one in use; returns how many.

    Candidates that were never published go too, and encoders that no version refers to.
    """
    current, known = store.read_pointer(CURRENT), read_releases(store)
    there = store.newest_keys(INDEX)
    published = [version for version in known.published if version in there and version != current]
    stay = {current, *published[max(len(published) - max(kept - 1, 0), 0) :]}
    gone = [version for version in there if version not in stay]
    for version in gone:
        store.delete(f"{INDEX}/{version}")
    _prune_encoders(store)
    return len(gone)


def keep_encoders(store: ArtifactStore, encoders: Iterable[Artifact]) -> None:
    """Links (or copies) the encoders of a version beside it, each once."""
    for encoder in encoders:

        def build(directory: Path, source: Artifact = encoder) -> Mapping[str, Any]:
            for name in source.manifest.files:
                _link(source.path / name, directory / name)
            return source.summary

        store.produce(f"{KEPT_ENCODERS}/{encoder.digest}", encoder.manifest.recipe, build)


def in_use(store: ArtifactStore) -> Artifact | None:
    """The version in use, None before the first."""
    return None if store.read_pointer(CURRENT) is None else current_version(store)


def _write(store: ArtifactStore, known: Releases, changed: Releases) -> None:
    if changed != known:
        store.write_pointer(RELEASES, changed.model_dump_json())


def _prune_encoders(store: ArtifactStore) -> None:
    versions = [store.read(f"{INDEX}/{version}") for version in store.newest_keys(INDEX)]
    used = {digest for version in versions for digest in version.manifest.recipe.inputs.values()}
    for digest in set(store.newest_keys(KEPT_ENCODERS)) - used:
        store.delete(f"{KEPT_ENCODERS}/{digest}")


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
