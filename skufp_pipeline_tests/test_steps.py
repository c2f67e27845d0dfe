"""A step says once what an asset is: its version, its declaration, and how its runs behave."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import torch

from skufp_pipeline.artifacts.stored import Reader, Stored
from skufp_pipeline.compute import Needs
from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import load_preset
from skufp_pipeline.resources.models import ModelProvider
from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.steps import Run, Step, asset, asset_arguments, shard_number, shard_partitions

TOTAL = Stored("total", "tables/total", Reader)
TOTALS = Stored("total", "tables/total", Reader, sharded=True)


def total(run: Run) -> dg.MaterializeResult:
    """The total."""
    return run.done(run.produce(TOTAL, lambda directory: {"rows": 1}), {})


def step(make: Callable[[Run], Any] = total, **changes: Any) -> Step:
    fields = {
        "code": ("skufp_pipeline.hashing",),
        "config": {"tax": 1},
        "kinds": {"python"},
        "stage": "add",
        "group": "sums",
    }
    return Step(**{"stored": TOTAL, "make": make, **fields, **changes})


def run(step: Step, root: Path) -> dg.ExecuteInProcessResult:
    resources = {"artifacts": ArtifactStoreResource(root=str(root)), "models": ModelProvider(device="cpu")}
    return dg.materialize([asset(step, load_preset("ci"))], resources=resources, raise_on_error=False)


def test_code_version_changes_with_code_configuration_and_number_of_shards() -> None:
    versions = {
        one.code_version
        for one in (
            step(),
            step(config={"tax": 2}),
            step(code=("skufp_pipeline.compute",)),
            step(stored=TOTALS, num_shards=2),
            step(stored=TOTALS, num_shards=3),
        )
    }
    assert len(versions) == 5


def test_the_recipe_of_a_result_says_its_code_libraries_configuration_and_inputs() -> None:
    one = step(code=("skufp_pipeline.datasets.contact_sheet",))
    recipe = one.recipe({"annotations": "abc"})
    assert recipe.code_version == one.code_digest
    assert set(recipe.libraries) == {"pillow"}
    assert (recipe.config, recipe.inputs) == ({"tax": 1}, {"annotations": "abc"})


def test_a_users_mistake_fails_the_step_at_once_with_its_own_words(tmp_path: Path) -> None:
    tries = []

    def fails(run: Run) -> dg.MaterializeResult:
        tries.append(1)
        raise UserError("no price for sku 7; add one")

    result = run(step(fails), tmp_path)
    (event,) = result.filter_events(lambda event: event.is_step_failure)
    assert event.step_failure_data.user_failure_data is not None
    assert event.step_failure_data.user_failure_data.description == "no price for sku 7; add one"
    assert len(tries) == 1


def test_a_step_computes_with_its_threads_and_tells_what_it_took(tmp_path: Path) -> None:
    before, during = torch.get_num_threads(), []

    def counts(run: Run) -> dg.MaterializeResult:
        during.append(torch.get_num_threads())
        return total(run)

    (event,) = run(step(counts, needs=Needs(threads=3)), tmp_path).get_asset_materialization_events()
    told = {name: entry.value for name, entry in event.materialization.metadata.items()}
    assert told["rows"] == 1
    assert 0 <= told["step_seconds"] < 60
    assert 0 <= told["processor_seconds"] <= 60
    assert 50 < told["process_peak_mib"] < 30_000
    assert (during, torch.get_num_threads()) == ([3], before)


def test_what_is_unchanged_is_made_once(tmp_path: Path) -> None:
    computed = []
    for _ in range(2):
        (event,) = run(step(), tmp_path).get_asset_materialization_events()
        computed.append(event.materialization.metadata["computed"].value)
    assert computed == [1, 0]


def test_what_is_read_after_the_recipe_was_made_is_an_error(tmp_path: Path) -> None:
    def reads_late(run: Run) -> dg.MaterializeResult:
        made = run.produce(TOTAL, lambda directory: {})
        run.inputs.add({"folder": "abc"})
        return run.done(made, {})

    (event,) = run(step(reads_late), tmp_path).filter_events(lambda event: event.is_step_failure)
    assert "read after the recipe was made" in str(event.step_failure_data.error)


def test_the_declaration_of_a_step_holds_what_executors_need() -> None:
    arguments = asset_arguments(step(stored=TOTALS, needs=Needs(gpus=1), num_shards=2, deps=(TOTAL,)))
    assert arguments["pool"] == "gpu"
    assert arguments["partitions_def"] == shard_partitions(2)
    assert arguments["deps"] == ["total"]
    assert arguments["retry_policy"].max_retries == 1


def test_an_asset_is_described_by_its_function_and_points_at_its_code() -> None:
    described = asset(step(), load_preset("ci")).get_asset_spec()
    assert described.description == "The total."
    (place,) = described.metadata["dagster/code_references"].code_references
    assert Path(place.file_path) == Path(__file__)
    assert Path(__file__).read_text().splitlines()[place.line_number - 1].startswith("def total(")


@pytest.mark.parametrize("shards", [1, 3, 1000])
def test_partition_keys_name_shards_in_order(shards: int) -> None:
    keys = shard_partitions(shards).get_partition_keys()
    assert [shard_number(key) for key in keys] == list(range(shards))
    assert keys == sorted(keys)
