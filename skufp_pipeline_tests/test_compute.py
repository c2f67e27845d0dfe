"""What an asset asks for, in the words of each executor."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dagster_k8s.job import get_user_defined_k8s_config
from dagster_ray.configs import RayExecutionConfig

from skufp_pipeline.compute import Needs, cores_available, declare


def test_a_gpu_step_asks_every_executor_for_the_same() -> None:
    declared = declare(Needs(cores=8, memory_gib=48, gpus=1))
    assert declared["pool"] == "gpu"
    assert declared["op_tags"]["dagster-k8s/config"]["container_config"]["resources"] == {
        "requests": {"cpu": "8", "memory": "48Gi"},
        "limits": {"memory": "48Gi", "nvidia.com/gpu": "1"},
    }
    ray = declared["op_tags"]["dagster-ray/config"]
    assert ray == {"num_cpus": 8, "num_gpus": 1, "memory": 48 * 2**30}


def test_the_priority_is_dagsters_own_tag() -> None:
    assert declare(Needs())["op_tags"]["dagster/priority"] == "0"
    assert declare(Needs(), priority=2)["op_tags"]["dagster/priority"] == "2"


def test_a_cpu_step_waits_in_no_pool_and_asks_for_no_gpu() -> None:
    declared = declare(Needs(cores=0.5, memory_gib=1.5))
    assert declared["pool"] is None
    resources = declared["op_tags"]["dagster-k8s/config"]["container_config"]["resources"]
    assert resources == {"requests": {"cpu": "0.5", "memory": "1.5Gi"}, "limits": {"memory": "1.5Gi"}}
    assert declared["op_tags"]["dagster-ray/config"]["num_gpus"] == 0


@pytest.mark.parametrize("gpus", [1, 2, 8])
def test_kubernetes_and_ray_get_the_same_number_of_gpus(gpus: int) -> None:
    tags = declare(Needs(gpus=gpus))["op_tags"]
    limits = tags["dagster-k8s/config"]["container_config"]["resources"]["limits"]
    assert int(limits["nvidia.com/gpu"]) == tags["dagster-ray/config"]["num_gpus"] == gpus


def test_the_executors_own_packages_read_the_same_from_the_tags() -> None:
    declared = declare(Needs(cores=8, memory_gib=48, gpus=1))["op_tags"]
    tags = {name: tag if isinstance(tag, str) else json.dumps(tag) for name, tag in declared.items()}
    pod = get_user_defined_k8s_config(tags).container_config["resources"]
    job = RayExecutionConfig.from_tags(tags)
    assert (pod["requests"]["cpu"], pod["limits"]["nvidia.com/gpu"], pod["limits"]["memory"]) == (
        "8",
        "1",
        "48Gi",
    )
    assert (job.num_cpus, job.num_gpus, job.memory) == (8, 1, 48 * 2**30)


def test_cores_are_counted_where_the_system_does_not_tell_which_may_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert 1 <= cores_available() <= (os.cpu_count() or 1)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cores_available() == (os.cpu_count() or 1)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux for the memory of this process")
def test_freed_memory_is_kept_while_asked_for_and_then_handed_back() -> None:
    code = """
import numpy as np, resource
from skufp_pipeline.compute import freed_memory_kept, _glibc

def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(16_000_000, dtype=np.float32)  # 64 MB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident() -> int:
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

assert _glibc() is not None
usual = faults()
with freed_memory_kept():
    faults()
    kept, held = faults(), resident()
print(usual, kept, held - resident())
"""
    usual, kept, returned = map(int, run_code(code).split())
    assert kept < usual / 10
    assert returned > 50_000_000


def run_code(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
