"""Graphs that are materialized once and read by many tests; tests that spoil one take a copy.

Workers side by side (`pytest -n 2`) share them: the first that needs one makes it, the others wait.
"""

import os

# The machine may be shared: one thread is never far slower than two, and never far slower than alone.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A model that does not exist is looked for on the hub, and a hub that can't be reached is waited for.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from hypothesis import settings

from skufp_pipeline.presets import PACKAGED
from skufp_pipeline.store import CACHE_VARIABLE

from .graphs import SMALL, Graph, copy_graph, materialize_here, skufp, write_preset

settings.register_profile("suite", deadline=None)  # the machine may be busy
settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Copies of remote artifacts stay out of the user's cache."""
    os.environ[CACHE_VARIABLE] = str(tmp_path_factory.mktemp("cache"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of parts come first, then those of the small graph, then those of the ci preset's."""
    order = {"small_graph": 1, "graph": 2}
    items.sort(key=lambda item: max(order.get(name, 0) for name in ("", *item.fixturenames)))  # type: ignore[attr-defined]


def made_once(folders: pytest.TempPathFactory, name: str, make: Callable[[Path], Graph]) -> Graph:
    """The graph of preset `name`, where every worker of this run of the tests finds it."""
    root = folders.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, log = root / name, root / f"{name}.log"
    with FileLock(root / f"{name}.lock"):
        if not log.exists():
            log.write_text(make(folder).log)
    home = folder / ".dagster_home" / name
    return Graph(folder / f"{name}.yaml", home if home.exists() else None, log.read_text())


def materialize_ci(folder: Path) -> Graph:
    preset_file = write_preset(folder, yaml.safe_load((PACKAGED / "ci.yaml").read_text()))
    done = skufp("materialize", "--preset", preset_file.name, cwd=folder)
    assert done.returncode == 0, done.stderr
    return Graph(preset_file, folder / ".dagster_home" / "ci", done.stderr)


@pytest.fixture(scope="session")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """The ci preset, materialized by the command line in an empty folder. Read it only."""
    return made_once(tmp_path_factory, "ci", materialize_ci)


@pytest.fixture(scope="session")
def small_graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """A graph of 50 SKUs in two shards, materialized in this process. Read it only."""
    return made_once(tmp_path_factory, "small", lambda folder: materialize_here(write_preset(folder, SMALL)))


@pytest.fixture
def spoilt(small_graph: Graph, tmp_path: Path) -> Graph:
    """A copy of the small graph that a test may damage."""
    return copy_graph(small_graph, tmp_path)
