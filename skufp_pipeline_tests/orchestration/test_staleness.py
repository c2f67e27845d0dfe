"""Staleness on a graph of four steps whose recipes are written by hand."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from skufp_pipeline.artifacts.stored import Reader, Stored
from skufp_pipeline.definitions import graph_steps
from skufp_pipeline.orchestration.staleness import (
    Place,
    Work,
    in_order,
    next_work,
    places,
    stale,
)
from skufp_pipeline.presets import load_preset
from skufp_pipeline.steps import Run, Step
from skufp_pipeline.store import ArtifactStore

from ..graphs import PRESETS, Graph

MODULE = "skufp_pipeline.hashing"


class Table(Reader):
    """A file a shard."""

    @classmethod
    def part_for(cls, shard: int | None) -> str | None:
        return None if shard is None else f"shard_000{shard}.txt"


TABLE = Stored("table", "tables/table", Table, parts="*.txt")
CROPS = Stored("crops", "crops", Reader, sharded=True)
MODEL = Stored("model", "checkpoints/model", Reader, trained=True)
VECTORS = Stored("vectors", "tables/vectors", Reader, sharded=True)
INDEX = Stored("search_index", "tables/all", Reader)


def never(run: Run) -> dg.MaterializeResult:
    raise AssertionError(run)


def step(stored: Stored, *deps: Stored, **fields: Any) -> Step:
    words = {"make": never, "stage": "any", "kinds": {"python"}, "code": (MODULE,), "num_shards": 2}
    return Step(**{"stored": stored, "deps": deps, **words, **fields})


STEPS = {
    found.name: found
    for found in (
        step(INDEX, VECTORS),
        step(TABLE),
        step(CROPS, TABLE),
        step(MODEL, CROPS),
        step(VECTORS, CROPS, MODEL),
    )
}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def make(store: ArtifactStore, name: str, shard: int | None = None, text: str = "1", **config: Any) -> None:
    """Makes one result from what is there, as its asset would."""
    found = STEPS[name]
    key = found.stored.key_in(store, shard)
    inputs = {}
    for dep in found.upstream:
        up = STEPS[dep]
        for place in places(up):
            if shard is None or place.shard in (None, shard):
                made = up.stored.read(store, place.shard).artifact
                inputs[dep if shard is not None else made.manifest.artifact] = made.digest
    if name == "crops":
        inputs["table"] = store.read("tables/table").manifest.parts[f"shard_000{shard}.txt"]

    def build(directory: Path) -> dict[str, Any]:
        for number in range(2):
            (directory / f"shard_000{number}.txt").write_text(text.split()[number % len(text.split())])
        return {}

    recipe = found.recipe(inputs).model_copy(update={"config": config} if config else {})
    store.produce(key, recipe, build, "shard_*.txt" if name == "table" else "")


def make_all(store: ArtifactStore) -> None:
    make(store, "table")
    for name in ("crops", "vectors"):
        for shard in range(2):
            make(store, name, shard)
        if name == "crops":
            make(store, "model")
    make(store, "search_index")


def test_what_is_made_of_what_is_there_is_not_stale(store: ArtifactStore) -> None:
    make_all(store)
    assert stale(STEPS, store, set(STEPS)) == {}


def test_in_an_empty_store_everything_is_missing(store: ArtifactStore) -> None:
    found = stale(STEPS, store, set(STEPS))
    assert set(found.values()) == {"it is not there"}
    assert len(found) == 1 + 2 + 1 + 2 + 1
    assert [str(work) for work in next_work(STEPS, found)] == ["table"]


def test_a_change_in_one_shard_of_a_table_makes_that_shard_stale_alone(store: ArtifactStore) -> None:
    make_all(store)
    make(store, "table", text="1 2", size=1)  # the second shard's file has changed
    found = stale(STEPS, store, set(STEPS) - {"table", "model"})
    assert found == {
        Place("crops", 1): "table changed",
        Place("vectors", 1): "crops will be made again",
        Place("search_index"): "vectors will be made again",
    }
    (work,) = next_work(STEPS, found)
    assert (work.shard, work.assets) == (1, ("crops", "vectors"))


def test_what_a_table_would_be_decides_where_it_is_given(store: ArtifactStore) -> None:
    make_all(store)
    assert Place("crops", 0) in stale(
        STEPS, store, {"crops"}, {Place("table", 0): "other", Place("table", 1): "other"}
    )
    sha = store.read("tables/table").manifest.parts["shard_0000.txt"]
    assert stale(STEPS, store, {"crops"}, {Place("table", 0): sha, Place("table", 1): sha}) == {}


def test_what_is_trained_waits_for_all_shards_and_shards_for_what_is_trained(store: ArtifactStore) -> None:
    make_all(store)
    make(store, "table", text="1 2", size=1)
    among = set(STEPS) - {"table"}
    waves = []
    for _ in range(4):
        work = next_work(STEPS, stale(STEPS, store, among))
        waves.append([str(part) for part in work])
        for part in work:
            for name in part.assets:
                make(store, name, part.shard, text="3" if name == "model" else "2")
    assert waves == [
        ["shard_0001 crops"],
        ["model"],
        ["shard_0000 vectors", "shard_0001 vectors"],
        ["search_index"],
    ]
    assert stale(STEPS, store, among) == {}


def test_a_result_made_again_with_the_same_bytes_stops_there(store: ArtifactStore) -> None:
    make_all(store)
    make(store, "crops", 1, another=1)  # other settings, the same bytes
    assert stale(STEPS, store, set(STEPS) - {"crops"}) == {}


def test_changed_settings_are_named(store: ArtifactStore) -> None:
    make_all(store)
    make(store, "table", size=3)
    assert stale(STEPS, store, {"table"}) == {Place("table"): "its settings have changed: size"}


def test_code_that_has_changed_is_told(store: ArtifactStore) -> None:
    make_all(store)
    steps = {
        **STEPS,
        "table": step(TABLE, code=("skufp_pipeline.compute",)),
    }
    assert stale(steps, store, {"table"}) == {Place("table"): "its code has changed"}


def test_an_input_that_is_gone_is_a_change(store: ArtifactStore) -> None:
    make_all(store)
    store.delete("tables/vectors/shard_0001")
    assert stale(STEPS, store, {"search_index"}) == {
        Place("search_index"): "tables/vectors/shard_0001 changed"
    }


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_checkpoint_is_trained_and_no_table_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SKUFP_MANIFEST", "SKUFP_TOWER", "SKUFP_PICTURES"):
        monkeypatch.setenv(name, "somewhere")
    for name, found in graph_steps(load_preset(str(path))).items():
        assert found.trained or not found.stored.key.startswith("checkpoints/"), name
        assert not found.trained or found.shards is None, name


def test_the_order_of_the_graph_follows_what_is_made_from_what() -> None:
    steps = graph_steps(load_preset("df2"))
    ordered = in_order(steps)
    assert sorted(ordered) == sorted(steps)
    for name, found in steps.items():
        assert all(ordered.index(dep) < ordered.index(name) for dep in found.upstream)


def test_work_names_its_partition() -> None:
    work = Work(3, {"crops": "table changed"})
    assert (work.partition_key, str(work)) == ("shard_0003", "shard_0003 crops")
    assert Work(None, {"a": "", "b": ""}).partition_key is None


def test_nothing_of_a_graph_just_materialized_is_stale(small_graph: Graph) -> None:
    assert stale(small_graph.steps, small_graph.store, set(small_graph.steps)) == {}
