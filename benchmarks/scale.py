"""How the graph grows: seconds and peak memory of every asset at several catalogue sizes.

    python benchmarks/scale.py --skus 300 1000 --json scale.json

Each size is the rendered sample with 150 SKUs to train on, for one epoch: the encoder is as good as frozen,
and what grows is everything else. A SKU has about two images of 64 pixels (100,000 SKUs: as many as
DeepFashion2 has), a shard a thousand SKUs. There are no generated views and no report. Each asset runs in a
process of its own, shard after shard, so that its peak memory is its own. The exponent is the slope of log
seconds on log SKUs: 1 is linear. Last, Dagster's webserver is asked for what its page of assets shows, of the
runs of that size.
"""

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from skufp_pipeline.compute import cores_available

SKUS_OF_A_SHARD = 1000

RUN_ONE = """
import sys, time
from skufp_pipeline.compute import peak_memory_mib
from skufp_pipeline.definitions import build_defs
from skufp_pipeline.presets import load_preset
import dagster as dg

preset, name, *partitions = sys.argv[1:]
job = build_defs(load_preset(preset)).resolve_implicit_global_asset_job_def()
started = time.perf_counter()
with dg.DagsterInstance.get() as instance:
    for partition in partitions or [None]:
        job.execute_in_process(
            asset_selection=[dg.AssetKey(name)],
            partition_key=partition,
            run_config={"loggers": {"plain": {}}},
            instance=instance,
        )
print(time.perf_counter() - started, peak_memory_mib())
"""


ASSETS_PAGE = """{ assetNodes { assetKey { path } partitionStats { numMaterialized numPartitions }
    assetMaterializations(limit: 1) { runId } } }"""


def write_preset(folder: Path, skus: int) -> Path:
    """The rendered sample of this size, with settings whose cost does not hide what grows."""
    preset = {
        "name": "scale",
        "data_root": str(folder / "data"),
        "shards": max(1, math.ceil(skus / SKUS_OF_A_SHARD)),
        "dataset": {
            "source": "sample",
            "render": {
                "num_skus": skus,
                "image_size": 64,
                "mean_shop_views": 1.2,
                "mean_user_views": 1.2,
                "train_fraction": min(0.5, 150 / skus),
            },
        },
        "encoder": {"model": "skufp-tiny", "training": {"epochs": 1, "batch_size": 64, "cache_side": 72}},
        "fingerprint": {"training": {"epochs": 1}},
        "query_encoder": {"engine": "pytorch"},
    }
    path = folder / "scale.yaml"
    path.write_text(yaml.safe_dump(preset))
    return path


def measure(skus: int) -> dict[str, dict[str, float]]:
    """Seconds in all and peak MiB of a process, by asset."""
    from skufp_pipeline.definitions import graph_steps
    from skufp_pipeline.orchestration.staleness import in_order, places
    from skufp_pipeline.presets import load_preset
    from skufp_pipeline.store import shard_name

    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        preset = write_preset(Path(name), skus)
        variables = {**os.environ, "DAGSTER_HOME": name, "SKUFP_PRESET": str(preset)}
        Path(name, "dagster.yaml").touch()
        steps = graph_steps(load_preset(str(preset)))
        for asset in in_order(steps):
            if asset == "retrieval_report":
                continue
            shards = [place.shard for place in places(steps[asset])]
            partitions = [shard_name(shard) for shard in shards if shard is not None]
            done = subprocess.run(
                [sys.executable, "-c", RUN_ONE, str(preset), asset, *partitions],
                env=variables,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            seconds, peak = map(float, done.stdout.split()[-2:])
            found[asset] = {"seconds": round(seconds, 2), "peak_mib": round(peak)}
            print(f"{skus:>8} SKUs  {asset:<24} {seconds:8.1f} s  {peak:7.0f} MiB", flush=True)
        seconds = seconds_of_the_ui(variables)
        print(f"{skus:>8} SKUs  the UI's page of assets  {1000 * seconds:.0f} ms", flush=True)
        found["ui"] = {"seconds": round(seconds, 3)}
    return found


def seconds_of_the_ui(variables: dict[str, str]) -> float:
    """The median of five answers of Dagster's webserver."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = ["dagster_webserver", "-h", "127.0.0.1", "-p", str(port), "-m", "skufp_pipeline.definitions"]
    server = subprocess.Popen(
        [sys.executable, "-m", *command], env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    question = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        json.dumps({"query": ASSETS_PAGE}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        taken_seconds: list[float] = []
        while len(taken_seconds) < 6:  # the first loads the definitions
            started = time.perf_counter()
            try:
                with urllib.request.urlopen(question, timeout=120) as answer:
                    json.load(answer)["data"]["assetNodes"]
            except urllib.error.URLError:
                if server.poll() is not None:
                    raise
                time.sleep(0.5)
                continue
            taken_seconds.append(time.perf_counter() - started)
        return statistics.median(taken_seconds[1:])
    finally:
        server.terminate()
        server.wait()


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """The slope of log seconds on log sizes, by least squares."""
    x, y = [math.log(size) for size in sizes], [math.log(second) for second in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return slope / sum((a - mean_x) ** 2 for a in x)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--skus", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    measured = {skus: measure(skus) for skus in sorted(arguments.skus)}
    report: dict[str, Any] = {"cores": cores_available(), "sizes": measured}
    if len(measured) > 1:
        sizes = list(measured)
        report["exponents"] = {
            asset: round(exponent(sizes, [measured[size][asset]["seconds"] for size in sizes]), 2)
            for asset in measured[sizes[0]]
        }
        for asset, slope in report["exponents"].items():
            print(f"{asset:<24} grows as SKUs ^ {slope}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
