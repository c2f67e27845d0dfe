"""`skufp doctor`: what is there, and what is damaged."""

from pathlib import Path

import pytest

from skufp_pipeline.search.bundle import current_index

from ..graphs import Graph
from .asking import ask


def test_the_doctor_finds_a_graph_well(graph: Graph, preset: tuple[str, Path]) -> None:
    result = ask("doctor", *preset)
    assert result.exit_code == 0
    states = dict(line.split(": ") for line in result.stdout.splitlines())
    assert set(graph.steps) - {"search_index"} <= {owner(graph, key) for key in states}
    assert all(state.startswith("ok (") or state.endswith("shards are there") for state in states.values())
    assert states["crops"] == f"{graph.preset.shards} shards are there"
    every = ask("doctor", *preset, "--all")
    assert every.exit_code == 0
    assert all(line.split(": ")[1].startswith("ok (") for line in every.stdout.splitlines())
    assert "crops/shard_0001: ok (" in every.stdout


def owner(graph: Graph, key: str) -> str:
    """The asset that is kept at a key."""
    return next((name for name, step in graph.steps.items() if step.stored.key == key), "")


@pytest.mark.parametrize(
    ("key", "files"),
    [
        ("checkpoints/clip", "*.safetensors"),
        ("checkpoints/fingerprint", "*.safetensors"),
        ("checkpoints/image_encoder_onnx", "*.onnx"),
        ("index", "segment_0000/fingerprints.npy"),
        ("index", "segment_0000/skus.arrow"),
        ("index", "index.json"),
    ],
)
def test_the_doctor_names_a_damaged_file(spoilt: Graph, key: str, files: str) -> None:
    artifact = current_index(spoilt.store)[0] if key == "index" else spoilt.store.read(key)
    key, victim = artifact.manifest.artifact, next(artifact.path.glob(f"**/{files}"))
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    result = ask("doctor", "--preset", spoilt.preset_file)
    assert result.exit_code == 1
    assert f"{key}: DAMAGED" in result.stdout
    (line,) = result.stderr.splitlines()
    assert victim.name in line
    assert "delete the folder and materialize it again" in line
