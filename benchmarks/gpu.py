"""What the graph's GPU work costs on the card at hand: correctness, speed and memory, and what would help.

    python benchmarks/gpu.py --minutes 8 --json gpu.json
    python benchmarks/gpu.py --tiny                        # proves the program on a CPU

It needs PyTorch, this repository and the packages that it names at its start; no weights, no data, no
Dagster, and not the project installed. Parts run in order of worth. Each has a limit, and what does not fit
in the minutes is skipped and named; the JSON is written after every part. `benchmarks/gpu.sh` does the rest.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
# As a CUDA image commonly has them, and what it commonly lacks; module and distribution.
COMMON = {
    "torch": "torch", "torchvision": "torchvision", "timm": "timm", "transformers": "transformers",
    "peft": "peft", "safetensors": "safetensors", "PIL": "pillow", "cv2": "opencv-python-headless",
    "numba": "numba", "numpy": "numpy", "yaml": "pyyaml", "tqdm": "tqdm", "regex": "regex",
    "fsspec": "fsspec", "filelock": "filelock", "pytest": "pytest",
}  # fmt: skip
CARRIED = {
    "diffusers": "diffusers", "open_clip": "open_clip_torch", "ftfy": "ftfy", "wcwidth": "wcwidth",
    "polars": "polars", "_polars_runtime_32": "polars-runtime-32", "pydantic": "pydantic",
    "pydantic_core": "pydantic-core", "annotated_types": "annotated-types",
    "typing_inspection": "typing-inspection", "platformdirs": "platformdirs",
}  # fmt: skip
TESTS = "skufp_pipeline_tests/cuda"


class TimeUp(BaseException):
    """A part has had its seconds; no `except Exception` on the way takes it for an error of its own."""


@dataclass(frozen=True)
class Part:
    """One measurement.

    Attributes:
        run: writes into `bench.figures`.
        seconds: after which it is stopped.
        least: seconds below which it is not begun.
    """

    name: str
    run: Callable[[Any], None]
    seconds: float
    least: float


def main() -> None:
    """Measures in order of worth until the minutes are over, and tells what was left out."""
    arguments = _arguments()
    missing = [name for module, name in (COMMON | CARRIED).items() if not importlib.util.find_spec(module)]
    print(f"beside PyTorch and its like it needs: {', '.join(CARRIED.values())}", flush=True)
    if missing:
        sys.exit(f"missing here: {', '.join(missing)}; `benchmarks/gpu.sh --pack` packs them where pip works")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.path.insert(0, str(REPOSITORY))
    deadline = time.monotonic() + 60 * arguments.minutes

    import torch
    from gpu_parts import TINY, Bench, Scale

    if not arguments.tiny and not torch.cuda.is_available():
        sys.exit("PyTorch sees no CUDA device; --tiny proves the program on a CPU")
    device = torch.device("cpu" if arguments.tiny else "cuda")
    if arguments.tiny:
        torch.set_num_threads(1)  # small products gain nothing from more, and wait for them where others work
    report: dict[str, Any] = {"machine": _machine(device), "tiny": arguments.tiny, "parts": {}}
    print(json.dumps(report["machine"]), flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        bench = Bench(device, TINY if arguments.tiny else Scale(), Path(folder), _log)
        for part in _parts(arguments.tiny):
            if not arguments.only or part.name.partition("/")[0] in arguments.only:
                report["parts"][part.name] = _measure(part, bench, deadline)
                _write(report, arguments.json)
    left_out = [name for name, part in report["parts"].items() if part["status"] != "measured"]
    print("not measured: " + (", ".join(left_out) or "nothing"))
    if any(part["status"] == "failed" for part in report["parts"].values()):
        sys.exit(1)


def _parts(tiny: bool) -> list[Part]:
    """Correctness, throughput and memory, then what would make each faster."""
    import gpu_parts as parts
    import torch

    within, compiled = parts.within, {"compiled": True}
    large, larger = (16, 4) if tiny else (1024, 8)
    listed = [
        Part("tests", run_tests, 150, 20),
        Part("clip_train", parts.clip_train, 60, 20),
        Part("embed", parts.embed, 40, 15),
        Part("lora", parts.lora, 60, 25),
        Part("views", parts.views, 60, 25),
        Part("reid_train", parts.reid_train, 40, 15),
        Part("aggregator", parts.aggregator, 40, 15),
        Part("embed/bfloat16", partial(parts.embed, change=parts.autocast), 25, 10),
        Part("lora/batch_8", partial(parts.lora, batch=larger), 40, 20),
        Part("clip_train/batch_1024", partial(parts.clip_train, batch=large), 40, 15),
        Part("views/compiled", partial(parts.views, **compiled), 100, 60),
        Part("clip_train/compiled", partial(parts.clip_train, **compiled), 80, 40),
        Part("embed/tf32", partial(parts.embed, change=parts.tf32), 25, 10),
        Part("embed/decode_on_gpu", parts.decode_on_gpu, 25, 8),
        Part("lora/checkpointing", partial(parts.lora, checkpointing=True), 40, 20),
        Part("lora/compiled", partial(parts.lora, **compiled), 100, 60),
        Part("reid_train/contiguous", within(parts.contiguous, parts.reid_train), 30, 12),
        Part("reid_train/compiled", partial(parts.reid_train, **compiled), 80, 40),
        Part("clip_train/unfused_adamw", within(parts.unfused, parts.clip_train), 30, 12),
        Part("clip_train/plain_attention", within(parts.plain_attention, parts.clip_train), 30, 12),
        Part("views/bfloat16", partial(parts.views, dtype=torch.bfloat16), 40, 20),
        Part("views/plain_attention", within(parts.plain_attention, parts.views), 60, 25),
    ]
    return [replace(part, least=0) for part in listed] if tiny else listed


def _measure(part: Part, bench: Any, deadline: float) -> dict[str, Any]:
    """The part's figures, seconds and peak memory; whether it was measured, stopped, skipped or failed."""
    import torch
    from gpu_parts import free

    left = max(0.0, deadline - time.monotonic())
    if left <= part.least:
        print(f"-- {part.name}: skipped, {left:.0f} s are left and it needs {part.least:.0f}", flush=True)
        return {"status": "skipped", "why": f"{left:.0f} s left"}
    print(f"-- {part.name} (at most {min(part.seconds, left):.0f} s)", flush=True)
    free()
    bench.figures, begin = {}, time.monotonic()
    found: dict[str, Any] = {"status": "measured"}
    try:
        with _at_most(min(part.seconds, left)):
            part.run(bench)
    except TimeUp:
        found = {"status": "stopped", "why": f"after its {min(part.seconds, left):.0f} s"}
    except Exception as error:  # one part that fails must not cost the others
        found = {"status": "failed", "why": f"{type(error).__name__}: {str(error)[:500]}"}
    found |= {"seconds": round(time.monotonic() - begin, 2), **_rounded(bench.figures)}
    if bench.device.type == "cuda":
        found["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    print(f"   {json.dumps(found)}", flush=True)
    return found


def run_tests(bench: Any) -> None:
    """Runs the tests marked `cuda` in a process of their own, on this device."""
    report = bench.folder / "tests.xml"
    environment = {**os.environ, "SKUFP_TEST_DEVICE": bench.device.type, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "-m", "cuda",
        f"--junitxml={report}", TESTS,
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment)
    try:
        code = process.wait()
    finally:
        process.kill()
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = {
        case.get("name"): found.get("message")
        for case in cases
        if (found := case.find("failure")) is not None
    }
    skipped = [case.get("name") for case in cases if case.find("skipped") is not None]
    bench.figures |= {
        "passed": len(cases) - len(failed) - len(skipped),
        "failed_tests": {name: str(message)[:300] for name, message in failed.items()},
        "skipped_tests": skipped,
    }
    if code != 0:
        raise RuntimeError(f"{len(failed)} of {len(cases)} tests failed: {', '.join(map(str, failed))}")


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raises `TimeUp` within after so many seconds."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _machine(device: Any) -> dict[str, Any]:
    import torch

    names = ("torch", "torchvision", "timm", "transformers", "diffusers", "peft", "open_clip_torch", "polars")
    found = {
        "device": device.type,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found |= {
            "card": card.name,
            "memory_gib": round(card.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
        }
    return found


def _log(line: str) -> None:
    print(f"   {line}", flush=True)


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in figures.items()
    }


def _write(report: dict[str, Any], path: Path | None) -> None:
    """Whole or not at all: a run that is cut off leaves what it has measured."""
    if path is not None:
        partial_file = path.with_name(path.name + ".partial")
        partial_file.write_text(json.dumps(report, indent=1) + "\n")
        partial_file.replace(path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="after which nothing is begun")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument(
        "--tiny", action="store_true", help="small models on the CPU: proves the program alone"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="PART", help="these parts and what would make them faster"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
