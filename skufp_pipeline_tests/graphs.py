"""Whole graphs for the tests: presets, runs of the command line and of single assets, copies to spoil."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from skufp_pipeline.definitions import build_defs, graph_steps
from skufp_pipeline.orchestration.materialize import materialize_graph
from skufp_pipeline.presets import PACKAGED, Preset, load_preset
from skufp_pipeline.steps import Step
from skufp_pipeline.store import ArtifactStore

REPOSITORY = Path(__file__).parent.parent
PRESETS = sorted(PACKAGED.glob("*.yaml"))

# As little as shows every step: half a minute less than the ci preset.
SMALL: dict[str, Any] = {
    "name": "small",
    "seed": 5,
    "shards": 2,
    "dataset": {"source": "sample", "render": {"num_skus": 50, "image_size": 48, "workers": 1}},
    "encoder": {"model": "skufp-tiny", "training": {"epochs": 3, "batch_size": 64, "cache_side": 72}},
    "extractors": {
        "reid": {
            "model": "test_resnet",
            "image_size": [48, 32],
            "dimension": 16,
            "training": {"epochs": 1, "cache_side": 56},
        },
        "autoencoder": {
            "channels": [4, 8],
            "image_size": [16, 16],
            "dimension": 8,
            "onnx": True,
            "training": {
                "epochs": 3,
                "cache_side": 16,
                "learning_rate": 0.01,
                "backbone_learning_rate": 0.01,
            },
        },
    },
    "fingerprint": {"training": {"epochs": 3}},
    "evaluation": {
        "resamples": 100,
        "latency_queries": 5,
        "grid_queries": 2,
        "thresholds": {"search_p95_ms": 10_000},  # the machine may be busy
    },
}


@dataclass(frozen=True)
class Graph:
    """A materialized graph.

    Attributes:
        preset_file: its YAML file.
        home: the DAGSTER_HOME of its runs; None where they were kept in memory.
        log: what the run told a person.
    """

    preset_file: Path
    home: Path | None
    log: str

    @property
    def preset(self) -> Preset:
        return load_preset(str(self.preset_file))

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.preset.data_root)

    @property
    def steps(self) -> dict[str, Step]:
        return graph_steps(self.preset)


def write_preset(folder: Path, preset: dict[str, Any], data_root: str | None = None) -> Path:
    """`preset` as a YAML file; unless told otherwise, its data root lies beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{preset['name']}.yaml"
    path.write_text(yaml.safe_dump({**preset, "data_root": data_root or str(folder / "data")}))
    return path


def copy_graph(graph: Graph, folder: Path) -> Graph:
    """A graph of one's own, to spoil; its files keep their times."""
    preset_file = write_preset(folder, yaml.safe_load(graph.preset_file.read_text()))
    shutil.copytree(graph.preset.data_root, folder / "data")
    return Graph(preset_file, None, graph.log)


def materialize_here(preset_file: Path) -> Graph:
    """The graph of a preset, materialized in this process, its runs kept in memory."""
    lines: list[str] = []
    with dg.DagsterInstance.ephemeral() as instance:
        materialize_graph(load_preset(str(preset_file)), instance, lines.append)
    return Graph(preset_file, None, "\n".join(lines))


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what chooses a preset or an instance."""
    kept = {name: value for name, value in os.environ.items() if name not in ("SKUFP_PRESET", "DAGSTER_HOME")}
    return {**kept, **changes}


def command(*words: str | Path) -> list[str]:
    """The command line `skufp WORDS`, for a subprocess."""
    return [sys.executable, "-m", "skufp_pipeline.cli", *map(str, words)]


def skufp(*words: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `skufp WORDS` as a user would."""
    return subprocess.run(
        command(*words), cwd=cwd, env=environment(**variables), capture_output=True, text=True, timeout=500
    )


def run_asset(preset: Preset, name: str, shard: int | None = None) -> dg.ExecuteInProcessResult:
    """Materializes one asset, with its checks, and nothing before or after it."""
    job = build_defs(preset).resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        asset_selection=[dg.AssetKey(name)],
        partition_key=None if shard is None else f"shard_{shard:04d}",
        run_config={"loggers": {"plain": {}}},
        raise_on_error=False,
    )


def failure(result: dg.ExecuteInProcessResult) -> str:
    """The message of the user's mistake that a run failed with."""
    assert not result.success
    failures = [
        event.step_failure_data for event in result.filter_events(lambda event: event.is_step_failure)
    ]
    assert len(failures) == 1
    assert failures[0].user_failure_data is not None, failures[0].error
    return failures[0].user_failure_data.description or ""


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The values that the one materialization of a run was described with."""
    assert result.success
    (event,) = result.get_asset_materialization_events()
    return {name: entry.value for name, entry in event.materialization.metadata.items()}


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    """Whether each check of a run passed, by its name."""
    return {found.check_name: found.passed for found in result.get_asset_check_evaluations()}


def digests(store: ArtifactStore) -> dict[str, str]:
    """The content digest of every complete artifact, by key."""
    manifests = [json.loads(path.read_text()) for path in Path(store.root).rglob("manifest.json")]
    return {manifest["artifact"]: manifest["digest"] for manifest in manifests}


def times_of_change(root: Path) -> dict[str, int]:
    """When each file below `root` was last written, in ns."""
    return {
        str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()
    }


def pretend_made_with(artifact: Path, name: str, digest: str) -> None:
    """Rewrites the digest of an input in an artifact's manifest."""
    path = artifact / "manifest.json"
    manifest = json.loads(path.read_text())
    assert name in manifest["recipe"]["inputs"]
    manifest["recipe"]["inputs"][name] = digest
    path.write_text(json.dumps(manifest))
