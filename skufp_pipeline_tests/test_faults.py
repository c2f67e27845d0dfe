"""Bad days on purpose: killed in the middle, no space left, no memory left. Afterwards, the same bytes.

A few of them run with every `make test`; `make chaos` kills every sharded asset at every moment.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import dagster as dg
import pytest

from skufp_pipeline.artifacts.stored import Reader, Stored
from skufp_pipeline.definitions import build_defs, graph_steps
from skufp_pipeline.presets import Preset, load_preset
from skufp_pipeline.steps import Run, Step, asset

from .graphs import SMALL, Graph, copy_graph, environment, metadata, run_asset

SMALL_STEPS = graph_steps(Preset.model_validate({**SMALL, "data_root": "nowhere"}))
CI_STEPS = graph_steps(load_preset("ci"))

# Dies by SIGKILL: its files written but no manifest, just before it is moved into place, just after, and
# just before an index is swapped.
DIES = """
import os, signal, sys
import skufp_pipeline.store as store
from skufp_pipeline.presets import load_preset
from skufp_pipeline_tests.graphs import run_asset

preset, name, shard, moment = sys.argv[1:]

def die(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)

def then_die(function):
    def both(*arguments):
        function(*arguments)
        die()
    return both

if moment == "files":
    store._describe = die
elif moment == "whole":
    store.ArtifactStore._publish = die
elif moment == "moved":
    store.ArtifactStore._publish = then_die(store.ArtifactStore._publish)
else:
    store.ArtifactStore.write_pointer = die
run_asset(load_preset(preset), name, int(shard) if shard else None)
"""


def bytes_of(graph: Graph) -> dict[str, str]:
    """SHA-256 of every file of a graph; what runs leave to themselves is hidden."""
    root = Path(graph.preset.data_root)
    files = [path for path in root.rglob("*") if path.is_file()]
    shown = {str(path.relative_to(root)): path for path in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in sorted(shown.items())
        if not name.startswith(".")
    }


def kill(graph: Graph, name: str, shard: int | None, moment: str) -> None:
    """Makes one result, in a process that dies at this moment."""
    words = [str(graph.preset_file), name, "" if shard is None else str(shard), moment]
    command = [sys.executable, "-c", DIES, *words]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def forget(graph: Graph, name: str, shard: int | None) -> None:
    shutil.rmtree(graph.steps[name].stored.read(graph.store, shard).path)


def require_the_same_bytes_after_a_kill(whole: Graph, folder: Path, name: str, moment: str) -> None:
    graph = copy_graph(whole, folder)
    expected = bytes_of(graph)
    forget(graph, name, 1)
    kill(graph, name, 1, moment)
    assert (graph.store.find(graph.steps[name].stored.key_in(graph.store, 1)) is None) == (moment != "moved")
    assert metadata(run_asset(graph.preset, name, 1))["computed"] == int(moment != "moved")
    assert bytes_of(graph) == expected
    assert not list((Path(graph.preset.data_root) / ".tmp").glob("*"))


@pytest.mark.parametrize("name", [name for name, step in SMALL_STEPS.items() if step.shards is not None])
def test_a_shard_killed_before_it_is_whole_ends_in_the_same_bytes(
    small_graph: Graph, tmp_path: Path, name: str
) -> None:
    require_the_same_bytes_after_a_kill(small_graph, tmp_path, name, "whole")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["files", "whole", "moved"])
@pytest.mark.parametrize("name", [name for name, step in CI_STEPS.items() if step.shards is not None])
def test_every_sharded_asset_killed_at_any_moment_ends_in_the_same_bytes(
    graph: Graph, tmp_path: Path, name: str, moment: str
) -> None:
    require_the_same_bytes_after_a_kill(graph, tmp_path, name, moment)


def test_a_kill_at_the_swap_leaves_the_old_index_in_use_and_the_next_run_publishes(spoilt: Graph) -> None:
    expected = bytes_of(spoilt)
    version = spoilt.store.read_pointer("index/fingerprints/CURRENT")
    for name in ("CURRENT", "releases.json", version or ""):
        path = Path(spoilt.preset.data_root) / "index" / "fingerprints" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    kill(spoilt, "search_index", None, "swap")
    assert spoilt.store.read_pointer("index/fingerprints/CURRENT") is None
    assert spoilt.store.find(f"index/fingerprints/{version}") is not None
    assert metadata(run_asset(spoilt.preset, "search_index"))["published"] == 1
    assert bytes_of(spoilt) == expected


FULL_DISK = """
import shutil, subprocess, sys
from pathlib import Path
from skufp_pipeline.presets import load_preset
from skufp_pipeline_tests.graphs import failure, metadata, run_asset

preset_file, disk, source = sys.argv[1:]
size = sum(path.stat().st_size // 4096 * 4 + 8 for path in Path(source).rglob("*"))
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk], check=True)
subprocess.run(["cp", "-a", f"{source}/.", disk], check=True)
preset = load_preset(preset_file).model_copy(update={"data_root": disk})
free = shutil.disk_usage(disk).free
Path(disk, "ballast").write_bytes(bytes(free - 40_960))
print(failure(run_asset(preset, "sku_crops", 1)))
Path(disk, "ballast").unlink()
subprocess.run(["mount", "-o", "remount,size=512m", disk], check=True)
print(metadata(run_asset(preset, "sku_crops", 1))["digest"])
"""
IN_A_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


def may_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        command = [*IN_A_NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", folder]
        try:
            return subprocess.run(command, capture_output=True).returncode == 0
        except OSError:
            return False


@pytest.mark.skipif(not may_mount(), reason="this machine lets nobody mount a small disk")
def test_a_shard_on_a_full_disk_is_told_and_ends_in_the_same_bytes(spoilt: Graph, tmp_path: Path) -> None:
    digest = spoilt.store.read("crops/shard_0001").digest
    forget(spoilt, "sku_crops", 1)
    disk = tmp_path / "disk"
    disk.mkdir()
    words = [str(spoilt.preset_file), str(disk), spoilt.preset.data_root]
    command = [*IN_A_NAMESPACE, sys.executable, "-c", FULL_DISK, *words]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told, found = done.stdout.splitlines()[-2:]
    assert told.startswith("disk full while writing ")
    assert str(disk) in told
    assert "shard_0001" in told
    assert found == digest


def killed_for_memory() -> dg.JobDefinition:
    """A job whose one step is killed the first time, as a kernel out of memory does."""
    stored = Stored("greedy", "tables/greedy", Reader)

    def make(run: Run) -> dg.MaterializeResult:
        """Memory."""
        tried = Path(os.environ["DAGSTER_HOME"]) / "tried"
        if not tried.exists():
            tried.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return run.done(run.produce(stored, lambda directory: {}), {})

    code = ("skufp_pipeline.hashing",)
    step = Step(stored=stored, make=make, stage="greed", group="greed", kinds={"python"}, code=code)
    preset = load_preset("ci").model_copy(update={"data_root": os.environ["DAGSTER_HOME"]})
    greedy, resources = asset(step, preset), dict(build_defs(preset).resources or {})
    job = dg.define_asset_job("greedy_job", selection=[greedy])
    return dg.Definitions(assets=[greedy], jobs=[job], resources=resources).resolve_job_def("greedy_job")


def test_a_step_that_is_killed_for_memory_is_tried_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        result = dg.execute_job(dg.reconstructable(killed_for_memory), instance)
        assert result.success
        run_id = result.run_id
        assert len(instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY)) == 1
        assert len(instance.fetch_materializations(dg.AssetKey("greedy"), limit=9).records) == 1
