"""What is read is noted, and refused by name where it does not belong together."""

from pathlib import Path

import pytest

from skufp_pipeline.artifacts.inputs import Inputs
from skufp_pipeline.artifacts.places import SKU_CROPS
from skufp_pipeline.artifacts.stored import Reader, Stored
from skufp_pipeline.errors import UserError
from skufp_pipeline.hashing import stable_shard
from skufp_pipeline.store import ArtifactStore, Recipe

TABLE = Stored("table", "tables/table", Reader, sharded=True)
ROWS = Stored("rows", "tables/rows", Reader, sharded=True)
MODEL = Stored("model", "checkpoints/model", Reader, trained=True)
TUNED = Stored("tuned", "checkpoints/tuned", Reader, trained=True)
REPORT = Stored("report", "reports/report", Reader)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def make(
    store: ArtifactStore, stored: Stored, shard: int | None = None, content: str = "", **inputs: str
) -> str:
    """Makes an artifact out of `inputs`; returns its digest."""

    def build(directory: Path) -> dict[str, int]:
        (directory / "content.txt").write_text(f"{stored.name} {shard} {content}")
        return {}

    recipe = Recipe(code_version=content, inputs=inputs)
    return store.produce(stored.key_in(store, shard), recipe, build).digest


def test_reads_are_noted_by_name_and_shards_by_key(store: ArtifactStore) -> None:
    model = make(store, MODEL)
    tables = [make(store, TABLE, shard) for shard in range(2)]
    one = Inputs(store, 2, shard=1)
    assert one.read(TABLE).shard == 1
    one.read(MODEL)
    one.add({"folder": "abc"})
    assert one.digests() == {"table": tables[1], "model": model, "folder": "abc"}
    every = Inputs(store, 2)
    assert [reader.shard for reader in every.read_all(TABLE)] == [0, 1]
    assert every.digests() == {f"tables/table/shard_000{shard}": tables[shard] for shard in range(2)}


def test_a_missing_shard_is_refused_by_name(store: ArtifactStore) -> None:
    make(store, TABLE, 0)
    with pytest.raises(UserError, match="no complete tables/table/shard_0001"):
        Inputs(store, 2).read_all(TABLE)


@pytest.mark.parametrize("order", [(MODEL, ROWS), (ROWS, MODEL)])
def test_rows_by_another_model_are_refused_by_name(store: ArtifactStore, order: tuple[Stored, ...]) -> None:
    model = make(store, MODEL)
    make(store, ROWS, 0, model="0123")
    inputs = Inputs(store, 1)
    for stored in order:
        _ = inputs.read_all(stored) if stored.sharded else inputs.read(stored)
    with pytest.raises(UserError) as refused:
        inputs.digests()
    assert str(refused.value).startswith(
        f"tables/rows/shard_0000 was made with model 0123, but the model in use is {model}"
    )


def test_a_table_is_held_to_the_shards_it_was_made_from(store: ArtifactStore) -> None:
    shards = {f"tables/rows/shard_000{shard}": make(store, ROWS, shard) for shard in range(2)}
    make(store, REPORT, **shards)
    inputs = Inputs(store, 2)
    inputs.read_all(ROWS)
    inputs.read(REPORT)
    assert inputs.digests()
    make(store, ROWS, 1, content="another")
    inputs = Inputs(store, 2)
    inputs.read_all(ROWS)
    inputs.read(REPORT)
    with pytest.raises(UserError, match="reports/report was made with tables/rows/shard_0001"):
        inputs.digests()


def test_a_shard_is_held_to_the_same_shard_of_what_it_was_made_from(store: ArtifactStore) -> None:
    tables = [make(store, TABLE, shard) for shard in range(2)]
    for shard in range(2):
        make(store, ROWS, shard, table=tables[shard])
    inputs = Inputs(store, 2)
    inputs.read_all(TABLE)
    inputs.read_all(ROWS)
    assert len(inputs.digests()) == 4
    make(store, ROWS, 1, content="another", table=tables[0])
    inputs = Inputs(store, 2)
    inputs.read_all(TABLE)
    inputs.read_all(ROWS)
    with pytest.raises(UserError, match="tables/rows/shard_0001 was made with table"):
        inputs.digests()


def test_what_was_trained_may_be_older_than_its_tables_but_not_than_other_trained_results(
    store: ArtifactStore,
) -> None:
    make(store, REPORT)
    model = make(store, MODEL)
    make(store, TUNED, report="of long ago", model=model)
    inputs = Inputs(store, 1)
    for stored in (REPORT, MODEL, TUNED):
        inputs.read(stored)
    assert inputs.digests()
    make(store, TUNED, content="again", report="of long ago", model="another")
    inputs = Inputs(store, 1)
    for stored in (REPORT, MODEL, TUNED):
        inputs.read(stored)
    with pytest.raises(UserError, match="checkpoints/tuned was made with model another"):
        inputs.digests()


def test_nothing_is_read_once_the_digests_are_taken(store: ArtifactStore) -> None:
    make(store, MODEL)
    inputs = Inputs(store, 1)
    inputs.digests()
    with pytest.raises(ValueError, match="model was read after the recipe"):
        inputs.read(MODEL)


def test_crops_are_found_one_by_one_and_all_their_shards_are_noted(store: ArtifactStore) -> None:
    made = [make(store, SKU_CROPS, shard) for shard in range(2)]
    inputs = Inputs(store, 2)
    crop_of = inputs.crop_files()
    shard = stable_shard("hat", 2)
    found = crop_of({"sku_id": "hat", "image_path": "content.txt"})
    assert found.read_text().startswith(f"sku_crops {shard}")
    assert inputs.digests() == {f"crops/shard_000{number}": digest for number, digest in enumerate(made)}


def test_a_missing_shard_of_crops_is_refused_by_name(store: ArtifactStore) -> None:
    with pytest.raises(UserError, match="no complete crops/shard_0000"):
        Inputs(store, 2).crop_files()
