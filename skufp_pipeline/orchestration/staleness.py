"""Determines which results are stale and why, by comparing each result's recipe with the store's contents.

Comparison is by content: a touched file, or an asset rebuilt with the same bytes, makes nothing downstream
stale. Inputs outside the store (a model file, the user's folder) are checked by the asset itself.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import polars as pl

from skufp_pipeline.artifacts.kinds import ANNOTATED_SCHEMA
from skufp_pipeline.artifacts.places import ANNOTATIONS, RAW_DATASET
from skufp_pipeline.datasets.catalogue import shard_table
from skufp_pipeline.datasets.difference import catalogue_changes, described_items
from skufp_pipeline.presets import Preset
from skufp_pipeline.steps import Step
from skufp_pipeline.store import ArtifactStore, shard_name


@dataclass(frozen=True, order=True)
class Place:
    """One result: an unsharded asset, or one shard of a sharded asset."""

    asset: str
    shard: int | None = None


@dataclass(frozen=True)
class Work:
    """Results that one run can rebuild, in graph order, with the reason for each."""

    shard: int | None
    reasons: Mapping[str, str]

    @property
    def assets(self) -> tuple[str, ...]:
        return tuple(self.reasons)

    @property
    def partition_key(self) -> str | None:
        return None if self.shard is None else shard_name(self.shard)

    def __str__(self) -> str:
        return " ".join([*([self.partition_key] if self.partition_key else []), ", ".join(self.assets)])


def stale(
    steps: Mapping[str, Step],
    store: ArtifactStore,
    among: Collection[str],
    changed_parts: Mapping[Place, str] | None = None,
) -> dict[Place, str]:
    """The stale results of the assets `among`, each with the reason.

    `changed_parts` overrides the digest of an asset's part, by asset and the shard that reads the part.
    """
    manifests = _Manifests(steps, store, changed_parts or {})
    reasons: dict[Place, str] = {}
    for name in in_order(steps):
        if name not in among:
            continue
        for place in places(steps[name]):
            reason = manifests.why_stale(place)
            if reason is None and reasons:
                upstream = next((up for up in _upstream(steps, place) if up in reasons), None)
                reason = f"{upstream.asset} will be made again" if upstream else None
            if reason is not None:
                reasons[place] = reason
    return reasons


def next_work(steps: Mapping[str, Step], reasons: Mapping[Place, str]) -> list[Work]:
    """The independent runs that can start now: one per shard, and one for unsharded assets."""
    ready: dict[Place, bool] = {}
    for place in reasons:  # in graph order
        waits_for = [up for up in _upstream(steps, place) if up in reasons]
        ready[place] = all(ready[up] and up.shard == place.shard for up in waits_for)
    runs: dict[int | None, dict[str, str]] = {}
    for place, is_ready in ready.items():
        if is_ready:
            runs.setdefault(place.shard, {})[place.asset] = reasons[place]
    return [Work(shard, runs[shard]) for shard in sorted(runs, key=lambda shard: (shard is None, shard or 0))]


@dataclass(frozen=True)
class CatalogDiff:
    """Difference between the present catalogue and the one read last.

    Attributes:
        changes: `sku_id`, `shard`, `change`, `detail`; one row per new, changed or removed SKU.
        reasons: what a refresh would rebuild and why; it stops early where a result's bytes stay the same.
    """

    changes: pl.DataFrame
    reasons: dict[Place, str]


def catalog_diff(preset: Preset, steps: Mapping[str, Step], among: Collection[str]) -> CatalogDiff:
    """Compares the catalogue with the store without writing anything; `among` are the assets of the refresh.

    Raises UserError if the graph was never materialized, or the catalogue can't be read.
    """
    store = ArtifactStore(preset.data_root)
    raw = RAW_DATASET.read(store).path
    found = preset.dataset.catalogue(raw, preset.splits, preset.shards)
    tables = [shard_table(found.items, shard) for shard in range(preset.shards)]
    digests: dict[Place, str] = {
        Place(ANNOTATIONS.name, shard): hashlib.sha256(table).hexdigest()
        for shard, table in enumerate(tables)
    }
    last = ANNOTATIONS.find(store)
    if last is not None and not last.skus().equals(found.skus):
        digests[Place(ANNOTATIONS.name)] = "other columns"
    before = last.described() if last else pl.DataFrame(schema=ANNOTATED_SCHEMA)
    changes = catalogue_changes(before, described_items(found.items, found.skus))
    return CatalogDiff(changes, stale(steps, store, among, digests))


def in_order(steps: Mapping[str, Step]) -> list[str]:
    """Asset names in topological order."""
    ordered: dict[str, None] = {}

    def visit(name: str) -> None:
        for dep in steps[name].upstream:
            visit(dep)
        ordered.setdefault(name)

    for name in steps:
        visit(name)
    return list(ordered)


def places(step: Step) -> list[Place]:
    """All results of an asset."""
    return [Place(step.name, shard) for shard in ([None] if step.shards is None else range(step.shards))]


def _upstream(steps: Mapping[str, Step], place: Place) -> Iterable[Place]:
    for dep in steps[place.asset].upstream:
        if steps[dep].shards is not None and place.shard is not None:
            yield Place(dep, place.shard)
        else:
            yield from places(steps[dep])


class _Manifests:
    """The manifests of the store, each read once."""

    def __init__(
        self, steps: Mapping[str, Step], store: ArtifactStore, changed_parts: Mapping[Place, str]
    ) -> None:
        self.steps = steps
        self.changed_parts = changed_parts
        keys = {
            place: step.stored.find_key(store, place.shard)
            for step in steps.values()
            for place in places(step)
        }
        self.folders = tuple(f"{step.stored.key}/" for step in steps.values())
        self.by_key = store.manifests([key for key in keys.values() if key is not None])
        self.manifests = {place: self.by_key.get(key or "") for place, key in keys.items()}

    def why_stale(self, place: Place) -> str | None:
        """The reason why a result is stale; None if it is up to date as far as the store can tell."""
        manifest, step = self.manifests[place], self.steps[place.asset]
        if manifest is None:
            return "it is not there"
        recipe = manifest.recipe
        if recipe.code_version != step.code_digest:
            return "its code has changed"
        if changed := _differences(recipe.libraries, step.libraries):
            return f"other versions of {', '.join(changed)}"
        if changed := _differences(recipe.config, dict(step.config)):
            return f"its settings have changed: {', '.join(changed)}"
        changed = [name for name, digest in recipe.inputs.items() if self._has_changed(name, digest, place)]
        return f"{', '.join(changed[:3])} changed" if changed else None

    def _has_changed(self, name: str, digest: str, place: Place) -> bool:
        """Whether an input has another digest now than in the recipe."""
        if name in self.by_key or name.startswith(self.folders):
            found = self.by_key.get(name)
            return found is None or found.digest != digest
        if name not in self.steps:
            return False
        stored = self.steps[name].stored
        found = self.manifests.get(Place(name, place.shard if stored.sharded else None))
        if found is None:
            return True
        changed = self.changed_parts.get(Place(name, place.shard))
        return digest != (changed or stored.reader.digest_in(found, place.shard))


def _differences(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    return sorted(
        name
        for name in {*before, *after}
        if (name in before) != (name in after) or before.get(name) != after.get(name)
    )
