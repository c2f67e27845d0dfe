"""The programs under benchmarks/, which belong to no package."""

import importlib.util
from types import ModuleType

from ..graphs import REPOSITORY


def load_program(name: str) -> ModuleType:
    """benchmarks/`name`.py as a module."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
