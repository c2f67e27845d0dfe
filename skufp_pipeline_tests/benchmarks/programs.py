"""The programs under benchmarks/, which belong to no package."""

import importlib.util
from pathlib import Path
from types import ModuleType

from click.testing import CliRunner, Result

from ..graphs import REPOSITORY, Graph


def load_program(name: str) -> ModuleType:
    """benchmarks/`name`.py as a module."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_on(graph: Graph, name: str, *arguments: str | Path) -> Result:
    """Runs benchmarks/`name`.py on a graph's data root and preset."""
    options = ["--data-root", graph.preset.data_root, "--preset", str(graph.preset_file)]
    return CliRunner().invoke(load_program(name).main, [*options, *map(str, arguments)])
