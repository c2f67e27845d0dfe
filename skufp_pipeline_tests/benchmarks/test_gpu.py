"""The GPU measurement: it runs whole on a CPU, without Dagster, and one part costs no other."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from skufp_pipeline.presets import load_preset

from ..graphs import REPOSITORY
from .programs import load_program


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return load_program("gpu")


@pytest.fixture(scope="module")
def gpu_hours() -> ModuleType:
    return load_program("gpu_hours")


def run_gpu(tmp_path: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], dict]:
    """gpu.py where importing Dagster fails, and what it wrote."""
    for name in ("dagster", "onnxscript", "matplotlib", "tabulate"):
        (tmp_path / "bare" / name).mkdir(parents=True)
        (tmp_path / "bare" / name / "__init__.py").write_text(f"raise ImportError('{name} is not here')")
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--tiny", "--json", tmp_path / "gpu.json", *options],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "bare")},
        capture_output=True,
        text=True,
    )
    return done, json.loads((tmp_path / "gpu.json").read_text())


def test_every_part_is_measured_on_a_machine_without_dagster(tmp_path: Path) -> None:
    parts = ("tests", "embed", "aggregator", "lora", "views", "clip_train", "reid_train")
    done, report = run_gpu(tmp_path, "--minutes", "9", "--only", *parts)
    assert done.returncode == 0, done.stdout + done.stderr
    found = report["parts"]
    assert {name.partition("/")[0] for name in found} == set(parts)
    assert {part["status"] for part in found.values()} == {"measured"}
    assert found["tests"]["failed_tests"] == {}
    assert found["tests"]["passed"] >= 18
    for name, part in found.items():
        rates = [value for figure, value in part.items() if figure.endswith("per_second")]
        assert name == "tests" or min(rates) > 0, name


def test_without_time_left_every_part_is_skipped_and_named(tmp_path: Path) -> None:
    done, report = run_gpu(tmp_path, "--minutes", "0")
    assert {part["status"] for part in report["parts"].values()} == {"skipped"}
    assert "not measured: tests, clip_train, embed" in done.stdout


def test_a_part_that_fails_or_takes_too_long_ends_alone(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    bench = SimpleNamespace(device=torch.device("cpu"), figures={})

    def slow(bench: SimpleNamespace) -> None:
        bench.figures["done"] = 3
        try:
            time.sleep(5)
        except Exception:
            pytest.fail("the limit was taken for an error of the part's own")

    def broken(bench: SimpleNamespace) -> None:
        raise RuntimeError("no such kernel")

    deadline = time.monotonic() + 60
    stopped = gpu._measure(gpu.Part("slow", slow, 0.2, 0), bench, deadline)
    assert (stopped["status"], stopped["done"]) == ("stopped", 3)
    assert stopped["seconds"] < 2
    failed = gpu._measure(gpu.Part("broken", broken, 5, 0), bench, deadline)
    assert (failed["status"], failed["why"]) == ("failed", "RuntimeError: no such kernel")


def test_hours_are_measured_where_the_card_was_and_arithmetic_elsewhere(gpu_hours: ModuleType) -> None:
    stages = gpu_hours.stages(load_preset("df2"))
    clip = {"status": "measured", "images_per_second": 1000.0, "seconds_beside": 30.0}
    report = {"parts": {"clip_train": clip, "views": {"status": "stopped"}}}
    table = {row[0]: row[2:] for row in gpu_hours.rows(stages, report)}
    # 20 epochs of 150,000 images: 3,000 s of training and 600 s of judging and saving.
    assert table["`clip_checkpoint`"] == ["0.43", "1.00"]
    # 5,500 SKUs, 2 views, 2 strengths, 7 and 10 steps of 30 with guidance, 0.8 TFLOP each.
    assert table["`generated_views`"] == ["0.83", ""]
    assert table["all"][1] == ""
