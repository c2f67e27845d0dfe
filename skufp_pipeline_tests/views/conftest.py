"""A Stable Diffusion of a few thousand parameters on the CPU, and crops of one colour each."""

import json
from pathlib import Path

import polars as pl
import pytest

from skufp_pipeline.views.pipeline import Pipeline, build_pipeline, save_pipeline

from .examples import CONFIG, CPU, catalogue, write_config


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("models") / "sd-nano.json", CONFIG)


@pytest.fixture
def pipeline(config_file: Path) -> Pipeline:
    """A random pipeline of one's own."""
    return build_pipeline(str(config_file), CPU, seed=0)


@pytest.fixture(scope="session")
def saved(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a saved random pipeline. Read it only."""
    directory = tmp_path_factory.mktemp("saved") / "pipeline"
    save_pipeline(build_pipeline(str(config_file), CPU, seed=0), directory)
    assert json.loads((directory / "model_index.json").read_text())
    return directory


@pytest.fixture
def views(tmp_path: Path) -> pl.DataFrame:
    """Two views of each of three SKUs, with the paths of their crops."""
    return catalogue(tmp_path / "crops")
