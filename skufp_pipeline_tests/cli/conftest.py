"""The option that names the ci preset's graph."""

from pathlib import Path

import pytest

from ..graphs import Graph


@pytest.fixture
def preset(graph: Graph) -> tuple[str, Path]:
    return "--preset", graph.preset_file
