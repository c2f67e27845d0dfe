"""Ctrl-C and SIGTERM stop real processes at once, and the next run goes on from there."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import psutil
import pytest

from skufp_pipeline.artifacts.stored import Reader, Stored
from skufp_pipeline.definitions import build_defs
from skufp_pipeline.orchestration.materialize import materialize_graph
from skufp_pipeline.presets import load_preset
from skufp_pipeline.steps import Run, Step, asset

from ..graphs import Graph, command, environment, write_preset
from ..servers import wait_until
from ..test_faults import bytes_of, forget

STOPS = 5.0  # seconds


@dataclass(frozen=True)
class Ended:
    """A process after a signal: its status, its last words, what it said before, the processes it left."""

    status: int
    seconds: float
    said: str
    before: str
    left: list[psutil.Process]


def interrupt(
    words: list[str], at: str | Path, number: signal.Signals, home: Path, group: bool = False
) -> Ended:
    """Sends a signal to a process, or as a terminal does to its group, once it has said or made `at`."""
    variables = environment(DAGSTER_HOME=str(home))
    with subprocess.Popen(
        words, env=variables, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        before = ""
        if isinstance(at, Path):
            wait_until(at.exists, str(at), patience=120)
        while isinstance(at, str) and at not in before:
            line = process.stderr.readline()
            assert line, before
            before += line
        children = psutil.Process(process.pid).children(recursive=True)
        started = time.monotonic()
        (os.killpg if group else os.kill)(process.pid, number)
        said = process.stderr.read()
        status = process.wait()
        seconds = time.monotonic() - started
    _, left = psutil.wait_procs(children, timeout=2)
    return Ended(status, seconds, said, before, left)


def statuses(home: Path) -> list[dg.DagsterRunStatus]:
    """How the runs of a home have ended, the newest first."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        return [run.status for run in instance.get_runs()]


@pytest.mark.skipif(sys.platform != "linux", reason="waits for a line that a terminal's group has written")
def test_an_interrupted_graph_stops_at_once_and_goes_on_from_its_last_checkpoint(
    spoilt: Graph, tmp_path: Path
) -> None:
    expected, home = bytes_of(spoilt), tmp_path / "home"
    compute = {"compute": {"threads": 1}}  # two workers
    preset = write_preset(tmp_path, {**spoilt.preset.model_dump(mode="json"), **compute})
    words = command("materialize", "--preset", preset)
    forget(spoilt, "clip_checkpoint", None)
    for shard in range(2):
        forget(spoilt, "reid_embeddings", shard)

    training = interrupt(words, "clip: epoch 3/3", signal.SIGINT, home, group=True)
    assert training.status == 130
    sharded = interrupt(words, "embed_shards:", signal.SIGTERM, home)
    assert sharded.status == 143
    assert "clip_checkpoint: clip: resuming after epoch" in sharded.before
    for ended in (training, sharded):
        assert ended.seconds < STOPS
        assert ended.left == []
        assert ended.said.splitlines()[-1] == "interrupted; run it again: it goes on from here"
        assert "Traceback" not in ended.said
        assert "Warning" not in ended.said
    found = statuses(home)
    assert set(found) == {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED}

    lines: list[str] = []
    with dg.DagsterInstance.ephemeral() as instance:
        materialize_graph(spoilt.preset, instance, lines.append)
    speeds = "checkpoints/clip/manifest.json"  # holds images a second
    assert {**bytes_of(spoilt), speeds: ""} == {**expected, speeds: ""}


def waiting() -> dg.JobDefinition:
    """A job of two steps: one can be interrupted, the other waits for a thread that nobody can stop."""
    seconds, home = 60, Path(os.environ["DAGSTER_HOME"])

    def sleeps(run: Run) -> dg.MaterializeResult:
        """Sleeps."""
        wait_until((home / "joins").exists, "the other step", patience=seconds)
        (home / "both").touch()
        time.sleep(seconds)
        raise AssertionError

    def joins(run: Run) -> dg.MaterializeResult:
        """Waits."""
        (home / "joins").touch()
        with ThreadPoolExecutor() as pool:
            pool.submit(time.sleep, seconds)
        raise AssertionError

    preset = load_preset("ci").model_copy(update={"data_root": str(home)})
    steps = [
        asset(
            Step(
                stored=Stored(make.__name__, f"tables/{make.__name__}", Reader),
                make=make,
                stage="waiting",
                group="waiting",
                kinds={"python"},
                code=("skufp_pipeline.hashing",),
            ),
            preset,
        )
        for make in (sleeps, joins)
    ]
    job = dg.define_asset_job("waiting_job", selection=[step.key for step in steps])
    resources = dict(build_defs(preset).resources or {})
    return dg.Definitions(assets=steps, jobs=[job], resources=resources).resolve_job_def("waiting_job")


EXECUTES = """
import os
import dagster as dg
from skufp_pipeline_tests.orchestration.test_interruption import waiting
with dg.DagsterInstance.from_config(os.environ["DAGSTER_HOME"]) as instance:
    dg.execute_job(dg.reconstructable(waiting), instance, raise_on_error=False)
"""


def test_an_interrupted_run_of_dagsters_own_processes_is_canceled_and_not_retried(
    tmp_path: Path,
) -> None:
    words = [sys.executable, "-c", EXECUTES]
    ended = interrupt(words, tmp_path / "both", signal.SIGINT, tmp_path, group=True)
    assert ended.seconds < STOPS
    assert ended.left == []
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.CANCELED
        assert not instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_RESTARTED)
