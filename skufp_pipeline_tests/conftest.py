"""Graphs that are materialized once and read by many tests; tests that spoil one take a copy."""

import os

# The machine may be shared: one thread is never far slower than two, and never far slower than alone.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A model that does not exist is looked for on the hub, and a hub that can't be reached is waited for.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest
import yaml

from skufp_pipeline.presets import PACKAGED

from .graphs import SMALL, Graph, copy_graph, materialize_here, skufp, write_preset


@pytest.fixture(scope="session")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """The ci preset, materialized by the command line in an empty folder. Read it only."""
    folder = tmp_path_factory.mktemp("ci")
    preset_file = write_preset(folder, yaml.safe_load((PACKAGED / "ci.yaml").read_text()))
    done = skufp("materialize", "--preset", preset_file.name, cwd=folder)
    assert done.returncode == 0, done.stderr
    return Graph(preset_file, folder / ".dagster_home", done.stderr)


@pytest.fixture(scope="session")
def small_graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """A graph of 50 SKUs in two shards, materialized in this process. Read it only."""
    return materialize_here(write_preset(tmp_path_factory.mktemp("small"), SMALL))


@pytest.fixture
def spoilt(small_graph: Graph, tmp_path: Path) -> Graph:
    """A copy of the small graph that a test may damage."""
    return copy_graph(small_graph, tmp_path)
