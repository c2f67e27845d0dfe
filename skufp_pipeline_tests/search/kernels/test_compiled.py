"""Where the machine code of the kernels is cached, and that a second process finds it there."""

import subprocess
import sys
from pathlib import Path

import pytest

from ...graphs import environment

PROGRAM = """
import numpy as np
from skufp_pipeline.search.kernels.threads import waited
assert waited(np.ones(1, np.int64), 0, 1)
print(waited.stats.cache_hits.total())
"""


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "NUMBA_CACHE_DIR"])
def test_a_second_process_finds_compiled_kernels_in_the_users_cache(tmp_path: Path, variable: str) -> None:
    home = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home" / ".cache")}
    given = environment(**{**home, variable: str(tmp_path / "cache")})
    if variable != "NUMBA_CACHE_DIR":
        given.pop("NUMBA_CACHE_DIR", None)

    def hits() -> str:
        command = [sys.executable, "-c", PROGRAM]
        return subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout.strip()

    assert hits() == "0"
    assert [path.name.split("-")[0] for path in (tmp_path / "cache").rglob("*.nbi")] == ["threads.waited"]
    assert hits() == "1"
