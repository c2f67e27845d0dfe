"""Whatever an asset reads is among its deps and in its recipe: seen by watching the store."""

import re
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from skufp_pipeline.definitions import build_defs
from skufp_pipeline.orchestration.staleness import places
from skufp_pipeline.search.versions import KEPT_ENCODERS
from skufp_pipeline.store import ArtifactStore, shard_name

from .graphs import Graph, copy_graph

_SHARD = re.compile(r"/shard_(\d{4})$")


def watch(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The keys that anyone asks the store for from now on."""
    asked: set[str] = set()
    for name in ("manifests", "local_path"):
        original = getattr(ArtifactStore, name)

        def watched(self: ArtifactStore, keys: Any, _original: Any = original) -> Any:
            keys = keys if isinstance(keys, str) else list(keys)
            asked.update([keys] if isinstance(keys, str) else keys)
            return _original(self, keys)

        monkeypatch.setattr(ArtifactStore, name, watched)
    return asked


def require_made(graph: Graph, name: str, shard: int | None) -> None:
    """Makes one result alone, without the checks that look at it afterwards."""
    found = build_defs(graph.preset)
    (asset,) = [one for one in found.assets or [] if one.key.to_user_string() == name]  # type: ignore[union-attr]
    key = None if shard is None else shard_name(shard)
    done = dg.materialize([asset], resources=dict(found.resources or {}), partition_key=key)
    (event,) = done.get_asset_materialization_events()
    assert event.materialization.metadata["computed"].value == 1, name


def test_every_asset_declares_and_records_all_that_it_reads(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = copy_graph(graph, tmp_path)
    steps, by_key = mine.steps, {step.stored.key: name for name, step in mine.steps.items()}
    asked = watch(monkeypatch)

    def owner(key: str) -> str:
        """The asset that makes what lies at or below a key."""
        return by_key[max((k for k in by_key if key == k or key.startswith(f"{k}/")), key=len)]

    for name, step in steps.items():
        place = places(step)[-1]
        key = step.stored.key_in(mine.store, place.shard)
        expected = mine.store.manifest(key)
        assert expected is not None
        shutil.rmtree(mine.store.read(key).path)
        asked.clear()
        require_made(mine, name, place.shard)
        read = {key for key in asked if not key.startswith(KEPT_ENCODERS)}
        made = mine.store.manifest(step.stored.key_in(mine.store, place.shard))
        assert made is not None
        assert made.digest == expected.digest or name in ("retrieval_report", "detection_report"), name
        others = {owner(key) for key in read} - {name}
        assert others == set(step.upstream), name
        recorded = {owner(by_key_or_name) for by_key_or_name in _keys(made.recipe.inputs, steps)}
        if name == "sku_crops":  # photos are recorded by their digests, in the rows of the annotations
            others -= {"raw_dataset"}
        assert others <= recorded, name


def _keys(inputs: dict[str, str], steps: dict[str, Any]) -> set[str]:
    """Keys of the recorded inputs, some of which go by their asset's name."""
    keys = {steps[name].stored.key if name in steps else name for name in inputs}
    known = {step.stored.key for step in steps.values()}
    return {key for key in keys if _SHARD.sub("", key) in known or key in known}
