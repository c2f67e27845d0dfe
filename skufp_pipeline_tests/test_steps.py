"""A step's code version follows the code and the configuration that decide its result, and no other."""

import ast
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
import torch

from skufp_pipeline.compute import Needs
from skufp_pipeline.definitions import graph_steps
from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import PACKAGED, load_preset
from skufp_pipeline.steps import Step, asset, code_digest, shard_number, shard_partitions

from .graphs import REPOSITORY, environment

# Their values reach a result through the configuration, or their own tests pin what they do.
PLUMBING = {
    f"skufp_pipeline.{name}"
    for name in ("errors", "settings", "hashing", "store", "datasets.table", "training.weights")
}

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module of a package `shop`; the digests of before are forgotten."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()

    def write_module(name: str, text: str) -> None:
        (tmp_path / "shop" / f"{name}.py").write_text(text)
        code_digest.cache_clear()
        importlib.invalidate_caches()

    yield write_module
    code_digest.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "shop"]:
        del sys.modules[name]


def step(**changes: object) -> Step:
    fields: dict = {"modules": ("shop.prices",), "config": {"tax": 1}, "shards": None, **changes}
    return Step("total", "tables/total", "catalog", {"python"}, "The total.", **fields)


def test_code_version_changes_with_a_module_that_the_step_lists(write: Write) -> None:
    write("prices", "price = 1\n")
    before = step().code_version
    write("prices", "price = 2\n")
    assert step().code_version != before


def test_code_version_stays_when_a_module_that_it_does_not_list_changes(write: Write) -> None:
    write("prices", "price = 1\n")
    write("names", "name = 'shirt'\n")
    before = step().code_version
    write("names", "name = 'skirt'\n")
    assert step().code_version == before


def test_code_version_stays_when_only_words_change(write: Write) -> None:
    write("prices", '"""Prices."""\n\ndef price():\n    """In cents."""\n    return 1\n')
    before = step().code_version
    write("prices", '"""What things cost."""\n\n# Cents.\ndef price():\n    return 1\n')
    assert step().code_version == before


def test_code_version_changes_with_configuration_and_number_of_shards(write: Write) -> None:
    write("prices", "price = 1\n")
    versions = {s.code_version for s in (step(), step(config={"tax": 2}), step(shards=2), step(shards=3))}
    assert len(versions) == 4


def test_a_step_that_lists_a_module_that_does_not_exist_is_an_error(write: Write) -> None:
    with pytest.raises(ValueError, match=r"no module shop\.prices"):
        _ = step().code_version


def test_the_recipe_of_a_result_says_its_code_configuration_and_inputs(write: Write) -> None:
    write("prices", "price = 1\n")
    recipe = step().recipe({"annotations": "abc"})
    assert recipe.code_version == step().code_digest
    assert (recipe.config, recipe.inputs) == ({"tax": 1}, {"annotations": "abc"})


def test_editing_a_training_loss_changes_the_encoders_checkpoints_alone(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "skufp_pipeline", tmp_path / "skufp_pipeline")
    program = (
        "from pathlib import Path\n"
        "from skufp_pipeline.steps import code_digest\n"
        "from skufp_pipeline.definitions import graph_steps\n"
        "from skufp_pipeline.presets import PACKAGED, load_preset\n"
        "def versions():\n"
        "    code_digest.cache_clear()\n"
        f"    steps = graph_steps(load_preset('{PACKAGED / 'df2.yaml'}'))\n"
        "    return {name: step.code_version for name, step in steps.items()}\n"
        "before = versions()\n"
        "losses = Path('skufp_pipeline/encoders/losses.py')\n"
        "losses.write_text(losses.read_text() + '\\nMORE = 1\\n')\n"
        "print([name for name, version in versions().items() if version != before[name]])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(tmp_path)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['clip_checkpoint', 'reid_checkpoint']"


def package_imports(module: str) -> set[str]:
    """The modules of this package that a module imports."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    found: set[str] = set()
    for node in ast.walk(ast.parse(Path(spec.origin).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("skufp_pipeline"):
            for alias in node.names:
                inner = Path(REPOSITORY, *(node.module or "").split("."), f"{alias.name}.py")
                found.add(f"{node.module}.{alias.name}" if inner.is_file() else node.module or "")
    return found


def test_every_step_lists_all_modules_that_decide_its_result() -> None:
    for name, found in graph_steps(load_preset("df2")).items():
        followed: set[str] = set()
        waiting = list(found.modules)
        while waiting:
            module = waiting.pop()
            if module in followed or module in PLUMBING or module.endswith(".settings"):
                continue
            followed.add(module)
            waiting += package_imports(module)
        assert followed - set(found.modules) == set(), name


def test_a_users_mistake_fails_the_step_at_once_with_its_own_words(write: Write) -> None:
    write("prices", "price = 1\n")
    tries = []

    @asset(step())
    def total() -> None:
        tries.append(1)
        raise UserError("no price for sku 7; add one")

    result = dg.materialize([total], raise_on_error=False)
    (event,) = result.filter_events(lambda event: event.is_step_failure)
    assert event.step_failure_data.user_failure_data is not None
    assert event.step_failure_data.user_failure_data.description == "no price for sku 7; add one"
    assert len(tries) == 1


def test_a_step_computes_with_its_threads_and_tells_what_it_took(write: Write) -> None:
    write("prices", "price = 1\n")
    before, during = torch.get_num_threads(), []

    @asset(step(needs=Needs(threads=3)))
    def total() -> dg.MaterializeResult:
        during.append(torch.get_num_threads())
        return dg.MaterializeResult(metadata={"rows": 1})

    (event,) = dg.materialize([total]).get_asset_materialization_events()
    told = {name: entry.value for name, entry in event.materialization.metadata.items()}
    assert told["rows"] == 1
    assert 0 <= told["step_seconds"] < 60
    assert 50 < told["process_peak_mib"] < 30_000
    assert (during, torch.get_num_threads()) == ([3], before)


def test_the_declaration_of_a_step_holds_what_executors_need(write: Write) -> None:
    write("prices", "price = 1\n")
    arguments = step(needs=Needs(gpus=1), shards=2, deps=("annotations",)).asset_arguments()
    assert arguments["pool"] == "gpu"
    assert arguments["partitions_def"] == shard_partitions(2)
    assert arguments["deps"] == ["annotations"]
    assert arguments["retry_policy"].max_retries == 1


@pytest.mark.parametrize("shards", [1, 3, 1000])
def test_partition_keys_name_shards_in_order(shards: int) -> None:
    keys = shard_partitions(shards).get_partition_keys()
    assert [shard_number(key) for key in keys] == list(range(shards))
    assert keys == sorted(keys)
